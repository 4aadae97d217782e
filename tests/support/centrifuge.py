"""A WebSocket client that speaks the protocol of Centrifuge SDKs in JSON, frame by frame."""

import asyncio
import itertools
import json
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect


class CentrifugeClient:
    """`async with CentrifugeClient(url, user="alice") as alice:` is connected when the block begins.

    `connect`: fields of its `connect`; None: it does not connect. Replies and pushes that nobody asked for are kept.
    `pongs=False`: it does not answer the server's pings.
    """

    def __init__(
        self,
        base_url: str,
        *,
        user: str | None = None,
        connect: dict[str, Any] | None = {},  # noqa: B006 - not changed
        query: str = "",
        pongs: bool = True,
        headers: dict[str, str] | None = None,
    ) -> None:
        self._url = f"{base_url.replace('http', 'ws', 1)}/connection/websocket{query}"
        self._connect = connect if user is None or connect is None else {"data": {"user": user}, **connect}
        self._pongs = pongs
        self._headers = headers
        self._ids = itertools.count(1)
        self._seen: list[dict[str, Any]] = []
        self.pings = 0
        self.connected: dict[str, Any] = {}
        self.socket: ClientConnection

    async def __aenter__(self) -> Self:
        self.socket = await connect(
            self._url, proxy=None, compression=None, max_queue=None, additional_headers=self._headers
        )
        if self._connect is not None:
            self.connected = await self.call("connect", **self._connect)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.close()

    async def say(self, *commands: dict[str, Any]) -> None:
        """Send commands, all in one frame."""
        await self.socket.send("\n".join(map(json.dumps, commands)))

    def command(self, method: str, /, **fields: Any) -> dict[str, Any]:
        """A command with the next id."""
        return {"id": next(self._ids), method: fields}

    async def call(self, method: str, /, **fields: Any) -> dict[str, Any]:
        """The result of a command; fails if the answer is an error."""
        command = self.command(method, **fields)
        await self.say(command)
        reply = await self.reply(command)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply[method]
        return result

    async def refused(self, method: str, /, **fields: Any) -> dict[str, Any]:
        """The error that answers a command."""
        command = self.command(method, **fields)
        await self.say(command)
        error: dict[str, Any] = (await self.reply(command))["error"]
        return error

    async def reply(self, command: dict[str, Any]) -> dict[str, Any]:
        return await self._next(lambda each: each.get("id") == command["id"])

    async def push(self, kind: str, channel: str | None = None) -> dict[str, Any]:
        """The next push of a kind, of this channel or any."""
        found = await self._next(
            lambda each: kind in each.get("push", {}) and channel in (None, each["push"]["channel"])
        )
        result: dict[str, Any] = found["push"][kind]
        return result

    async def publications(self, channel: str, count: int) -> list[Any]:
        """The data of the next `count` publications on the channel."""
        return [(await self.push("pub", channel))["data"] for _ in range(count)]

    async def settled(self) -> list[dict[str, Any]]:
        """Everything that has come and was not asked for; whatever was sent before has arrived."""
        await self.call("unsubscribe", channel="nowhere")
        return self._seen

    async def close_code(self, within_s: float = 5.0) -> int:
        """Wait until the server closes; the code it gives."""
        async with asyncio.timeout(within_s):
            await self.socket.wait_closed()
        assert self.socket.close_code is not None
        return self.socket.close_code

    async def _next(self, wanted: Any, within_s: float = 5.0) -> dict[str, Any]:
        async with asyncio.timeout(within_s):
            while True:
                for index, each in enumerate(self._seen):
                    if wanted(each):
                        return self._seen.pop(index)
                for line in (await self.socket.recv()).splitlines():
                    reply = json.loads(line)
                    if reply:
                        self._seen.append(reply)
                    else:
                        self.pings += 1
                        if self._pongs:
                            await self.socket.send("{}")
