"""A WebSocket whose client agreed to permessage-deflate: messages may be compressed in both directions."""

import asyncio
import zlib
from collections import deque
from typing import Final

from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState
from websockets.protocol import Protocol as Parser
from websockets.speedups import apply_mask

from heliograph.hub.deflate import Deflater, Deflaters
from heliograph.server.compression import LARGEST_WINDOW_BITS, agreement_on_compression, inflating_extension
from heliograph.server.frame_splitter import FrameSplitter
from heliograph.server.websocket import FrameWebSocket, Sockets
from heliograph.transports.server_socket import Receiver

_TEXT, _BINARY = 0xC1, 0xC2  # the first byte of a whole message that is compressed
_TAIL: Final = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.2: what the sender has left out


class CompressedSockets(Sockets):
    """Sockets that compress for clients that offer it. The others get the same sockets as ever."""

    def __init__(
        self,
        deflaters: Deflaters,
        app: ASGIApp,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        *,
        max_bytes: int,
        ping_interval_s: float,
        ping_timeout_s: float,
    ) -> None:
        super().__init__(
            app,
            server_state,
            loop,
            max_bytes=max_bytes,
            ping_interval_s=ping_interval_s,
            ping_timeout_s=ping_timeout_s,
        )
        self._deflaters = deflaters

    def _new_socket(self, transport: asyncio.Transport, scope: Scope) -> tuple[FrameWebSocket, bytes | None]:
        agreement = agreement_on_compression(scope["headers"])
        if agreement is None:
            return super()._new_socket(transport, scope)
        socket = CompressedWebSocket(self, transport, self._deflaters.of(agreement.window_bits))
        return socket, agreement.header


class CompressedWebSocket(FrameWebSocket):
    """Inflates what its client sends.

    A few bytes may inflate to a message of the largest size, and one read from the transport may hold thousands of
    them. So a message is inflated only when the receiver is ready for it: what arrives while reading is paused waits
    as it came. No message is inflated beyond the largest size; the parser answers one that would be with 1009.
    """

    __slots__ = ("_deflater", "_is_held", "_on_hold")

    def __init__(self, sockets: Sockets, transport: asyncio.Transport, deflater: Deflater) -> None:
        super().__init__(sockets, transport)
        self._deflater = deflater
        self._is_held = False  # the receiver has paused reading
        self._on_hold: deque[str | bytes] | None = None  # texts and frames that were read meanwhile

    @property
    def deflater(self) -> Deflater | None:
        return self._deflater

    def pause_reading(self) -> None:
        self._is_held = True
        super().pause_reading()

    def resume_reading(self) -> None:
        self._is_held = False
        while self._on_hold and not self._is_held:
            self._take(self._on_hold.popleft())
        if not self._is_held:
            self._on_hold = None
            super().resume_reading()

    def _new_splitter(self, receiver: Receiver) -> FrameSplitter:
        return FrameSplitter(self._read, self._read, self._sockets.max_bytes)

    def _new_parser(self) -> Parser:
        parser = super()._new_parser()
        parser.extensions = [inflating_extension()]
        return parser

    def _read(self, part: str | bytes) -> None:
        if not self._is_held:
            self._take(part)
            return
        if self._on_hold is None:
            self._on_hold = deque()
        self._on_hold.append(part)

    def _take(self, part: str | bytes) -> None:
        """Take a text that was not compressed, or any other frame."""
        receiver = self._receiver
        if isinstance(part, str):
            if receiver is not None:
                receiver.receive_text(part)
            return
        if part[0] not in (_TEXT, _BINARY) or self._parser is not None or receiver is None:
            self._receive_frame(part)
            return
        # Most messages of clients that compress are in one frame; the parser takes five times as long for it. It gets
        # those that are wrong in any way, and knows what is.
        data = _inflate(part, self._sockets.max_bytes)
        if data is None:
            self._receive_frame(part)
        elif part[0] == _BINARY:
            receiver.receive_binary(data)
        else:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                self._receive_frame(part)
            else:
                receiver.receive_text(text)


def _inflate(frame: bytes, max_bytes: int) -> bytes | None:
    """Return the inflated payload of a masked frame; None if the frame or its payload is invalid or too large."""
    length = frame[1] - 0x80
    start = 6 if length < 126 else 8 if length == 126 else 14
    if length < 0 or len(frame) < start:
        return None
    if length > 125:
        length = int.from_bytes(frame[2 : start - 4])
    if length != len(frame) - start:
        return None  # larger than what is accepted, and only its beginning
    payload = apply_mask(frame[start:], frame[start - 4 : start])
    inflater = zlib.decompressobj(-LARGEST_WINDOW_BITS)
    try:
        data = inflater.decompress(payload + _TAIL, max_bytes + 1)
    except zlib.error:
        return None
    return data if len(data) <= max_bytes else None
