"""A WebSocket under a server that offers plain ASGI and nothing else; the test is the server."""

import asyncio
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from starlette.types import ASGIApp, Message

from tests.support.waiting import eventually


class AsgiSocket:
    """`async with AsgiSocket(app, "/ws", "user=alice") as socket:` is accepted (or refused) when the block begins.

    `block()` makes the server's `send` wait, as it does for a peer that does not read; `fail()` makes it raise.
    """

    def __init__(self, app: ASGIApp, path: str = "/ws", query: str = "", subprotocols: Sequence[str] = ()) -> None:
        self._app = app
        self._scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
            "subprotocols": list(subprotocols),
            "extensions": {},
            "state": {},
        }
        self._in: asyncio.Queue[Message] = asyncio.Queue()
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._error: Exception | None = None
        self.sent: list[Message] = []  # what the application sent, in order
        self.task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._in.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.create_task(self._run(), name="asgi-socket")
        await eventually(lambda: self.sent or self.task.done())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._may_send.set()
        self.leave()
        await asyncio.wait([self.task], timeout=2)
        if not self.task.done():
            self.task.cancel()
            await asyncio.wait([self.task])
            raise AssertionError("the application did not end after websocket.disconnect")

    def say(self, frame: dict[str, Any] | str) -> None:
        text = frame if isinstance(frame, str) else json.dumps(frame)
        self._in.put_nowait({"type": "websocket.receive", "text": text})

    def say_bytes(self, data: bytes) -> None:
        self._in.put_nowait({"type": "websocket.receive", "bytes": data})

    def leave(self, code: int = 1000) -> None:
        self._in.put_nowait({"type": "websocket.disconnect", "code": code})

    def block(self) -> None:
        self._may_send.clear()

    def unblock(self) -> None:
        self._may_send.set()

    def fail(self, error: Exception) -> None:
        self._error = error

    async def next(self, kind: str) -> dict[str, Any]:
        """Wait for a frame of this type; the first one."""
        await eventually(lambda: self.frames(kind))
        return self.frames(kind)[0]

    def frames(self, kind: str) -> list[dict[str, Any]]:
        """The frames of this type so far."""
        texts = [json.loads(message["text"]) for message in self.sent if message["type"] == "websocket.send"]
        return [frame for frame in texts if frame["type"] == kind]

    @property
    def close_code(self) -> int | None:
        codes = [message["code"] for message in self.sent if message["type"] == "websocket.close"]
        return codes[0] if codes else None

    async def _run(self) -> None:
        await self._app(self._scope, self._in.get, self._send)

    async def _send(self, message: Message) -> None:
        await self._may_send.wait()
        if self._error is not None:
            raise self._error
        self.sent.append(message)
        if message["type"] == "websocket.close":
            self.leave(message["code"])  # as a server does
