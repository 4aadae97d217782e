"""What one client, one address may take, and what it costs the others when somebody tries to take more."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from heliograph.server.websocket import MOST_CONTROL_FRAMES, READ_AFTER_CLOSE_BYTES, SMALL_BYTES
from heliograph.transports.addresses import Addresses
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.raw_socket import CONTINUATION, PING, PONG, TEXT, RawSocket
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually


def frames(payload: bytes, count: int, opcode: int = TEXT) -> bytes:
    """So many small frames, as they stand on the wire."""
    assert len(payload) < 126
    return (bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload) * count


async def pour(raw: RawSocket, wire: bytes) -> None:
    """Send all of it, as far as the other side takes it."""
    try:
        async with asyncio.timeout(0.5):
            await asyncio.get_running_loop().sock_sendall(raw.socket, wire)
    except (TimeoutError, OSError):
        pass


class TestAddresses:
    def test_what_counts_as_one(self) -> None:
        """Fails if another port is another client, one customer's IPv6 addresses are many, or two clients are one."""
        for one, other, same in (
            ("10.0.0.1", "10.0.0.1", True),
            ("10.0.0.1", "10.0.0.2", False),
            ("10.0.0.1", "::ffff:10.0.0.1", True),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
            ("unix:", "unix:", True),
        ):
            addresses = Addresses(1)
            assert addresses.enter({"client": (one, 1), "headers": []}) is not None
            assert (addresses.enter({"client": (other, 2), "headers": []}) is None) is same
        addresses = Addresses(1)
        assert addresses.enter({"client": None, "headers": []}) is not None
        assert addresses.enter({"headers": []}) is None

    def test_nothing_stays_of_who_left(self) -> None:
        """Fails if memory grows with every address that ever came."""
        addresses = Addresses(2)
        entered = [addresses.enter({"client": ("10.0.0.1", port), "headers": []}) for port in range(3)]
        assert entered == ["10.0.0.1", "10.0.0.1", None]
        for _ in range(2):
            addresses.leave("10.0.0.1")
        assert not addresses._connections

    def test_without_a_limit_nothing_is_counted(self) -> None:
        """Fails if a limit that nobody has set costs anything, or refuses."""
        addresses = Addresses(0)
        entered = [addresses.enter({"client": ("10.0.0.1", port), "headers": []}) for port in range(100)]
        assert None not in entered
        addresses.leave("")
        assert not addresses._connections

    async def test_one_too_many_is_refused_and_may_come_later(self, start_replica: StartReplica) -> None:
        """Fails if an address has more than it may, is not told why, or a place stays taken: 429."""
        one = await start_replica(redis_url=None, limits={"connections_per_address": 2})
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(Client(one.url, user="alice"))
            silent = await stack.enter_async_context(RawSocket(one.url))  # nobody knows who this is
            async with RawSocket(one.url, "/ws?user=bob") as raw:
                assert raw.status == 429
                body = await raw.body()
                assert b"one address may have 2 connections" in body
                assert b"HELIOGRAPH_LIMITS__CONNECTIONS_PER_ADDRESS" in body
            assert one.replica.telemetry.connections_refused == 1
            await stack.enter_async_context(Client(one.url, user="carol", source="127.0.1.1"))
            silent.abort()
            await eventually(lambda: _gets_in(one))
        await eventually(lambda: not _addresses(one))

    async def test_every_door_counts(self, start_replica: StartReplica) -> None:
        """Fails if a stream or a poll takes no place, can be had beyond the limit, or keeps its place."""
        one = await start_replica(redis_url=None, limits={"connections_per_address": 1})
        async with http_client(one.url) as http:
            async with http.stream("GET", "/sse?user=alice") as stream:
                assert stream.status_code == 200
                for path in ("/sse?user=bob", "/api/poll?user=bob", "/api/runs/1"):
                    refused = await http.get(path)
                    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "connection_limit")
                    assert "one address may have 1 connections" in refused.json()["error"]["message"]
            await eventually(lambda: not _addresses(one))
            assert (await http.get("/api/poll?user=bob")).status_code == 200
            assert (await http.get("/api/poll?user=bob")).status_code == 200

    async def test_behind_a_trusted_proxy_the_client_counts(self, start_replica: StartReplica) -> None:
        """Fails if everybody behind nginx is one client, or a client may say that it is another."""
        behind = await start_replica(redis_url=None, limits={"connections_per_address": 1})
        async with AsyncExitStack() as stack:
            statuses = []
            for address in ("198.51.100.1", "198.51.100.2", "198.51.100.1"):
                headers = {"X-Forwarded-For": address}
                raw = await stack.enter_async_context(RawSocket(behind.url, "/ws?user=a", headers=headers))
                statuses.append(raw.status)
            assert statuses == [101, 101, 429]
        direct = await start_replica(
            "replica-2", redis_url=None, limits={"connections_per_address": 1}, trusted_proxies="10.0.0.1"
        )
        async with AsyncExitStack() as stack:
            statuses = []
            for address in ("198.51.100.1", "198.51.100.2"):
                headers = {"X-Forwarded-For": address}
                raw = await stack.enter_async_context(RawSocket(direct.url, "/ws?user=a", headers=headers))
                statuses.append(raw.status)
            assert statuses == [101, 429]


