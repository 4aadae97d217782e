"""Polls that continue: no task while they wait, and the same answers as those that the application gives."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest

from heliograph.protocol.codes import CloseCode
from heliograph.transports.parked_polls import ParkedPolls
from heliograph.transports.poll_connection import PollConnection
from heliograph.transports.polling import PollEndpoint
from tests.conftest import StartReplica
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, OPENED, token
from tests.support.waiting import eventually

ALLOWED = "https://app.example.org"


class Line:
    """A connection over which a client polls, request by request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.cursor = ""
        self.fields: dict[str, str] = {}

    def ask(
        self, *headers: str, wait: float = 20, query: str = "user=alice&channels=news", version: str = "1.1"
    ) -> None:
        path = f"/api/poll?{query}&wait={wait:g}&cursor={quote(self.cursor, safe='')}"
        lines = [f"GET {path} HTTP/{version}", "Host: localhost", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode())

    async def answer(self) -> tuple[int, Any]:
        """The status and the body of the next answer; its events move the cursor."""
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            self.fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
            body = json.loads(await self.reader.readexactly(int(self.fields["content-length"])))
        self.cursor = body.get("cursor", self.cursor)
        return int(head[0].split(" ")[1]), body

    async def data(self) -> list[Any]:
        status, body = await self.answer()
        assert status == 200, body
        return [event["data"] for event in body["events"] if event["type"] == "message"]


@asynccontextmanager
async def line_to(one: RunningReplica) -> AsyncIterator[Line]:
    host, _, port = one.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


def waiting(one: RunningReplica) -> int:
    sinks: list[Any] = [connection.outbox._sink for connection in one.replica.hub]
    return sum(isinstance(sink, PollConnection) and sink._done is not None for sink in sinks)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries of the polls that the application has answered."""
    found: list[str] = []
    serve = PollEndpoint.serve

    async def note(self: PollEndpoint, request: Any) -> Any:
        found.append(request.url.query)
        return await serve(self, request)

    monkeypatch.setattr(PollEndpoint, "serve", note)
    return found


async def test_polls_that_wait_have_no_task(start_replica: StartReplica, served: list[str]) -> None:
    """Fails if a client that waits costs a task, its second poll needs the application, or the answers differ."""
    one = await start_replica(redis_url=None)
    async with line_to(one) as line, line_to(one) as other:
        for each in (line, other):
            each.ask()
            assert await each.data() == []
        before = {name: value for name, value in line.fields.items() if name not in ("date", "content-length")}
        assert len(served) == 2
        tasks = asyncio.all_tasks()
        for number in range(3):
            for each in (line, other):
                each.ask()
            await eventually(lambda: waiting(one) == 2)
            assert not [task for task in asyncio.all_tasks() - tasks if task is not asyncio.current_task()]
            await one.replica.manager.publish("news", number)
            for each in (line, other):
                assert await each.data() == [number]
        assert {name: value for name, value in line.fields.items() if name in before} == before
        assert len(served) == 2
        line.ask(wait=0.05)
        assert await line.data() == []
        await one.replica.manager.publish("news", "between")
        line.ask(wait=0)
        assert await line.data() == ["between"]
        assert len(served) == 2


async def test_what_is_not_as_usual_is_answered_by_the_application(
    start_replica: StartReplica, served: list[str]
) -> None:
    """Fails if a request that is wrong, or is not a plain GET, is not answered as ever."""
    one = await start_replica(redis_url=None, allowed_origins=(ALLOWED,))
    async with line_to(one) as line:
        line.ask()
        await line.data()
        del served[:]
        for headers, query, status in (
            (("Origin: https://evil.test",), "user=alice&channels=news", 403),
            (("Content-Length: 0",), "user=alice&channels=news", 200),
            (("Transfer-Encoding: chunked",), "user=alice&channels=news", None),
            ((), "user=alice&channels=news&token=x", 401),
            ((), "channels=news", 400),
            ((), "user=alice&user=alice&channels=news", 400),
            ((), "user=alice&channels=other", 200),
        ):
            count = len(served)
            line.ask(*headers, query=query, wait=0)
            if status is None:
                line.writer.write(b"0\r\n\r\n")
            assert (await line.answer())[0] == (status or 200), (headers, query)
            assert len(served) == count + (status != 403)
        line.ask(query="user=alice&channels=news", wait=99)
        assert (await line.answer())[0] == 400


async def test_pages_of_other_origins(start_replica: StartReplica, served: list[str]) -> None:
    """Fails if a page of an allowed origin cannot read the answer to its second poll."""
    one = await start_replica(redis_url=None, allowed_origins=(ALLOWED,))
    async with line_to(one) as line:
        fields = []
        for _ in range(2):
            line.ask(f"Origin: {ALLOWED}", wait=0)
            await line.data()
            fields.append(
                {name: value for name, value in line.fields.items() if name not in ("date", "content-length")}
            )
        assert fields[0] == fields[1]
        assert fields[1]["access-control-allow-origin"] == ALLOWED
        assert len(served) == 1


async def test_a_client_that_leaves_or_hurries(start_replica: StartReplica, served: list[str]) -> None:
    """Fails if a poll outlives its client, events go with it, or a second request overtakes the first one."""
    one = await start_replica(redis_url=None, poll={"linger_s": 0.3})
    async with line_to(one) as line:
        line.ask()
        await line.data()
        line.ask()
        await eventually(lambda: waiting(one) == 1)
        line.writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")  # in a pipeline
        await asyncio.sleep(0.02)
        await one.replica.manager.publish("news", 1)
        assert await line.data() == [1]
        assert (await line.answer())[1]["status"] == "alive"
        line.ask()
        await eventually(lambda: waiting(one) == 1)
        cursor = line.cursor
    await eventually(lambda: waiting(one) == 0)
    async with line_to(one) as again:
        again.cursor = cursor
        await one.replica.manager.publish("news", 2)
        again.ask()
        assert await again.data() == [2]
    assert len(served) == 1, "the same connection went on"
    await eventually(lambda: one.replica.hub.connections == 0)


async def test_ends_of_connections_are_said(start_replica: StartReplica) -> None:
    """Fails if a client that is put out, or whose replica stops, waits for nothing."""
    one = await start_replica(redis_url=None)
    async with line_to(one) as line:
        line.ask()
        await line.data()
        line.ask("Connection: close")
        await eventually(lambda: waiting(one) == 1)
        [connection] = list(one.replica.hub)
        connection.close(CloseCode.SHUTDOWN, "moved")
        assert await line.data() == [], "it asks again"
        assert line.fields["connection"] == "close"
        assert await line.reader.read() == b""
    async with line_to(one) as line:
        line.ask()
        await line.data()
        line.ask()
        await eventually(lambda: waiting(one) == 1)
        stopping = asyncio.create_task(one.stop())
        assert (await line.answer())[0] == 200
        async with asyncio.timeout(5):
            await stopping


async def test_a_poll_that_fails_leaves_no_connection_behind(
    start_replica: StartReplica,
    served: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fails if a user stays online for ever, because a poll has failed in an unexpected way."""
    one = await start_replica(redis_url=None)
    async with line_to(one) as line:
        line.ask()
        assert await line.data() == []
        with monkeypatch.context() as broken:

            def fails(*_: object) -> None:
                raise RuntimeError("broken")

            broken.setattr(ParkedPolls, "answer", fails)
            line.ask(wait=0)
            async with asyncio.timeout(5):  # the application tries it too
                assert (await line.reader.readline()).startswith(b"HTTP/1.1 500 ")
        await eventually(lambda: one.replica.hub.connections == 0)
        assert len(served) == 2
    assert "past the application failed" in caplog.text


