"""Clients that do not read, do not answer, or vanish: none of them holds the others."""

import asyncio
import socket
import time

import pytest

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.raw_socket import CLOSE, PING, PONG, RawSocket
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

SMALL = {"outbox_bytes": 65_536}
BLOCK = "x" * 50_000


async def flood(sender: Client, replica: RunningReplica, user: str, left: int) -> float:
    """Send to the user until they have only `left` connections; returns the longest wait for an ack."""
    longest_s = 0.0
    for number in range(400):
        started_at = time.perf_counter()
        assert (await sender.send(user, [number, BLOCK]))["type"] == "ack"
        longest_s = max(longest_s, time.perf_counter() - started_at)
        if replica.replica.hub.count(user) == left:
            return longest_s
    raise AssertionError("20 MB were sent to a client that does not read, and it is still connected")


class TestSlowClients:
    async def test_a_client_that_does_not_read_is_closed_with_3008(self, start_replica: StartReplica) -> None:
        """Fails if a client that never reads costs memory without end, slows its sender or other devices."""
        one = await start_replica(redis_url=None, limits=SMALL)
        async with (
            RawSocket(one.url, "/ws?user=bob", receive_buffer=4096) as slow,
            Client(one.url, user="bob") as fast,
            Client(one.url, user="alice") as alice,
        ):
            assert slow.status == 101
            read: list[int | str] = []

            async def read_all() -> None:
                while True:
                    read.append((await fast.messages(1))[0][0])

            reading = asyncio.create_task(read_all())
            longest_s = await flood(alice, one, "bob", left=1)
            assert longest_s < 0.5, "the sender is not slowed by a receiver that does not read"
            sent = int((await alice.send("bob", ["last", ""]))["id"])
            await eventually(lambda: read[-1:] == ["last"])
            reading.cancel()
            await asyncio.wait([reading])
            assert read[:-1] == list(range(sent - 1)), "the device that reads has every message, in order"
            assert one.replica.telemetry.slow_closes == 1
            code, reason = await slow.closed()
            assert code == 3008, "who reads after all finds out why"
            assert "did not read" in reason

    async def test_its_socket_is_cut_when_it_does_not_even_read_the_goodbye(
        self, start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if the socket of a client that never reads again stays open after it was closed."""
        monkeypatch.setattr("heliograph.server.websocket.CLOSE_TIMEOUT_S", 0.3)
        one = await start_replica(redis_url=None, limits=SMALL)
        async with (
            RawSocket(one.url, "/ws?user=bob", receive_buffer=4096),
            Client(one.url, user="alice") as alice,
        ):
            await flood(alice, one, "bob", left=0)
            sockets = one.server.server_state.connections
            await eventually(lambda: len(sockets) == 1, within_s=2)
            assert (await alice.send("bob", 1))["delivery"] == "stored"

    @pytest.mark.parametrize("says_goodbye", [False, True])
    async def test_one_that_ends_its_side_and_reads_nothing_is_cut_too(
        self, start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch, says_goodbye: bool
    ) -> None:
        """Fails if such a client stays online, or only keeps its socket, because bytes wait that it never reads."""
        monkeypatch.setattr("heliograph.server.websocket.CLOSE_TIMEOUT_S", 0.3)
        one = await start_replica(redis_url=None, limits={"outbox_bytes": 8 << 20})
        async with RawSocket(one.url, "/ws?user=bob", receive_buffer=4096) as bob:
            await bob.next("connected")
            [connection] = list(one.replica.hub)
            while not connection.outbox._paused:
                await one.replica.manager.publish("#bob", BLOCK)
            if says_goodbye:
                await bob.send(CLOSE, (1000).to_bytes(2))
            else:
                bob.socket.shutdown(socket.SHUT_WR)
            await eventually(lambda: one.replica.hub.connections == 0)
            await eventually(lambda: not one.server.server_state.connections)

    async def test_a_client_that_reads_in_time_loses_nothing(self, start_replica: StartReplica) -> None:
        """Fails if a pause that stays under the limit costs the connection, a message or the order."""
        one = await start_replica(redis_url=None, limits={"outbox_bytes": 8 << 20})
        async with (
            RawSocket(one.url, "/ws?user=bob", receive_buffer=4096) as bob,
            Client(one.url, user="alice") as alice,
        ):
            paused = [connection.outbox for connection in one.replica.hub if connection.user == "bob"]
            sent = 0
            while not paused[0]._paused:
                await alice.send("bob", [sent, BLOCK])
                sent += 1
                assert sent < 200, "the socket never filled"
            for _ in range(10):
                await alice.send("bob", [sent, BLOCK])
                sent += 1
            for number in range(sent):
                assert (await bob.next("message"))["data"][0] == number
            await eventually(lambda: not paused[0]._paused)
            await alice.send("bob", ["after", ""])
            assert (await bob.next("message"))["data"][0] == "after"

    async def test_answers_to_a_client_that_does_not_read_are_limited_too(self, start_replica: StartReplica) -> None:
        """Fails if a client can have the server keep any number of its own errors by never reading them."""
        one = await start_replica(redis_url=None, limits=SMALL)
        async with RawSocket(one.url, "/ws?user=mallory", receive_buffer=4096) as raw:
            frame = b'{"type":"ping","id":"' + b"x" * 128 + b'"}'

            async def pour() -> None:
                while True:
                    await raw.say(frame)

            pouring = asyncio.create_task(pour())
            await eventually(lambda: one.replica.telemetry.slow_closes == 1, within_s=20)
            pouring.cancel()
            await asyncio.wait([pouring])
        await eventually(lambda: one.replica.hub.connections == 0)


class TestDeadClients:
    async def test_a_client_that_vanishes_is_forgotten_at_once(self, start_replica: StartReplica) -> None:
        """Fails if a socket that was reset stays in the hub or in the directory (S1.5: dead sockets at once)."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with Client(two.url, user="alice") as alice:
            async with RawSocket(one.url, "/ws?user=bob") as raw:
                await raw.next("connected")
                assert (await alice.send("bob", 1))["delivery"] == "remote"
                raw.abort()
                await eventually(lambda: one.replica.hub.connections == 0, within_s=3)

            async def offline() -> bool:
                return bool((await alice.send("bob", "?"))["delivery"] == "stored")

            await eventually(offline, within_s=3)

    async def test_a_client_that_only_closes_its_side_is_forgotten_too(self, start_replica: StartReplica) -> None:
        """Fails if a half-closed TCP connection is kept."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url, "/ws?user=bob") as raw:
            await raw.next("connected")
            raw.socket.shutdown(socket.SHUT_WR)
            await eventually(lambda: one.replica.hub.connections == 0, within_s=3)

    async def test_a_close_frame_is_answered_with_its_code(self, start_replica: StartReplica) -> None:
        """Fails if the closing handshake is cut short, or the connection outlives it."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url, "/ws?user=bob") as raw:
            await raw.next("connected")
            await raw.send(CLOSE, (1000).to_bytes(2) + b"bye")
            assert (await raw.closed())[0] == 1000
            assert await raw.body() == b""
        await eventually(lambda: one.replica.hub.connections == 0, within_s=3)

    @pytest.mark.slow
    async def test_a_client_that_answers_no_ping_is_closed_with_3012(self, start_replica: StartReplica) -> None:
        """Fails if a peer that went away without a word is kept, or one that answers is not."""
        one = await start_replica(redis_url=None, ping={"interval_s": 1, "timeout_s": 1})
        async with (
            RawSocket(one.url, "/ws?user=dead") as dead,
            RawSocket(one.url, "/ws?user=polite") as polite,
            Client(one.url, user="alice") as alice,
        ):
            assert (await dead.next("connected"))["ping"] == 1
            await polite.next("connected")
            started_at = time.monotonic()
            opcode, payload = await polite.frame()
            assert opcode == PING
            await polite.send(PONG, payload)
            code, reason = await dead.closed()
            assert (code, reason) == (3012, "no pong came back")
            assert 1.5 < time.monotonic() - started_at < 4
            await eventually(lambda: one.replica.hub.count("dead") == 0)
            assert one.replica.hub.count("polite") == 1
            assert (await alice.send("polite", 1))["delivery"] == "local"
