"""Streamed responses on the server's own transport: no task, prepared chunks, and how they begin and end."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from heliograph.cluster.admission import Admission
from heliograph.hub.connection import Connection
from heliograph.protocol.codes import CloseCode
from heliograph.server import stream as server_stream
from heliograph.server.http import HttpProtocol
from tests.conftest import StartReplica
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually


@asynccontextmanager
async def stream_of(
    one: RunningReplica, user: str, *, head: str = "", version: str = "1.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request for a stream, as it goes over the line."""
    host, _, port = one.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /sse?user={user}&channels=news HTTP/{version}\r\nHost: {host}\r\n{head}\r\n".encode())
    try:
        yield reader, writer
    finally:
        writer.close()


def chunks(body: bytes) -> list[bytes]:
    """The chunks of a whole body. Raises ValueError if they are not as they should be."""
    found: list[bytes] = []
    while True:
        size, _, rest = body.partition(b"\r\n")
        data, end, body = rest[: int(size, 16)], rest[int(size, 16) :][:2], rest[int(size, 16) + 2 :]
        if end != b"\r\n":
            raise ValueError(rest)
        if not data:
            return found
        found.append(data)


async def test_its_bytes_are_whole_chunks_and_it_ends_with_the_last(start_replica: StartReplica) -> None:
    """Fails if a proxy cannot tell a stream's end from a cut, or finds a chunk that is not one."""
    one = await start_replica(redis_url=None)
    async with stream_of(one, "alice") as (reader, _):
        await eventually(lambda: len(one.replica.hub.subscribers("news")) == 1)
        for number in range(20):
            await one.replica.manager.publish("news", {"number": number, "text": "x" * (number * 100)})
        await eventually(lambda: one.replica.hub.connections == 1)
        [connection] = list(one.replica.hub)
        connection.close(CloseCode.SHUTDOWN, "moved")
        async with asyncio.timeout(5):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    fields = head.lower().split(b"\r\n")
    assert fields[0] == b"http/1.1 200 ok"
    assert {b"transfer-encoding: chunked", b"connection: close", b"x-content-type-options: nosniff"} <= set(fields)
    text = b"".join(chunks(body))
    assert text.startswith(b"retry: 1000\n")
    assert text.count(b'"type":"message"') == 20
    assert text.endswith(b'data: {"type":"disconnect","code":3001,"reason":"moved"}\n\n')
    await eventually(lambda: not one.server.server_state.connections)


async def test_a_quiet_one_has_no_task_and_no_request(start_replica: StartReplica) -> None:
    """Fails if a stream keeps a task, or the objects of its request, for as long as it lasts."""
    one = await start_replica(redis_url=None)
    before = asyncio.all_tasks()
    gc.collect()
    gc.disable()
    try:
        async with stream_of(one, "alice"), stream_of(one, "bob"):
            await eventually(lambda: len(one.replica.hub.subscribers("news")) == 2)
            await eventually(lambda: not asyncio.all_tasks() - before)
            assert all(
                isinstance(each, server_stream.TransportStream) for each in one.server.server_state.connections
            )
            await eventually(lambda: not one.server.server_state.tasks)
            gone = [each for each in gc.get_objects() if isinstance(each, HttpProtocol | RequestResponseCycle)]
            assert not gone, "they wait for the garbage collector, which comes late"
    finally:
        gc.enable()
    await eventually(lambda: one.replica.hub.connections == 0)


async def test_what_follows_the_request_is_limited(start_replica: StartReplica) -> None:
    """Fails if a client can send without end beside its stream, or a little of it ends the stream."""
    one = await start_replica(redis_url=None)
    async with stream_of(one, "alice") as (_, writer):
        writer.write(b"GET /sse?user=alice HTTP/1.1\r\nHost: localhost\r\n\r\n")  # in a pipeline: no answer can come
        await eventually(lambda: one.replica.hub.connections == 1)
        writer.write(b"x" * 1000)
        await asyncio.sleep(0.05)
        assert one.replica.hub.connections == 1
        writer.write(b"x" * server_stream.MOST_READ_BYTES)
        await eventually(lambda: one.replica.hub.connections == 0)
        await eventually(lambda: not one.server.server_state.connections)