async def test_tokens(start_replica: StartReplica, served: list[str]) -> None:
    """Fails if a poll with a token that was checked before needs the application, or one with another is let in."""
    one = await start_replica(redis_url=None, auth=JWT, namespaces=OPENED)
    bearer = f"Authorization: Bearer {token('alice')}"
    async with line_to(one) as line:
        for _ in range(3):
            line.ask(bearer, wait=0, query="channels=news")
            await line.data()
        assert len(served) == 1
        cursor = line.cursor
        for wrong in (
            (),
            ("Authorization: Bearer nonsense",),
            (f"Authorization: Bearer {token('eve')}",),
            (bearer, bearer),
        ):
            line.ask(*wrong, wait=0, query="channels=news")
            status, body = await line.answer()
            assert status == (200 if "eve" in str(body) else 401)
        line.cursor = cursor
        await one.replica.user_commands.disconnect_user("alice", block_s=60)
        await eventually(lambda: one.replica.hub.count("alice") == 0)
        line.ask(bearer, wait=0, query="channels=news")
        assert (await line.answer())[0] == 403


async def test_too_many(start_replica: StartReplica) -> None:
    """Fails if polls that continue escape the limits on requests, or count twice."""
    one = await start_replica(redis_url=None, limits={"requests_per_second_per_address": 1})
    async with line_to(one) as line:
        statuses = []
        for _ in range(7):
            line.ask(wait=0)
            statuses.append((await line.answer())[0])
        assert statuses == [200] * 5 + [429] * 2
        assert one.replica.telemetry.requests_refused == 2
