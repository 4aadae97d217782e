"""The JSON format of Centrifuge client SDKs: one JSON object a line, any number of lines a text frame."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from heliograph.codecs.centrifuge.commands import MOST_COMMANDS, Command, Head
from heliograph.codecs.centrifuge.decoding import malformed, operation_of, too_many
from heliograph.codecs.centrifuge.deltas import delta_encoders
from heliograph.codecs.centrifuge.encoding import disconnect_of, push_of, reply_of
from heliograph.codecs.centrifuge.numbers import CLOSES
from heliograph.errors import ErrorCode
from heliograph.protocol.events import Event
from heliograph.protocol.operations import Operation, RequestId
from heliograph.protocol.publication import Publication

_read_commands: Final[Callable[[str | bytes], list[Command]]] = msgspec.json.Decoder(Command).decode_lines
_to_json: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode
_read_heads: Final[Callable[[str | bytes], list[Head]]] = msgspec.json.Decoder(Head).decode_lines
_read_values: Final[Callable[[str | bytes], list[msgspec.Raw]]] = msgspec.json.Decoder(msgspec.Raw).decode_lines
_read_command: Final[Callable[[msgspec.Raw], Command]] = msgspec.json.Decoder(Command).decode


class CentrifugeJsonCodec:
    """A `Codec`. `max_depth`: how deep the data of clients may nest; `version`: the server's."""

    name = "centrifuge_json"
    subprotocols = ("centrifuge-json",)
    is_binary = False
    is_partial = True

    def __init__(self, max_depth: int, version: str) -> None:
        self._max_depth = max_depth
        self._version = version
        self.deltas = delta_encoders(self, _push, _as_string)

    def decode(self, frame: str | bytes) -> Sequence[Operation]:
        try:
            commands = _read_commands(frame)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return self._explain(frame)
        if len(commands) == 1:
            return (operation_of(commands[0], self._max_depth),)
        if not commands:
            return (malformed("the frame is empty"),)
        if len(commands) > MOST_COMMANDS:
            return (too_many(),)
        return [operation_of(command, self._max_depth) for command in commands]

    def request_ids(self, frame: str | bytes) -> Sequence[RequestId | None]:
        try:
            heads = _read_heads(frame)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return (None,)
        return [_id(head.id) for head in heads[:MOST_COMMANDS]] or (None,)

    def encode(self, event: Event) -> bytes:
        if isinstance(event, Publication):
            return _push(event)
        reply = reply_of(event, self._version)
        return b"" if reply is None else on_one_line(_to_json(reply))

    def encode_disconnect(self, code: int, reason: str) -> bytes:
        """Return the payload with which a stream ends."""
        return _to_json(disconnect_of(code, reason))

    def close_code(self, code: int) -> int:
        return CLOSES.get(code, code)

    def _explain(self, frame: str | bytes) -> list[Operation]:
        """Return the operations of a frame of which some command is wrong. Slower, so called only then."""
        try:
            values = _read_values(frame)
        except RecursionError:
            return [malformed(f"the frame is nested deeper than {self._max_depth} levels", code=ErrorCode.TOO_DEEP)]
        except (msgspec.MsgspecError, ValueError) as error:
            return [malformed(f"the frame is not valid JSON: {error}", code=ErrorCode.BAD_JSON)]
        return [self._operation(value) for value in values] if len(values) <= MOST_COMMANDS else [too_many()]

    def _operation(self, value: msgspec.Raw) -> Operation:
        try:
            return operation_of(_read_command(value), self._max_depth)
        except RecursionError:
            return malformed(f"the command is nested deeper than {self._max_depth} levels", code=ErrorCode.TOO_DEEP)
        except (msgspec.MsgspecError, ValueError) as error:
            [request_id] = self.request_ids(bytes(value)) or (None,)
            return malformed(str(error), request_id)


def _push(publication: Publication, is_difference: bool = False) -> bytes:
    return on_one_line(_to_json(push_of(publication, is_difference)))


def _as_string(text: bytes) -> msgspec.Raw:
    """Return the text as a JSON string."""
    return msgspec.Raw(_to_json(text.decode()))


def _id(found: object) -> int | None:
    """Return an id that can be repeated in an answer."""
    return found if type(found) is int and 0 < found < 2**32 else None


def on_one_line(reply: bytes) -> bytes:
    """Return a reply without line breaks, which end it. Its data may hold them between its tokens, as written."""
    return reply.replace(b"\n", b" ") if b"\n" in reply else reply
