"""Calls of one hook: over kept connections, within limits, and what a backend that fails costs."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from heliograph.errors import HookUnavailable
from heliograph.hooks.circuit import FAILURES
from heliograph.hooks.endpoint import HookEndpoint, open_endpoints
from heliograph.protocol.decision import Hook
from heliograph.settings import HookSettings
from heliograph.telemetry import HookStats
from tests.support.certificates import make_certificate
from tests.support.ports import free_port
from tests.support.site import Site
from tests.support.waiting import eventually

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """A backend without HTTP: each request is answered with what `answer` returns; None ends the connection."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = 0
        self.writer: asyncio.StreamWriter  # of the last connection
        self.requests: list[bytes] = []
        self.answer: Callable[[int], bytes | None] = lambda _: ANSWER
        self.open = asyncio.Event()
        self.open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writer = writer
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(size))
                number = len(self.requests)
                await self.open.wait()
                answer = self.answer(number)
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", made.port, backlog=4096)
    yield made
    made.open.set()
    listening.close()


@asynccontextmanager
async def endpoint(hook: Hook, url: str, **settings: Any) -> AsyncIterator[tuple[HookEndpoint, HookStats]]:
    stats: dict[str, HookStats] = {}
    given: dict[str, Any] = {"connect": "http://x/", "subscribe": "http://x/", hook.value: url, **settings}
    endpoints, close = open_endpoints(HookSettings(**given), stats, time.monotonic)
    try:
        yield endpoints[hook], stats[hook.value]
    finally:
        await close()


async def outcome(endpoint: HookEndpoint) -> str:
    try:
        return (await endpoint.call(b"{}", ())).decode()
    except HookUnavailable as error:
        return str(error).replace("the backend does not answer at the moment, try again", "unavailable")


async def test_calls_share_connections(server: Server) -> None:
    """Fails if each call opens a connection, or headers of the client or the operator do not arrive."""
    async with endpoint(Hook.RPC, server.url + "/hook?key=1", static_headers={"X-Key": "s3cret"}) as (rpc, stats):
        for _ in range(3):
            assert await rpc.call(b'{"a":1}', (("Cookie", "b=2"),)) == b"{}"
    assert server.connections == 1
    assert server.requests[0].startswith(b"POST /hook?key=1 HTTP/1.1\r\n")
    for line in (b"X-Key: s3cret", b"Cookie: b=2", b"Content-Type: application/json", b"Accept-Encoding: identity"):
        assert line.lower() in server.requests[0].lower()
    assert server.requests[0].endswith(b'{"a":1}')
    assert sum(stats.time.counts) == 3


async def test_what_nobody_asked_for_answers_nothing(server: Server) -> None:
    """Fails if what comes on an idle connection, perhaps an answer about another user, is taken for that to the next
    call."""
    async with endpoint(Hook.PUBLISH, server.url) as (publish, stats):
        assert await outcome(publish) == "{}"
        server.writer.write(ANSWER.replace(b"{}", b"[]"))
        assert publish._http.session.connector is not None
        [kept] = publish._http.session.connector._conns.values()
        await eventually(lambda: kept[0][0].should_close)
        assert await outcome(publish) == "{}"
    assert (len(server.requests), server.connections, stats.failed) == (2, 2, 0)


@pytest.mark.parametrize(("hook", "result", "requests"), [(Hook.CONNECT, "{}", 3), (Hook.PUBLISH, "unavailable", 2)])
async def test_only_what_changes_nothing_is_asked_twice(
    server: Server, hook: Hook, result: str, requests: int
) -> None:
    """Fails if a kept connection that the backend has just ended costs a client its connection, or a message that the
    backend may have seen is shown to it again."""
    server.answer = lambda number: None if number == 2 else ANSWER
    async with endpoint(hook, server.url) as (called, _):
        assert await outcome(called) == "{}"
        assert await outcome(called) == result
    assert len(server.requests) == requests


async def test_so_many_at_once_and_so_many_that_wait(server: Server) -> None:
    """Fails if a slow backend gets more calls at once than is set, or calls wait without a limit."""
    server.open.clear()
    async with endpoint(Hook.RPC, server.url, concurrency=2, queue=3, timeout_s=5) as (rpc, stats):
        calls = [asyncio.create_task(outcome(rpc)) for _ in range(5)]
        await eventually(lambda: len(server.requests) == 2)
        assert await outcome(rpc) == "unavailable", "one too many, told at once"
        assert (stats.refused, stats.failed) == (1, 0)
        server.open.set()
        assert await asyncio.gather(*calls) == ["{}"] * 5
    assert server.connections == 2


