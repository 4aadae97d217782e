"""A WebSocket client that speaks the plain JSON protocol."""

import asyncio
import itertools
import json
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect


class Client:
    """`async with Client(url, user="alice") as alice:` is connected when the block begins.

    `source` is the loopback address that the socket comes from. Frames that nobody asked for are kept, so that
    `next("ack")` and `next("message")` can be called in any order.
    """

    def __init__(
        self, base_url: str, *, user: str | None = None, path: str = "/ws", source: str | None = None
    ) -> None:
        self._url = f"{base_url.replace('http', 'ws', 1)}{path}"
        self._query = {} if user is None else {"user": user}
        self._source = source
        self._seen: list[dict[str, Any]] = []
        self._ids = itertools.count(1)
        self.socket: ClientConnection
        self.connected: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        from urllib.parse import urlencode

        url = f"{self._url}?{urlencode(self._query)}" if self._query else self._url
        # Without a limit on what is queued here, a client that has not read everything can close at once.
        options: dict[str, Any] = {"proxy": None, "compression": None, "max_queue": None}
        if self._source:
            options["local_addr"] = (self._source, 0)
        self.socket = await connect(url, **options)
        if self._query:
            self.connected = await self.next("connected")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.close()

    @property
    def replica(self) -> str:
        """The replica that serves this client."""
        return str(self.connected["replica"])

    async def say(self, frame: dict[str, Any] | str) -> None:
        """Send one frame, as it is."""
        await self.socket.send(frame if isinstance(frame, str) else json.dumps(frame))

    async def send(self, to: str, data: Any, **fields: Any) -> dict[str, Any]:
        """Send `data` to a user; returns the ack (or the error) that answers it."""
        request_id = next(self._ids)
        await self.say({"type": "send", "to": to, "data": data, "id": request_id, **fields})
        return await self.next("ack", "error", id=request_id)

    async def next(self, *types: str, within_s: float = 15.0, **fields: Any) -> dict[str, Any]:
        """The next frame of one of these types that has these fields."""

        def wanted(frame: dict[str, Any]) -> bool:
            return frame["type"] in types and all(frame.get(key) == value for key, value in fields.items())

        async with asyncio.timeout(within_s):
            while True:
                for index, frame in enumerate(self._seen):
                    if wanted(frame):
                        return self._seen.pop(index)
                self._seen.append(json.loads(await self.socket.recv()))

    async def messages(self, count: int, within_s: float = 15.0) -> list[Any]:
        """The data of the next `count` messages."""
        return [(await self.next("message", within_s=within_s))["data"] for _ in range(count)]

    async def nothing_more(self) -> None:
        """No message is on its way: whatever was sent before has arrived, as the pong stands behind it."""
        await self.say({"type": "ping"})
        await self.next("pong")
        assert [frame for frame in self._seen if frame["type"] == "message"] == []

    async def only(self, *types: str) -> list[dict[str, Any]]:
        """What has come of these types and was not asked for yet; whatever was sent before has arrived."""
        await self.say({"type": "ping"})
        await self.next("pong")
        return [frame for frame in self._seen if frame["type"] in types]

    async def close_code(self, within_s: float = 15.0) -> int:
        """Wait until the server closes; the code it gives."""
        async with asyncio.timeout(within_s):
            await self.socket.wait_closed()
        assert self.socket.close_code is not None
        return self.socket.close_code