async def _gets_in(one: RunningReplica) -> bool:
    async with RawSocket(one.url, "/ws?user=bob") as raw:
        return raw.status == 101


def _addresses(one: RunningReplica) -> Any:
    routes: list[Any] = [*one.replica.app.routes]
    [endpoint] = [route.endpoint for route in routes if getattr(route, "path", "") == "/ws"]
    return endpoint.by_address.connections._connections


class TestRate:
    async def test_who_goes_on_regardless_is_closed(self, start_replica: StartReplica) -> None:
        """Fails if a client is answered for ever, or closed although it has only been too quick for a moment."""
        one = await start_replica(redis_url=None, limits={"messages_per_second": 10, "refusals": 20})
        async with Client(one.url, user="alice") as alice:
            for number in range(25):
                await alice.say({"type": "ping", "id": number})
            for number in range(10):
                await alice.next("pong", id=number)
            for number in range(10, 25):
                assert (await alice.next("error", id=number))["code"] == "rate_limited"
            for number in range(10):
                await alice.say({"type": "ping", "id": number})
            assert await alice.close_code() == 3509
            assert "20 frames over the rate of 10" in (alice.socket.close_reason or "")
        await eventually(lambda: one.replica.hub.connections == 0)

    async def test_patience_comes_back(self, start_replica: StartReplica) -> None:
        """Fails if refusals of long ago count: a client that is too quick now and then would be closed some day."""
        one = await start_replica(redis_url=None, limits={"messages_per_second": 200, "refusals": 100})
        async with Client(one.url, user="alice") as alice:
            for wait_s in (1, 0):  # seventy are refused each time
                for _ in range(270):
                    await alice.say({"type": "ping"})
                answers = [await alice.next("pong", "error") for _ in range(270)]
                assert answers[-1]["type"] == "error"
                until = time.monotonic() + wait_s
                await eventually(lambda until=until: time.monotonic() > until)

    @pytest.mark.parametrize("opcode", [PING, PONG])
    async def test_control_frames_without_end(self, start_replica: StartReplica, opcode: int) -> None:
        """Fails if pings, which are no operations, can be sent without any limit; or some cannot be sent."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url, "/ws?user=alice") as raw:
            await pour(raw, frames(b"", int(MOST_CONTROL_FRAMES) - 10, opcode))
            await raw.say({"type": "ping"})
            await raw.next("pong")
            await pour(raw, frames(b"", 20, opcode))
            code, reason = await raw.closed()
            assert code == 3509
            assert reason.startswith("more than 10 control frames")

    @pytest.mark.parametrize("size", [0, 1, SMALL_BYTES - 1])
    async def test_small_fragments_without_end(self, start_replica: StartReplica, size: int) -> None:
        """Fails if a message of empty fragments, which no size limit ends, grows for ever, or one of crumbs costs."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url, "/ws?user=alice") as raw:
            await raw.send(TEXT, b"[", fin=False)
            await pour(raw, _wire(CONTINUATION, b" " * size, fin=False) * 200)
            code, reason = await raw.closed()
            assert code == 3509
            assert "fragments under 64 bytes" in reason

    async def test_other_fragments_are_only_limited_in_all(self, start_replica: StartReplica) -> None:
        """Fails if a client whose library cuts what it sends into pieces is closed for that."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url, "/ws?user=alice") as raw:
            await raw.send(TEXT, b'{"type":"ping","id":"x"' + b" " * SMALL_BYTES, fin=False)
            await pour(raw, _wire(CONTINUATION, b" " * SMALL_BYTES, fin=False) * 900)
            await raw.send(CONTINUATION, b"}")
            assert (await raw.next("pong"))["id"] == "x"
            for _ in range(300):
                await raw.send(TEXT, b'{"type":"ping"' + b" " * SMALL_BYTES, fin=False)
                await raw.send(CONTINUATION, b"}")
            for _ in range(300):
                await raw.next("pong")


class TestManyFramesAtOnce:
    async def test_what_comes_in_one_read_stays_whole_and_in_order(self, start_replica: StartReplica) -> None:
        """Fails if a frame that lies across two reads is lost, doubled or broken, or one waits for ever."""
        one = await start_replica(redis_url=None)
        sizes = [0, 1, 100, 4000, 60_000, 3, 20_000] * 6
        async with RawSocket(one.url, "/ws?user=alice") as raw:
            wire = b""
            for number, size in enumerate(sizes):
                payload = json.dumps({"type": "send", "to": "nobody", "data": "x" * size, "id": number}).encode()
                half = len(payload) // 2
                wire += _wire(TEXT, payload[:half], fin=False)
                if number % 3 == 0:
                    wire += frames(b"p", 1, PING)
                wire += _wire(CONTINUATION, payload[half:])
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(raw.socket, wire))
            acks = [(await raw.next("ack"))["id"] for _ in sizes]
            await sending
            assert acks == list(range(len(sizes)))

    async def test_who_was_closed_and_goes_on_is_not_listened_to(self, start_replica: StartReplica) -> None:
        """Fails if all that a closed client still sends is read, which keeps the others waiting."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url) as raw:
            await raw.say({"type": "send", "to": "bob", "data": 1})
            assert (await raw.closed())[0] == 3501
            connections: set[Any] = {*one.server.server_state.connections}
            [protocol] = connections
            await pour(raw, frames(b"{}", 2_000_000))
            assert protocol._read_after_close <= READ_AFTER_CLOSE_BYTES + 262_144
            assert not protocol.transport.is_reading()

    async def test_who_was_closed_may_finish_the_farewell(self, start_replica: StartReplica) -> None:
        """Fails if a client that answers the close frame has to wait until it is cut."""
        one = await start_replica(redis_url=None)
        async with Client(one.url) as client:
            began_at = time.monotonic()
            await client.say({"type": "send", "to": "bob", "data": "x" * 20_000})
            assert await client.close_code() == 3501
            assert time.monotonic() - began_at < 3


