"""What clients write: it costs nobody what servers have published, and one user no more than their share."""

import asyncio
import json
import logging
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.event_source import EventSource
from tests.support.metrics import read
from tests.support.poller import Poller
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, token
from tests.support.waiting import eventually

INVOICES = [f"invoice {n}" for n in range(5)]


async def bills(one: RunningReplica) -> str:
    """Have a server keep five invoices for bob, and mallory send him more than fits; his cursor from before."""
    async with Client(one.url, user="bob") as bob:
        cursor = str(bob.connected["cursor"])
    for invoice in INVOICES:
        await one.replica.manager.publish("#bob", invoice)
    async with Client(one.url, user="mallory") as mallory:
        for n in range(400):
            assert (await mallory.send("bob", n))["type"] == "ack"
    return cursor


def check(recovered: list[Any], data: list[Any]) -> None:
    assert recovered == [False], "what has gone is said once"
    assert data[:5] == INVOICES
    assert data[5:] == list(range(400))[-len(data[5:]) :]
    assert 100 <= len(data[5:]) <= 200


class TestWhatAServerHasKept:
    async def test_over_a_socket(self, start_replica: StartReplica) -> None:
        """Fails if one user's sends push out what a server has kept for another, or that is not delivered."""
        one = await start_replica()
        cursor = await bills(one)
        async with Client(one.url, path=f"/ws?user=bob&cursor={cursor.replace('%', '%25')}") as bob:
            await bob.next("connected")
            data: list[Any] = []
            while not data or data[-1] != 399:
                data += await bob.messages(1)
            check([each["recovered"] for each in await bob.only("subscribed")], data)
            await one.replica.manager.publish("#bob", "live")
            assert await bob.messages(1) == ["live"]

    async def test_over_an_event_stream(self, start_replica: StartReplica) -> None:
        """Fails if SSE withholds what the socket delivers."""
        one = await start_replica()
        cursor = await bills(one)
        async with EventSource(one.url, user="bob", last_event_id=cursor) as bob:
            data: list[int] = []
            recovered: list[bool] = []
            while not data or data[-1] != 399:
                event = await bob.next("message", "subscribed")
                if event["type"] == "message":
                    data.append(event["data"])
                else:
                    recovered.append(event["recovered"])
            check(recovered, data)

    async def test_over_polls(self, start_replica: StartReplica) -> None:
        """Fails if a poll withholds what the socket delivers."""
        one = await start_replica()
        cursor = await bills(one)
        async with Poller(one.url, user="bob", cursor=cursor) as bob:
            data: list[Any] = []
            recovered: list[Any] = []
            while not data or data[-1] != 399:
                for event in await bob.poll():
                    if event["type"] == "message":
                        data.append(event["data"])
                    elif event["type"] == "subscribed":
                        recovered.append(event["recovered"])
            check(recovered, data)