@asynccontextmanager
async def stalled(one: RunningReplica) -> AsyncIterator[socket.socket]:
    """A stream of a client that reads nothing, when the replica has noticed that."""
    host, _, port = one.url.removeprefix("http://").partition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (host, int(port)))
        await loop.sock_sendall(
            client, f"GET /sse?user=alice&channels=news HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        )
        await eventually(lambda: len(one.replica.hub.subscribers("news")) == 1)
        [connection] = list(one.replica.hub)
        while not connection.outbox._paused:
            await one.replica.manager.publish("news", "x" * 50_000)
        yield client


async def test_one_that_closed_its_side_and_does_not_read(start_replica: StartReplica) -> None:
    """Fails if such a client, whose end is not seen as long as bytes wait for it, keeps its connection for ever."""
    one = await start_replica(redis_url=None, limits={"outbox_bytes": 65_536})
    async with stalled(one) as client:
        client.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.05)
        for _ in range(3):
            await one.replica.manager.publish("news", "x" * 50_000)
        await eventually(lambda: not one.server.server_state.connections)
    assert one.replica.hub.connections == 0


@pytest.mark.parametrize("closes_its_side", [False, True])
async def test_one_that_does_not_read_when_nothing_more_comes(
    start_replica: StartReplica, closes_its_side: bool
) -> None:
    """Fails if such a client stays online for as long as nothing fills its outbox."""
    one = await start_replica(redis_url=None, limits={"body_timeout_s": 60 if closes_its_side else 0.4})
    async with stalled(one) as client:
        if closes_its_side:
            client.shutdown(socket.SHUT_WR)
        await eventually(lambda: one.replica.hub.connections == 0)
        await eventually(lambda: not one.server.server_state.connections)


async def test_one_whose_client_leaves_before_it_begins(
    start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if a client that does not wait until it is let in is logged as a fault of ours, or stays online."""
    one = await start_replica(redis_url=None)
    enter, goes_on = Admission.connect, asyncio.Event()

    async def enter_late(self: Admission, connection: Connection) -> None:
        await goes_on.wait()
        await enter(self, connection)

    monkeypatch.setattr(Admission, "connect", enter_late)
    async with stream_of(one, "alice") as (_, writer):
        await eventually(lambda: len(one.server.server_state.tasks) == 1)
        writer.transport.abort()
        await eventually(lambda: not one.server.server_state.connections)
    goes_on.set()
    await eventually(lambda: not one.server.server_state.tasks)
    await eventually(lambda: one.replica.hub.connections == 0)
    assert "Exception" not in caplog.text


async def test_one_that_ends_before_it_has_begun(
    start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a user who is put out at that moment gets bytes before the head, or a stream that stays."""
    one = await start_replica(redis_url=None)
    enter = Admission.connect

    async def enter_and_go(self: Admission, connection: Connection) -> None:
        await enter(self, connection)
        asyncio.get_running_loop().call_soon(connection.close, CloseCode.FORCED, "out")

    monkeypatch.setattr(Admission, "connect", enter_and_go)
    async with stream_of(one, "alice") as (reader, _), asyncio.timeout(5):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"".join(chunks(body)).endswith(b'data: {"type":"disconnect","code":3503,"reason":"out"}\n\n')
    await eventually(lambda: one.replica.hub.connections == 0)


async def test_a_place_of_its_address_is_free_again(start_replica: StartReplica) -> None:
    """Fails if the connections of an address count streams that have ended, or do not count those that have not."""
    one = await start_replica(redis_url=None, limits={"connections_per_address": 2})
    for _ in range(3):
        async with stream_of(one, "alice") as (first, _), stream_of(one, "alice"):
            await eventually(lambda: one.replica.hub.connections == 2)
            async with stream_of(one, "alice") as (third, _):
                assert (await third.readline()).startswith(b"HTTP/1.1 429 ")
            assert (await first.readline()).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: one.replica.hub.connections == 0)