async def test_without_a_queue_only_calls_under_way_are_admitted(server: Server) -> None:
    """Fails if a queue of 0 refuses every call, or lets one wait."""
    server.open.clear()
    async with endpoint(Hook.RPC, server.url, concurrency=1, queue=0, timeout_s=5) as (rpc, stats):
        call = asyncio.create_task(outcome(rpc))
        await eventually(lambda: len(server.requests) == 1)
        assert await outcome(rpc) == "unavailable"
        server.open.set()
        assert await call == await outcome(rpc) == "{}"
        assert (stats.refused, stats.failed) == (1, 0)


async def test_no_client_replaces_what_the_backend_knows_the_cluster_by(server: Server) -> None:
    """Fails if a header of the client comes in the place of one that the settings give, in any case."""
    async with endpoint(Hook.RPC, server.url, static_headers={"X-Key": "s3cret"}) as (rpc, _):
        await rpc.call(b"{}", (("x-key", "forged"), ("cookie", "a=1")))
    head = server.requests[0].lower()
    assert b"x-key: s3cret" in head
    assert b"cookie: a=1" in head
    assert b"forged" not in head


async def test_an_answer_that_is_no_http_puts_no_secret_into_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if the URL's password or query is logged with an error of the HTTP client, whose text has the URL."""
    server.answer = lambda _: b"HTTP/1.1 2x0 nonsense\r\n\r\n"
    async with endpoint(Hook.RPC, server.url.replace("//", "//name:word@") + "/?key=hidden") as (rpc, _):
        assert await outcome(rpc) == "unavailable"
    assert "nonsense" in caplog.text
    assert "word" not in caplog.text
    assert "hidden" not in caplog.text


async def test_a_dead_backend_is_left_alone(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Fails if 10,000 callers wait in line for a backend that hangs, each for its turn and its time-out; or it is not
    found again when it is back; or the log has a line for each, or shows a secret."""
    caplog.set_level("INFO", "heliograph")
    server.open.clear()
    url = server.url.replace("//", "//name:word@") + "/hook?key=hidden"
    async with endpoint(Hook.CONNECT, url, timeout_s=0.8, concurrency=50) as (connect, stats):
        began = time.monotonic()
        results = await asyncio.gather(*(outcome(connect) for _ in range(10_000)))
        took_s = time.monotonic() - began
        assert set(results) == {"unavailable"}
        assert took_s < 5, "most of it is the work of 10,000 tasks"
        assert 1 <= len(server.requests) <= 50 + FAILURES
        assert stats.failed >= FAILURES
        assert stats.failed + stats.refused == 10_000
        began = time.monotonic()
        assert await outcome(connect) == "unavailable"
        assert time.monotonic() - began < 0.1, "nobody waits for what is known to fail"
        server.open.set()
        await eventually(lambda: _answers(connect))
        assert await asyncio.gather(*(outcome(connect) for _ in range(20))) == ["{}"] * 20
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("heliograph.hooks")]
    assert len(lines) <= 4
    assert any("left alone" in line for line in lines)
    assert lines[-1] == "the connect hook answers again"
    assert f"{server.url}/hook" in lines[0]
    assert not any(secret in line for line in lines for secret in ("word", "hidden"))


async def _answers(endpoint: HookEndpoint) -> bool:
    return await outcome(endpoint) == "{}"


async def test_a_backend_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    """Fails if a refused connection ends in a traceback, or takes the whole time-out."""
    async with endpoint(Hook.SUBSCRIBE, f"http://127.0.0.1:{free_port()}/", timeout_s=30) as (subscribe, stats):
        assert [await outcome(subscribe) for _ in range(3)] == ["unavailable"] * 3
    assert stats.failed == 3
    assert "Connect call failed" in caplog.text


async def test_errors_of_one_request_do_not_stop_the_others(server: Server) -> None:
    """Fails if a user whose call breaks the backend's code can have it taken for dead."""
    server.answer = lambda _: b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    async with endpoint(Hook.RPC, server.url) as (rpc, _):
        assert {await outcome(rpc) for _ in range(2 * FAILURES)} == {"unavailable"}
        server.answer = lambda _: ANSWER
        assert await outcome(rpc) == "{}"


async def test_certificates_are_verified(tmp_path: Path) -> None:
    """Fails if anybody between us and the backend can answer in its place, or a private authority cannot be used."""
    tls = make_certificate(tmp_path)
    async with Site(tls) as site:
        async with endpoint(Hook.RPC, f"{site.url}/rpc") as (stranger, _):
            assert await outcome(stranger) == "unavailable"
        async with endpoint(Hook.CONNECT, f"{site.url}/connect", ca_file=tls.authority) as (connect, _):
            assert "alice" in await outcome(connect)