class TestBudget:
    async def test_it_holds_over_all_connections_and_replicas(self, start_replica: StartReplica) -> None:
        """Fails if a second socket, on the same replica or on another, is a second budget."""
        limits = {"user_messages_per_second": 2}
        one, two = await start_replica(limits=limits), await start_replica("replica-2", limits=limits)
        async with (
            Client(one.url, user="al") as first,
            Client(one.url, user="al") as second,
            Client(two.url, user="al") as third,
            Client(two.url, user="bob") as bob,
        ):
            answers = []
            for n in range(10):
                for client in (first, second, third):
                    answers.append(await client.send("bob", n))
            assert [each["type"] for each in answers] == ["ack"] * 20 + ["error"] * 10
            assert {each["code"] for each in answers[20:]} == {"rate_limited"}
            assert "the limit of 20 messages of one user within 10 s is reached; again in" in answers[-1]["message"]
            assert len(await bob.messages(20)) == 20
            assert (await bob.send("al", "mine"))["type"] == "ack", "a budget is one user's"
            refused = sum(
                [(await read(each))("client_writes_refused_total", limit="user_messages") for each in (one, two)]
            )
            assert refused == 10
            await one.replica.manager.publish("#bob", "the server's", sender="al")
            assert await bob.messages(1) == ["the server's"]

    async def test_a_recipients_share_holds_over_all_replicas(self, start_replica: StartReplica) -> None:
        """Fails if a user may send to one user as much again on every replica."""
        limits = {"recipient_messages_per_second": 10}
        one, two = await start_replica(limits=limits), await start_replica("replica-2", limits=limits)
        async with Client(one.url, user="al") as first, Client(two.url, user="al") as second:
            taken = 0
            for n in range(80):
                for client in (first, second):
                    taken += (await client.send("bob", n))["type"] == "ack"
            assert 100 - 2 * 5 <= taken <= 100 + 2 * 5, "100 within 10 s, and a share of 5 more on each replica"
            assert (await second.send("carol", "hi"))["type"] == "ack", "it is bob who has had enough"

    @pytest.mark.parametrize(
        "frame",
        [
            {"type": "send", "to": "bob", "ephemeral": True},
            {"type": "publish", "channel": "chat:1"},
            {"type": "publish", "channel": "chat:1", "ephemeral": True},
            {"type": "send", "to": "bob"},
        ],
    )
    async def test_it_holds_for_everything_that_a_client_writes(
        self, start_replica: StartReplica, frame: dict[str, Any]
    ) -> None:
        """Fails if one kind of message is free."""
        for redis in ({}, {"redis_url": None}):
            one = await start_replica(**redis, limits={"user_bytes_per_second": 1000})
            async with Client(one.url, user="al") as client:
                codes = []
                for n in range(4):
                    await client.say({**frame, "data": "x" * 2000, "id": n})
                    codes.append((await client.next("ack", "published", "error", id=n)).get("code"))
                assert codes == [None, None, "rate_limited", "rate_limited"]
                assert await client.send("bob", "x" * 4000, ephemeral=True)

    async def test_a_rate_to_one_recipient(self, start_replica: StartReplica) -> None:
        """Fails if one user may fill another's screen; or may not write to the next."""
        one = await start_replica(limits={"recipient_messages_per_second": 0.5})
        async with Client(one.url, user="al") as client:
            answers = [await client.send("bob", n) for n in range(7)]
            assert [each.get("code") for each in answers] == [None] * 5 + ["rate_limited"] * 2
            assert "messages of one user to this one" in answers[-1]["message"]
            assert (await client.send("eve", 1))["type"] == "ack"

    async def test_a_flood_is_read_slowly_and_logged_once(
        self, start_replica: StartReplica, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if refused frames are read as fast as they come, or each makes a line in the log."""
        one = await start_replica(limits={"user_messages_per_second": 0.1, "user_bytes_per_second": 10_000})
        with caplog.at_level(logging.WARNING, "heliograph.cluster.client_writes"):
            async with Client(one.url, user="al") as client:
                assert (await client.send("bob", 0))["type"] == "ack"
                began = time.monotonic()
                for n in range(31):
                    await client.say({"type": "send", "to": "bob", "data": n, "id": f"f{n}"})
                await client.next("error", id="f30")
                # 4,496 bytes for each of 30, of which 40,000 are the burst; the rest is read at 40,000 a second
                assert time.monotonic() - began > 2
        lines = [each.getMessage() for each in caplog.records if each.name == "heliograph.cluster.client_writes"]
        assert lines == ["refused 1 writes of clients (user_messages) since the last line like this"]

    @pytest.mark.parametrize(
        "frame",
        [{"type": "refresh", "token": "x"}, {"type": "emit", "event": "order", "data": "x"}],
        ids=["refresh", "emit"],
    )
    async def test_what_takes_its_time_is_read_slowly_too(
        self, start_replica: StartReplica, frame: dict[str, Any]
    ) -> None:
        """Fails if refused frames cost nothing that are not answered at once."""
        limits = {"user_messages_per_second": 0.1, "user_bytes_per_second": 10_000}
        one = await start_replica(auth=JWT, emit={"events": ["order"]}, limits=limits)
        async with Client(one.url) as client:
            await client.say({"type": "connect", "token": token("al")})
            await client.next("connected")
            began = time.monotonic()
            for n in range(31):
                await client.say({**frame, "id": f"f{n}"})
            await client.next("error", id="f30")
            assert time.monotonic() - began > 0.9

    async def test_large_frames_are_read_slowly_whatever_they_say(self, start_replica: StartReplica) -> None:
        """Fails if a user may keep a replica busy with reading, on several sockets; or others wait for it."""
        one = await start_replica(limits={"user_bytes_per_second": 10_000})
        ping = json.dumps({"type": "ping", "padding": "x" * 60_000})
        async with (
            Client(one.url, user="al") as first,
            Client(one.url, user="al") as second,
            Client(one.url, user="bob") as bob,
        ):
            began = time.monotonic()
            for client in (first, second, first):  # 180,000 bytes: 140,000 beyond the burst, at 40,000 a second
                await client.say(ping)
                await client.next("pong")
            await bob.say(ping)
            await bob.next("pong")
            await bob.send("eve", 1)
            assert time.monotonic() - began < 1.5
            await first.say({"type": "ping"})
            await first.next("pong")
            assert time.monotonic() - began > 3

    async def test_small_frames_are_not_all_read_at_once(self, start_replica: StartReplica) -> None:
        """Fails if a user with many sockets writes what a window's budget allows in one moment, or is refused any."""
        one = await start_replica(limits={"user_messages_per_second": 100, "user_bytes_per_second": 131_072})

        async def write(client: Client) -> None:
            for n in range(100):
                await client.say({"type": "send", "to": "bob", "data": n, "id": n})
            for n in range(100):
                await client.next("ack", id=n)

        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(one.url, user="al")) for _ in range(10)]
            began = time.monotonic()
            # 1,000 small frames, of which 400 are the burst; the rest is read at 400 a second
            await asyncio.gather(*map(write, clients))
            took = time.monotonic() - began
            assert took > 1, took


