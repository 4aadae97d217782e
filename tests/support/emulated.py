"""A client of Centrifuge's protocol without a WebSocket: a stream of replies, and commands that are posted."""

import asyncio
import itertools
import json
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from tests.support.http import http_client

if TYPE_CHECKING:
    import httpx


class EmulatedClient:
    """`async with EmulatedClient(url, user="alice") as alice:` is connected when the block begins.

    `path`: of the stream. `posts_to`: the URL of the replica that it posts to, if that is another. `pongs=False`: it
    does not answer pings. For a client that only listens, `connect` is its whole request.
    """

    def __init__(
        self,
        base_url: str,
        path: str = "http_stream",
        *,
        user: str | None = None,
        posts_to: str = "",
        pongs: bool = True,
        query: str = "",
        **connect: Any,
    ) -> None:
        self._base_url = base_url
        self._posts_to = posts_to or base_url
        self._path = path
        self._query = query
        self._is_uni = path.startswith("uni_")
        self._connect = connect if user is None else {"data": {"user": user}, **connect}
        self._pongs = pongs
        self._ids = itertools.count(1)
        self._seen: list[dict[str, Any]] = []
        self._lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []
        self.connected: dict[str, Any] = {}
        self.response: httpx.Response
        self.posts: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        http = await self._stack.enter_async_context(http_client(self._base_url, timeout=30))
        self.posts = await self._stack.enter_async_context(http_client(self._posts_to, timeout=30))
        first = self._connect if self._is_uni else {"id": next(self._ids), "connect": self._connect}
        url, text = f"/connection/{self._path}{self._query}", json.dumps(first)
        if self._path.endswith("sse"):
            request = http.stream("GET", f"{url}{'&' if self._query else '?'}{urlencode({'cf_connect': text})}")
        else:
            request = http.stream("POST", url, content=text, headers={"Content-Type": "application/json"})
        self.response = await self._stack.enter_async_context(request)
        assert self.response.status_code == 200, await self.response.aread()
        self._tasks.append(asyncio.create_task(self._read(), name="emulated-read"))
        reply = await self._next(lambda each: "connect" in each or "error" in each or "disconnect" in _push(each))
        self.connected = reply.get("connect", reply)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def post(self, text: str, **fields: Any) -> int:
        """Post a frame to the session. Return the status."""
        body = {"session": self.connected["session"], "node": self.connected["node"], "data": text, **fields}
        return (await self.posts.post("/emulation", json=body)).status_code

    async def call(self, method: str, /, **fields: Any) -> dict[str, Any]:
        """The result of a command; fails if the answer is an error."""
        command_id = next(self._ids)
        assert await self.post(json.dumps({"id": command_id, method: fields})) == 204
        reply = await self._next(lambda each: each.get("id") == command_id)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply[method]
        return result

    async def push(self, kind: str, channel: str | None = None) -> dict[str, Any]:
        """The next push of a kind, of this channel or any."""
        found = await self._next(lambda each: kind in _push(each) and channel in (None, _push(each).get("channel")))
        result: dict[str, Any] = _push(found)[kind]
        return result

    async def publications(self, channel: str, count: int) -> list[Any]:
        """The data of the next `count` publications on the channel."""
        return [(await self.push("pub", channel))["data"] for _ in range(count)]

    async def ended(self, within_s: float = 5.0) -> None:
        """Wait until the server has ended the stream."""
        async with asyncio.timeout(within_s):
            await asyncio.wait(self._tasks[:1])

    async def _read(self) -> None:
        async for line in self.response.aiter_lines():
            text = line.removeprefix("data: ") if self._path.endswith("sse") else line
            if not text or text.startswith(("retry:", ":")):
                continue
            reply = json.loads(text)
            if reply or self._is_uni:
                self._lines.put_nowait(reply)
            elif self._pongs:
                self._tasks.append(asyncio.create_task(self.post("{}"), name="emulated-pong"))

    async def _next(self, wanted: Any, within_s: float = 5.0) -> dict[str, Any]:
        async with asyncio.timeout(within_s):
            while True:
                for index, each in enumerate(self._seen):
                    if wanted(each):
                        return self._seen.pop(index)
                self._seen.append(await self._lines.get() or {})


def _push(reply: dict[str, Any]) -> dict[str, Any]:
    """The push in a reply; what a client that only listens gets is a push itself."""
    push: dict[str, Any] = reply.get("push", reply)
    return push