def _wire(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    size = len(payload)
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8)
    return head + bytes(4) + payload


class TestOthers:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "wire",
        [
            frames(b'{"type":"ping"}', 50_000),
            frames(b"1", 100_000),
            frames(b"[[[[[[[[", 50_000),
            frames(b"", 100_000, PING),
            bytes([TEXT, 0x81, 0, 0, 0, 0]) + b"[" + bytes([CONTINUATION, 0x81, 0, 0, 0, 0, 32]) * 100_000,
        ],
        ids=["operations", "nonsense", "nesting", "control frames", "crumbs"],
    )
    async def test_a_flood_does_not_keep_them_waiting(
        self, start_replica: StartReplica, wire: bytes, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Fails if one client who sends as fast as it can, and comes back when it is closed, slows the others down.

        Flood and measurement share this process, so the figures are worse than they are to others.
        """
        one = await start_replica(redis_url=None, limits={"messages_per_second": 100})

        enough = asyncio.Event()

        async def flood() -> None:
            while not enough.is_set():
                async with RawSocket(one.url, "/ws?user=mallory") as raw:
                    await pour(raw, wire)

        async with Client(one.url, user="alice") as alice:
            flooding = asyncio.create_task(flood())
            took = []
            try:
                for _ in range(40):
                    began_at = time.monotonic()
                    await alice.say({"type": "ping"})
                    await alice.next("pong", within_s=30)
                    took.append(time.monotonic() - began_at)
                    await asyncio.sleep(0.02)
            finally:
                enough.set()
                await flooding
        took.sort()
        with capsys.disabled():
            print(f"\nping while flooded: median {took[20] * 1000:.1f} ms, longest {took[-1] * 1000:.1f} ms")
        assert took[20] < 0.25
        assert took[-1] < 2
