"""A stream under a server that offers plain ASGI and nothing else; the test is the server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message

from heliograph.protocol.codes import CloseCode
from tests.conftest import StartReplica
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually


class Server:
    """What it was sent. `block()` makes `send` wait, as it does for a client that does not read."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.left = asyncio.Event()
        self.error: Exception | None = None

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.may_send.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [line for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        return [json.loads(line[6:]) for line in lines]


@asynccontextmanager
async def streaming(one: RunningReplica, user: str = "alice") -> AsyncIterator[tuple[Server, asyncio.Task[None]]]:
    server = Server()
    query = f"user={user}&channels=news".encode()
    scope = {"type": "http", "method": "GET", "path": "/sse", "query_string": query, "headers": []}
    task = asyncio.create_task(one.replica.app(scope, server.receive, server.send))
    try:
        await eventually(lambda: len(server.events) >= 2 or task.done())
        yield server, task
    finally:
        server.may_send.set()
        server.left.set()
        await asyncio.wait([task], timeout=2)
        assert task.done(), "the application did not end after http.disconnect"
        await eventually(lambda: one.replica.hub.count(user) == 0)


async def test_a_stream_from_its_head_to_its_end(start_replica: StartReplica) -> None:
    """Fails if a stream under another server lacks something that one under ours has."""
    one = await start_replica(redis_url=None, ping={"interval_s": 1})
    async with streaming(one) as (server, task):
        head = server.sent[0]
        assert (head["type"], head["status"]) == ("http.response.start", 200)
        names = [name for name, _ in head["headers"]]
        assert b"connection" not in names, "HTTP/2 has no such field"
        assert server.body.startswith(b"retry: 1000\n")
        await one.replica.manager.publish("news", 1)
        await eventually(lambda: server.events[-1].get("data") == 1)
        await eventually(lambda: server.body.endswith(b"\n:\n"))
        [connection] = list(one.replica.hub)
        connection.close(CloseCode.SHUTDOWN, "moved")
        await eventually(task.done)
        assert server.events[-1] == {"type": "disconnect", "code": 3001, "reason": "moved"}
        assert [message.get("more_body") for message in server.sent[-2:]] == [True, False]


async def test_clients_that_leave_or_do_not_read(
    start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a stream outlives its client, or one that does not read holds memory without end."""
    one = await start_replica(redis_url=None, limits={"outbox_bytes": 65_536})
    async with streaming(one, "leaves") as (server, task):
        server.left.set()
        await eventually(task.done)
    async with streaming(one, "fails") as (server, task):
        server.error = OSError("gone")
        await one.replica.manager.publish("news", 1)
        await eventually(task.done)
    async with streaming(one, "stalls") as (server, task), streaming(one, "reads") as (other, _):
        server.may_send.clear()
        for number in range(10):
            await one.replica.manager.publish("news", [number, "x" * 20_000])
            await eventually(lambda number=number: other.events[-1].get("data", [None])[0] == number)
        assert one.replica.telemetry.slow_closes == 1
        await eventually(task.done)
        assert one.replica.hub.count("reads") == 1
    monkeypatch.setattr("heliograph.transports.asgi_stream.STALL_S", 0.2)
    async with streaming(one, "stalls") as (server, task):
        server.may_send.clear()
        await one.replica.manager.publish("news", "the last for a long time")
        await eventually(task.done)
