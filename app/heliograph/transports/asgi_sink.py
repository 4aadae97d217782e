"""A WebSocket with plain ASGI, under a server that does not offer its transport."""

import asyncio
import logging
from typing import Protocol

from starlette.types import Message, Receive, Send

from heliograph.hub.outbox import Outbox
from heliograph.protocol.codes import close_reason

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 1.0  # how long the server may take for the last frames and the close
DISCONNECT: Message = {"type": "websocket.disconnect", "code": 1006}


class Reader(Protocol):
    """A `Receiver` that says when it can take more."""

    def begin(self) -> None: ...

    def receive_text(self, text: str) -> None: ...

    def receive_binary(self, data: bytes) -> None: ...

    async def idle(self) -> None: ...

    def lost(self, code: int) -> None: ...


class AsgiSink:
    """A `Sink` that awaits the server's `send` for each frame; meanwhile the outbox waits.

    After a close it reads no further, like our own server.
    """

    def __init__(self, receive: Receive, send: Send, *, is_binary: bool = False) -> None:
        self._receive = receive
        self._send = send
        self._is_binary = is_binary  # the frames are binary; otherwise text
        self._frames: list[bytes] = []
        self._close_event: tuple[int, str] | None = None
        self._work = asyncio.Event()
        self._over = asyncio.Event()  # stop reading: we have closed, or writing has failed
        self._outbox: Outbox[bytes] | None = None

    async def run(self, reader: Reader) -> None:
        """Write and read until the client has gone or the sink is closed; then write the rest."""
        writer = asyncio.create_task(self._write_loop(), name="websocket-write")
        try:
            reader.begin()
            await self._read_all(reader)
        finally:
            if self._close_event is not None:
                await asyncio.wait([writer], timeout=CLOSE_TIMEOUT_S)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def attach(self, outbox: Outbox[bytes]) -> None:
        """Set the outbox that waits while the server is busy."""
        self._outbox = outbox

    def write(self, frames: list[bytes]) -> None:
        self._frames += frames
        if self._outbox is not None:
            self._outbox.pause()
        self._work.set()

    def close(self, code: int, reason: str) -> None:
        self._close_event = (code, close_reason(reason))
        self._work.set()
        self._over.set()

    async def _read_all(self, reader: Reader) -> None:
        """Read one frame after the other, each when the reader is done with the last."""
        code = 1006
        try:
            while (message := await self._next())["type"] != "websocket.disconnect":
                if (text := message.get("text")) is not None:
                    reader.receive_text(text)
                else:
                    reader.receive_binary(message["bytes"])
                await reader.idle()
            code = message.get("code", code)
        finally:  # some servers cancel the application when the client has gone
            reader.lost(code)
        await reader.idle()

    async def _next(self) -> Message:
        """Return the next message of the client, or its end."""
        if self._over.is_set():
            return DISCONNECT
        reading = asyncio.ensure_future(self._receive())
        ending = asyncio.create_task(self._over.wait(), name="websocket-over")
        try:
            await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else DISCONNECT
        finally:
            reading.cancel()
            ending.cancel()

    async def _write_loop(self) -> None:
        try:
            while self._close_event is None or self._frames:
                await self._work.wait()
                self._work.clear()
                await self._write_all()
            code, reason = self._close_event
            await self._send({"type": "websocket.close", "code": int(code), "reason": reason})
        except (OSError, RuntimeError) as error:  # the errors of servers for a peer that has gone
            logger.debug("a connection ended during a write: %s", error)
        finally:
            self._over.set()

    async def _write_all(self) -> None:
        while self._frames:
            frames, self._frames = self._frames, []
            for frame in frames:
                if self._is_binary:
                    await self._send({"type": "websocket.send", "bytes": frame})
                else:
                    await self._send({"type": "websocket.send", "text": frame.decode()})
        if self._outbox is not None:
            self._outbox.resume()
