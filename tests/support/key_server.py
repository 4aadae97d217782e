"""An HTTP server that publishes a key set, as an identity provider does, and can fail in every way that one can."""

import asyncio
import json
from types import TracebackType
from typing import Any, Self


class KeyServer:
    """`async with KeyServer({"keys": […]}) as server:` answers at `server.url`; the attributes may be changed."""

    def __init__(self, document: Any) -> None:
        self.body: bytes = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.status = 200
        self.headers = ""
        self.requests = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    def publish(self, *keys: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": keys}).encode()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            await self.may_answer.wait()
            head = (
                f"HTTP/1.1 {self.status} x\r\nContent-Length: {len(self.body)}\r\n{self.headers}Connection: close\r\n"
            )
            writer.write(head.encode() + b"\r\n" + self.body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)
