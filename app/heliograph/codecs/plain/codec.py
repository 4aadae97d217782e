"""The plain JSON codec: one JSON object a text frame, `type` first (docs/protocol.md)."""

from collections.abc import Callable, Sequence
from typing import Final, get_args

import msgspec

from heliograph.codecs.plain.client_frames import ClientFrame, Emit, Head, Publish, Rpc, Send
from heliograph.codecs.plain.encoding import frame_of
from heliograph.errors import BadData, ErrorCode
from heliograph.protocol.events import Event
from heliograph.protocol.operations import Malformed, Operation, RequestId
from heliograph.protocol.publication import check_data

_WITH_DATA = (Send, Publish, Emit, Rpc)
_TYPES = tuple(str(frame.__struct_config__.tag) for frame in get_args(ClientFrame))
_read_frame: Final[Callable[[str | bytes], ClientFrame]] = msgspec.json.Decoder(ClientFrame).decode
_to_json: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode
_read_head: Final[Callable[[str | bytes], Head]] = msgspec.json.Decoder(Head).decode


class PlainCodec:
    """A `Codec`. `max_depth`: how deep arrays and objects may nest in the data of clients."""

    name = "plain"
    subprotocols = ("json", "heliograph.json")
    is_binary = False
    is_partial = False
    deltas = None

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth

    def decode(self, frame: str | bytes) -> Sequence[Operation]:
        try:
            read = _read_frame(frame)
            if isinstance(read, _WITH_DATA):
                check_data(read.data, self._max_depth)
        except (msgspec.MsgspecError, RecursionError, ValueError, BadData) as error:
            return (_explain(frame, error, self._max_depth),)
        return (read.operation(),)

    def request_ids(self, frame: str | bytes) -> Sequence[RequestId | None]:
        try:
            return (_read_head(frame).id,)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return (None,)

    def encode(self, event: Event) -> bytes:
        return _to_json(frame_of(event))

    def close_code(self, code: int) -> int:
        return code


def _explain(text: str | bytes, error: Exception, max_depth: int) -> Malformed:
    """Return what is wrong with a frame. Slower than decoding, so called only after that failed."""
    if not isinstance(error, BadData):
        try:
            value = msgspec.json.decode(text)
        except RecursionError:
            return Malformed(ErrorCode.TOO_DEEP, f"the frame is nested deeper than {max_depth} levels")
        except (msgspec.MsgspecError, ValueError) as malformed:
            return Malformed(ErrorCode.BAD_JSON, f"the frame is not valid JSON: {malformed}")
        if not isinstance(value, dict):
            return Malformed(ErrorCode.BAD_REQUEST, f"a frame is a JSON object, not {_kind(value)}")
    try:
        head = _read_head(text)
    except RecursionError:
        return Malformed(ErrorCode.TOO_DEEP, f"the frame is nested deeper than {max_depth} levels")
    except msgspec.MsgspecError:
        return Malformed(ErrorCode.BAD_REQUEST, "'id' is a string of at most 128 characters or a 64-bit integer")
    if isinstance(error, BadData):
        return Malformed(error.code, str(error), head.id)
    if isinstance(head.type, str) and head.type not in _TYPES:
        known = ", ".join(_TYPES)
        return Malformed(ErrorCode.UNKNOWN_TYPE, f"unknown type {head.type[:64]!r}; known are {known}", head.id)
    return Malformed(ErrorCode.BAD_REQUEST, str(error), head.id)


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
