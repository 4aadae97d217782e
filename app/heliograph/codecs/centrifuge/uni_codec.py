"""The JSON format of clients that only listen: the server sends pushes alone, the client one request to connect."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from heliograph.codecs.centrifuge.commands import Command, ConnectRequest
from heliograph.codecs.centrifuge.decoding import malformed, operation_of
from heliograph.codecs.centrifuge.encoding import disconnect_of, push_of, reply_of
from heliograph.codecs.centrifuge.json_codec import on_one_line
from heliograph.codecs.centrifuge.numbers import CLOSES
from heliograph.codecs.centrifuge.replies import Push, Reply
from heliograph.protocol.events import Connected, Event, ServerPing
from heliograph.protocol.operations import Operation, RequestId
from heliograph.protocol.publication import Publication

PING: Final = b"{}"
_read_request: Final[Callable[[str | bytes], ConnectRequest | None]] = msgspec.json.Decoder(
    ConnectRequest | None
).decode
_to_json: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode


class CentrifugeUniCodec:
    """A `Codec`. `max_depth`: as in `CentrifugeJsonCodec`; `version`: the server's.

    Every frame of a client is a request to connect: the session refuses a second one, which nobody is told. An empty
    one asks for nothing: the URL says who the client is. What goes wrong before the client is connected closes the
    connection.
    """

    name = "centrifuge_uni"
    subprotocols = ()
    is_binary = False
    is_partial = True
    deltas = None

    def __init__(self, max_depth: int, version: str) -> None:
        self._max_depth = max_depth
        self._version = version

    def decode(self, frame: str | bytes) -> Sequence[Operation]:
        try:
            request = _read_request(frame or "null")
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            return (malformed(f"the request to connect cannot be read: {error}"),)
        return (operation_of(Command(id=1, connect=request or ConnectRequest()), self._max_depth),)

    def request_ids(self, frame: str | bytes) -> Sequence[RequestId | None]:
        return (None,)

    def encode(self, event: Event) -> bytes:
        if isinstance(event, Publication):
            return on_one_line(_to_json(push_of(event).push))
        if isinstance(event, ServerPing):
            return PING
        reply = reply_of(event, self._version)
        if reply is None:
            return b""
        if not isinstance(reply, Reply):
            return on_one_line(_to_json(reply.push))
        if isinstance(event, Connected) and reply.connect is not None:
            return _to_json(Push(connect=msgspec.structs.replace(reply.connect, pong=False)))
        return b"" if reply.push is None else on_one_line(_to_json(reply.push))

    def encode_disconnect(self, code: int, reason: str) -> bytes:
        """Return the payload with which a stream ends."""
        return _to_json(disconnect_of(code, reason).push)

    def close_code(self, code: int) -> int:
        return CLOSES.get(code, code)
