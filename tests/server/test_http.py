"""What a replica takes for a request, how large it may be, how long it may take, and what is on which port."""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from heliograph.application import build_replica
from heliograph.server import heartbeat
from heliograph.server.heartbeat import Heartbeat
from heliograph.server.http import HttpProtocol, ServerConfig
from heliograph.server.serving import DrainingServer, build_server
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.ports import free_port
from tests.support.raw_socket import RawSocket
from tests.support.replicas import RunningReplica, settings_for
from tests.support.waiting import eventually

KEY = "a key of sixteen"
API = {"key": KEY}
BODY = json.dumps({"channel": "news", "data": {"text": "안녕"}}).encode()
LIMITS = {"header_bytes": 4096, "header_timeout_s": 0.4, "body_timeout_s": 0.4}
JAVA = Path(__file__).parent / "Post.java"
# The other tests of upgrades offer the same, written by hand.
NO_JAVA = "there is no JDK, and scripts/test installs none: it takes 270 MB"


@dataclass
class Line:
    """A TCP connection to a replica."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answered: bytes = field(default=b"")

    async def rest(self, within_s: float = 5.0) -> bytes:
        """All that the server says until it closes."""
        async with asyncio.timeout(within_s):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def drip(self, data: bytes, every_s: float = 0.05) -> None:
        """Write again and again until the server has had enough."""
        while not self.reader.at_eof():
            self.writer.write(data)
            try:
                async with asyncio.timeout(every_s):
                    self.answered += await self.reader.read(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                return


@asynccontextmanager
async def line_to(one: RunningReplica) -> AsyncIterator[Line]:
    parts = urlsplit(one.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


def post(*headers: str, body: bytes = BODY) -> bytes:
    lines = [
        "POST /api/publish HTTP/1.1",
        "Host: localhost",
        f"X-API-Key: {KEY}",
        *headers,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class TestUpgrades:
    @pytest.mark.parametrize("pieces", [1, 2, 400])
    async def test_an_unwanted_one_is_ignored(self, start_replica: StartReplica, pieces: int) -> None:
        """Fails if an upgrade to HTTP/2 swallows the body of the request that offers it, however it comes."""
        one = await start_replica(redis_url=None, api=API)
        offer = "Connection: Upgrade, close, HTTP2-Settings"
        request = post(offer, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
        step = -(-len(request) // pieces)
        async with line_to(one) as line:
            for start in range(0, len(request), step):
                line.writer.write(request[start : start + step])
                await line.writer.drain()
                await asyncio.sleep(0)
            answer = await line.rest()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"result"' in answer

    async def test_chunks_and_the_next_request_survive_it(self, start_replica: StartReplica) -> None:
        """Fails if the connection is out of step behind such a request: it stays open, and the next one counts."""
        one = await start_replica(redis_url=None, api=API)
        head = f"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n"
        head += "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n"
        chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (5, BODY[:5], len(BODY) - 5, BODY[5:])
        async with line_to(one) as line:
            line.writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
            assert (await line.reader.readuntil(b'"offset":1')).startswith(b"HTTP/1.1 200 ")
            line.writer.write(post("Connection: close"))
            assert b'"offset":2' in await line.rest()

    async def test_curl_as_it_is(self, start_replica: StartReplica) -> None:
        """Fails if `curl --http2` cannot publish."""
        one = await start_replica(redis_url=None, api=API)
        assert await curl("--http2", "-H", f"X-API-Key: {KEY}", "-d", BODY.decode(), f"{one.url}/api/publish") == 200

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("javac") is None, reason=NO_JAVA)
    async def test_java_as_it_is(self, start_replica: StartReplica) -> None:
        """Fails if Java's HttpClient, which offers HTTP/2 unless it is told not to, cannot publish."""
        one = await start_replica(redis_url=None, api=API)
        assert await java(f"{one.url}/api/publish", KEY, BODY.decode()) == 200

    async def test_a_socket_is_still_one(self, start_replica: StartReplica) -> None:
        """Fails if the upgrade that is wanted is ignored too, or one that is not of a GET is taken."""
        one = await start_replica(redis_url=None, api=API)
        async with Client(one.url, user="alice") as alice:
            await alice.send("alice", 1)
        async with RawSocket(one.url, "/ws", headers={"connection": "keep-alive"}) as two_fields:
            assert two_fields.status == 101
        async with line_to(one) as line:
            line.writer.write(post("Connection: Upgrade", "Upgrade: websocket"))
            assert (await line.rest()).startswith(b"HTTP/1.1 400 ")

    async def test_connect_is_refused(self, start_replica: StartReplica) -> None:
        """Fails if a replica is taken for a proxy, or a tunnel that nobody opened keeps its connection."""
        one = await start_replica(redis_url=None)
        async with line_to(one) as line:
            line.writer.write(b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n")
            assert (await line.rest()).startswith(b"HTTP/1.1 501 ")


class TestLimits:
    @pytest.mark.parametrize(
        "data",
        [
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 300_000,
            b"GET /health HTTP/1.1\r\n" + b"X-One: of many\r\n" * 1000,
            b"GET /health HTTP/1.1\r\n" + b"a:b\r\n" * 300 + b"\r\n",
            b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /health HTTP/1.1\r\nX-Long: " + b"a" * 5000 + b"\r\n\r\n",
            b"\r\n" * 10_000,
            b"POST /api/publish HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 300_000,
            b"POST /api/publish HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: " + b"x" * 300_000,
        ],
        ids=["one long", "many", "many short", "URL", "whole", "empty lines", "chunk extension", "trailer"],
    )
    async def test_a_head_that_is_too_large_is_not_kept(self, start_replica: StartReplica, data: bytes) -> None:
        """Fails if who sends headers (or what is kept like them) without end is listened to."""
        one = await start_replica(redis_url=None, limits={**LIMITS, "header_timeout_s": 60, "body_timeout_s": 60})
        async with line_to(one) as line:
            line.writer.write(data)
            answer = await line.rest()
        if answer:  # a reset may overtake it
            assert answer.split(b" ")[1] in (b"431", b"401", b"400"), answer
        await eventually(lambda: not one.server.server_state.connections)

    async def test_a_head_below_the_limit_passes(self, start_replica: StartReplica) -> None:
        """Fails if the limit counts more than the head: the body behind it, or what came before."""
        one = await start_replica(redis_url=None, api=API, limits=LIMITS)
        large = json.dumps({"channel": "news", "data": "x" * 200_000}).encode()
        async with line_to(one) as line:
            line.writer.write(post(f"X-Long: {'a' * 3500}", body=large) + post("Connection: close", body=large))
            assert (await line.rest()).count(b"HTTP/1.1 200 ") == 2

    @pytest.mark.parametrize(
        ("first", "drop", "status"),
        [
            (b"", b"", b""),
            (b"", b"\r\n", b""),
            (b"GET /health HTTP/1.1\r\n", b"X-Drip: 1\r\n", b"408"),
            (b"GET /health HTTP/1.1\r\nX-Long: ", b"a", b"408"),
            (
                b"POST /api/publish HTTP/1.1\r\nX-API-Key: %b\r\nContent-Length: 9999\r\n\r\n" % KEY.encode(),
                b"a",
                b"408",
            ),
            (b"POST /health HTTP/1.1\r\nContent-Length: 9999\r\n\r\n", b"a", None),
        ],
        ids=["silent", "empty lines", "headers", "one header", "body", "body that nobody reads"],
    )
    async def test_who_drips_is_cut(
        self, start_replica: StartReplica, first: bytes, drop: bytes, status: bytes | None
    ) -> None:
        """Fails if a request that never gets whole keeps its connection."""
        one = await start_replica(redis_url=None, api=API, limits=LIMITS)
        async with line_to(one) as line, asyncio.timeout(3):
            line.writer.write(first)
            await line.drip(drop)
        if status is not None:
            assert line.answered.split(b" ")[1:2] == ([status] if status else [])
        await eventually(lambda: not one.server.server_state.connections)

    async def test_who_asks_again_has_the_time_again(self, start_replica: StartReplica) -> None:
        """Fails if the time of a connection's requests is that of the connection, or a stream is cut by it."""
        one = await start_replica(redis_url=None, limits=LIMITS, ping={"interval_s": 1})
        async with line_to(one) as stream, line_to(one) as line:
            stream.writer.write(b"GET /sse?user=alice HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for _ in range(4):
                line.writer.write(b"GET /health HTTP/1.1\r\nHost:")
                await asyncio.sleep(0.2)
                line.writer.write(b" x\r\n\r\n")
                assert (await line.reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            assert not stream.reader.at_eof()
            assert b"connected" in await stream.reader.read(65536)

    async def test_a_body_has_a_time_of_its_own(self, start_replica: StartReplica) -> None:
        """Fails if a body that comes slowly is cut when the time of the headers is over."""
        one = await start_replica(redis_url=None, api=API, limits={**LIMITS, "body_timeout_s": 5})
        async with line_to(one) as line:
            head = post("Connection: close")[: -len(BODY)]
            for piece in (head, BODY[:5], BODY[5:9], BODY[9:]):
                line.writer.write(piece)
                await asyncio.sleep(0.25)
            assert (await line.rest()).startswith(b"HTTP/1.1 200 ")


class TestClientsThatDoNotRead:
    @pytest.mark.parametrize("closes_its_side", [False, True])
    async def test_they_are_cut(self, start_replica: StartReplica, closes_its_side: bool) -> None:
        """Fails if who asks and does not read holds the answers, and the connection, for as long as they like."""
        one = await start_replica(redis_url=None, limits=LIMITS)
        parts = urlsplit(one.url)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (parts.hostname, parts.port))
            connections = one.server.server_state.connections
            await eventually(lambda: len(connections) == 1)
            [protocol] = cast("set[HttpProtocol]", connections)
            answers = 0
            while not protocol.flow.write_paused:
                await loop.sock_sendall(client, b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answers += 1
                await eventually(lambda: one.server.server_state.total_requests >= answers)  # noqa: B023
            if closes_its_side:
                client.shutdown(socket.SHUT_WR)
            await eventually(lambda: not connections)
            await eventually(lambda: not one.server.server_state.tasks)

    async def test_one_that_reads_slowly_is_not_cut(self) -> None:
        """Fails if a client that goes on reading is cut, or one that reads nothing is not."""
        server = built()
        transport = Transport()
        protocol = HttpProtocol(cast("ServerConfig", server.config), server.server_state, {})
        protocol.connection_made(transport)
        protocol.pause_writing()
        for unread, is_cut in ((69_999, False), (1, False), (1, True)):
            transport.unread = unread
            protocol._stalls._look(transport)
            assert transport.is_aborted == is_cut, unread
        protocol.connection_lost(None)
        assert len(protocol._stalls._deadlines) == len(protocol._stalls._unread) == 0


class TestPaths:
    @pytest.mark.parametrize(
        "path", ["/metrics%0a", "/metrics%00", "/health%7f", "/api/publish%0A", "/%c2%85", "/a%09"]
    )
    async def test_control_characters_are_refused(self, start_replica: StartReplica, path: str) -> None:
        """Fails if a path with a line end behind it is the path without: a proxy that hides /metrics lets it pass."""
        one = await start_replica(redis_url=None)
        async with http_client(one.url) as client:
            for method in ("GET", "POST"):
                answer = await client.request(method, path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
        async with line_to(one) as line:
            handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
            line.writer.write(f"GET /ws%0a?user=a HTTP/1.1\r\nHost: localhost\r\n{handshake}{key}\r\n\r\n".encode())
            assert (await line.rest()).startswith(b"HTTP/1.1 400 ")


class TestTheInternalPort:
    async def test_what_is_not_for_clients_is_there_alone(self, start_replica: StartReplica) -> None:
        """Fails if metrics, the reasons of health, or OpenAPI are on the public port although they have their own."""
        port = free_port()
        one = await start_replica(internal={"port": port}, api=API)
        async with http_client(one.url) as outside, http_client(f"http://127.0.0.1:{port}") as inside:
            assert (await outside.get("/health")).json() == {"status": "alive"}
            assert (await outside.get("/ready")).json() == {"ready": True}
            for path in ("/metrics", "/api/openapi.json"):
                assert (await outside.get(path)).status_code == 404
                assert (await inside.get(path)).status_code == 200
            assert {"ready", "bus", "draining", "replica"} <= set((await inside.get("/ready")).json())
            assert (await inside.get("/metrics%0a")).status_code == 400
            assert (await inside.post("/api/publish", headers={"X-API-Key": KEY}, content=BODY)).status_code == 404
        await one.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    async def test_one_that_is_taken_is_said(
        self, start_replica: StartReplica, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a replica starts without its metrics, or ends without a word."""
        one = await start_replica(redis_url=None)
        settings = settings_for(internal={"port": urlsplit(one.url).port})
        server = build_server(build_replica(settings), settings, host="127.0.0.1", port=free_port(), loop="asyncio")
        with pytest.raises(SystemExit):
            await server.startup()
        assert "HELIOGRAPH_INTERNAL__PORT" in caplog.text


def built() -> DrainingServer:
    """A server that does not run."""
    settings = settings_for(limits=LIMITS)
    server = build_server(build_replica(settings), settings, host="127.0.0.1", port=free_port(), loop="asyncio")
    server.config.load()
    return server


class Transport(asyncio.Transport):
    """What a connection needs of one. `unread`: the bytes in its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = 70_000
        self.is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unread

    def close(self) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True


async def test_a_connection_begins_as_one_of_uvicorn() -> None:
    """Fails if a release of uvicorn sets something for each connection that ours, which sets it all, leaves out."""
    server, loop = built(), asyncio.get_running_loop()
    config = cast("ServerConfig", server.config)
    ours = vars(HttpProtocol(config, server.server_state, {}, loop))
    theirs = vars(HttpToolsProtocol(config, server.server_state, {}, loop))
    parser = type(theirs.pop("parser"))
    assert {name: ours[name] for name in theirs} == theirs
    assert isinstance(ours["parser"], parser)


class TestStandingStill:
    def test_what_is_read_after_it_is_doubtful_for_a_while(self) -> None:
        """Fails if what waited while the loop stood still counts as new, or a slow turn is taken for that."""
        now = 100.0
        beats = Heartbeat(lambda: now)

        def stood_still() -> bool:
            return beats.stood_still

        now += 1000
        assert not stood_still(), "it has not begun to serve"
        beats.beat()
        now += 4.9
        assert not stood_still()
        now += 0.2
        assert stood_still(), "before the next beat"
        beats.beat()
        assert stood_still()
        now += heartbeat.DOUBT_S + 0.01
        beats.beat()
        assert not stood_still()

    async def test_a_publish_that_waited_is_not_carried_out(self, start_replica: StartReplica) -> None:
        """Fails if a request whose client got a 504 long ago is carried out when the replica thaws."""
        one = await start_replica(redis_url=None, api=API)
        beats = one.server.config.heartbeat  # type: ignore[attr-defined]
        beats._last -= 60
        async with http_client(one.url) as client, Client(one.url, user="alice") as alice:
            await alice.say({"type": "subscribe", "channel": "news", "id": 1})
            await alice.next("subscribed")
            while not beats.stood_still:
                beats._last -= 60
            refused = await client.post("/api/publish", headers={"X-API-Key": KEY}, content=BODY)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/health")).status_code == 200, "nothing is done by reading"
            await alice.nothing_more()
            beats._doubtful_until = 0
            assert (await client.post("/api/publish", headers={"X-API-Key": KEY}, content=BODY)).status_code == 200


async def curl(*words: str) -> int:
    """The status that curl is answered with."""
    command = ("curl", "--silent", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}", *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    return int(output)


async def java(*words: str) -> int:
    """The status that Java's HttpClient is answered with."""
    process = await asyncio.create_subprocess_exec("java", "-Xshare:auto", str(JAVA), *words, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    return int(output)
