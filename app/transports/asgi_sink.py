"""Writing to a WebSocket by plain ASGI, under a server that does not offer its transport."""

import asyncio

from starlette.types import Send

from app.hub.outbox import Outbox
from app.protocol.codes import CloseCode


class AsgiSink:
    """A `Sink` that awaits the server's `send` for each frame; while it does, the outbox waits.

    `run` does the writing and ends after `close`; the transport awaits it beside its reading.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._frames: list[bytes] = []
        self._farewell: tuple[CloseCode, str] | None = None
        self._work = asyncio.Event()
        self._outbox: Outbox | None = None

    def attach(self, outbox: Outbox) -> None:
        """The outbox to be held back while the server is busy."""
        self._outbox = outbox

    def write(self, frames: list[bytes]) -> None:
        self._frames += frames
        if self._outbox is not None:
            self._outbox.pause()
        self._work.set()

    def close(self, code: CloseCode, reason: str) -> None:
        self._farewell = (code, reason)
        self._work.set()

    async def run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._frames:
                frames, self._frames = self._frames, []
                for frame in frames:
                    await self._send({"type": "websocket.send", "text": frame.decode()})
            if self._farewell is not None:
                code, reason = self._farewell
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                return
            if self._outbox is not None:
                self._outbox.resume()