def fill(server: RedisServer, percent: float) -> None:
    """Set its memory limit so that it is as full as that."""
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    used = int(next(line for line in server.command("INFO", "memory").splitlines() if "used_memory:" in line)[12:])
    server.command("CONFIG", "SET", "maxmemory", str(int(used / percent * 100)))


class TestMemory:
    async def test_clients_stop_before_everything_else_does(
        self, own_redis: RedisServer, start_replica: StartReplica, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if clients can fill Redis, so that the server API, subscriptions, tickets and commands fail too."""
        one = await start_replica(redis_url=own_redis.url, emit={"events": ["e"]})
        async with Client(one.url, user="al") as al, Client(one.url, user="bob") as bob:
            assert (await al.send("bob", 1))["type"] == "ack"
            fill(own_redis, 90)
            memory = one.replica.memory
            assert memory is not None
            await eventually(lambda: memory.is_full)
            for n, frame in enumerate(
                [{"type": "send", "to": "bob"}, {"type": "publish", "channel": "c"}, {"type": "emit", "event": "e"}]
            ):
                await al.say({**frame, "data": 1, "id": n})
                error = await al.next("error", id=n)
                assert (error["code"], "Redis is too full" in error["message"]) == ("unavailable", True)
            assert (await al.send("bob", "passing", ephemeral=True))["type"] == "ack", "that takes no memory"
            await bob.messages(2)
            await one.replica.manager.publish("#bob", "the server's")
            assert await bob.messages(1) == ["the server's"]
            await al.say({"type": "subscribe", "channel": "new:1"})
            await al.next("subscribed", channel="new:1")
            async with Client(one.url, user="newcomer"):
                pass
            assert (one.replica.node.ready, one.replica.node.reason) == (True, "redis_memory_low")
            value = await read(one)
            assert value("degraded", reason="redis_memory_low") == 1
            assert value("client_writes_blocked") == 1
            assert 0.8 < value("redis_memory_ratio") < 1
            assert value("client_writes_refused_total", limit="memory") == 3
            await one.replica.user_commands.disconnect_user("bob")
            assert await bob.close_code() == 3503
            fill(own_redis, 50)
            await eventually(lambda: not memory.is_full)
            await eventually(lambda: one.replica.node.reason == "")
            assert (await al.send("bob", 2))["type"] == "ack"
        lines = [each.getMessage() for each in caplog.records if each.name == "heliograph.cluster.memory_watch"]
        assert len(lines) == 2
        assert "from 80 % on nothing that clients send, publish or emit is kept" in lines[0]
        assert "room again" in lines[1]

    async def test_without_a_limit_of_memory_nothing_is_refused(
        self, own_redis: RedisServer, start_replica: StartReplica
    ) -> None:
        """Fails if a Redis without maxmemory counts as full, or one whose user may not ask keeps a replica down."""
        own_redis.command("ACL", "SETUSER", "default", "-info")
        one = await start_replica(redis_url=own_redis.url, ready=False)
        await asyncio.sleep(0.2)
        assert one.replica.memory is not None
        assert (one.replica.memory.share, one.replica.memory.is_full) == (None, False)
