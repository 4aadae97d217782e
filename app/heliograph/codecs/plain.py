"""The plain JSON codec: one JSON object a text frame, `type` first (docs/protocol.md)."""

from typing import get_args

import msgspec

from heliograph.errors import BadData, BadFrame, ErrorCode
from heliograph.protocol.operations import Emit, Operation, Publish, RequestId, Send
from heliograph.protocol.publication import check_data

_OPERATIONS = msgspec.json.Decoder(Operation)
_WITH_DATA = (Send, Publish, Emit)
_TYPES = tuple(str(operation.__struct_config__.tag) for operation in get_args(Operation))


class _Head(msgspec.Struct):
    """As much of a refused frame as is needed to answer it."""

    type: object = None
    id: RequestId | None = None


_HEAD = msgspec.json.Decoder(_Head)


class PlainCodec:
    """Text of one frame to an operation, an event to the bytes of one frame."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self.encode = msgspec.json.Encoder().encode  # an event to the bytes of one frame

    def decode(self, text: str) -> Operation:
        """Read one frame.

        Raises:
            BadFrame: with the code, a text that says what was wrong, and the frame's `id` where it has one.
        """
        try:
            operation: Operation = _OPERATIONS.decode(text)
            if isinstance(operation, _WITH_DATA):
                check_data(operation.data, self._max_depth)
        except (msgspec.MsgspecError, RecursionError, ValueError, BadData) as error:
            raise _explain(text, error, self._max_depth) from None
        return operation

    def request_id(self, text: str) -> RequestId | None:
        """The `id` of a frame that is not going to be carried out; None if there is none that can be read."""
        try:
            return _HEAD.decode(text).id
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return None


def _explain(text: str, error: Exception, max_depth: int) -> BadFrame:
    """Say what is wrong with a frame that could not be read. Slower than reading, so only done when that failed."""
    if not isinstance(error, BadData):
        try:
            value = msgspec.json.decode(text)
        except RecursionError:
            return BadFrame(ErrorCode.TOO_DEEP, f"the frame is nested deeper than {max_depth} levels")
        except (msgspec.MsgspecError, ValueError) as malformed:
            return BadFrame(ErrorCode.BAD_JSON, f"the frame is not valid JSON: {malformed}")
        if not isinstance(value, dict):
            return BadFrame(ErrorCode.BAD_REQUEST, f"a frame is a JSON object, not {_kind(value)}")
    try:
        head = _HEAD.decode(text)
    except RecursionError:
        return BadFrame(ErrorCode.TOO_DEEP, f"the frame is nested deeper than {max_depth} levels")
    except msgspec.MsgspecError:
        return BadFrame(ErrorCode.BAD_REQUEST, "'id' is a string of at most 128 characters or a 64-bit integer")
    if isinstance(error, BadData):
        return BadFrame(error.code, str(error), head.id)
    if isinstance(head.type, str) and head.type not in _TYPES:
        known = ", ".join(_TYPES)
        return BadFrame(ErrorCode.UNKNOWN_TYPE, f"unknown type {head.type[:64]!r}; known are {known}", head.id)
    return BadFrame(ErrorCode.BAD_REQUEST, str(error), head.id)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case _:
            return "an array"
