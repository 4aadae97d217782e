"""Who is on a channel, over real replicas and sockets: who comes and goes, and what becomes of those who vanish."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from heliograph.cluster.presence import FRESH_S
from heliograph.protocol.client_info import ClientInfo
from heliograph.tasks import end
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.raw_socket import RawSocket
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

GRACE_S = 0.2
QUICK: dict[str, Any] = {
    "namespaces": {
        "chat": {"presence": True, "join_leave": True},
        "quiet": {"presence": True},
        "private": {"presence": True, "client_subscribe": False},
    },
    "presence": {"grace_s": GRACE_S},
    "limits": {"outbox_bytes": 65_536},
    "drain": {"grace_s": 0.0},
}

Start = Callable[..., Awaitable[RunningReplica]]


@pytest.fixture
def start(start_replica: StartReplica) -> Start:
    """`await start("replica-2")`, with presence on `chat:` and `quiet:` and a short grace time."""

    def begin(name: str = "replica-1", **options: Any) -> Awaitable[RunningReplica]:
        return start_replica(name, **{**QUICK, **options})

    return begin


@dataclass
class Pair:
    """Where things happen: two replicas of one cluster, or twice the only one."""

    here: RunningReplica
    there: RunningReplica


@pytest.fixture(params=["memory", "redis"])
async def pair(request: pytest.FixtureRequest, start: Start) -> Pair:
    if request.param == "memory":
        alone = await start("replica-1", redis_url=None)
        return Pair(alone, alone)
    return Pair(await start("replica-1"), await start("replica-2"))


@contextlib.asynccontextmanager
async def on(replica: RunningReplica, user: str, channel: str = "chat:1") -> AsyncIterator[Client]:
    """A client of the user that has subscribed to the channel."""
    async with Client(replica.url, user=user) as client:
        await client.say({"type": "subscribe", "channel": channel, "id": "on"})
        await client.next("subscribed", id="on")
        yield client


async def members(replica: RunningReplica, channel: str = "chat:1") -> dict[str, int]:
    return (await replica.replica.reading.presence(channel)).users


async def becomes(replica: RunningReplica, expected: dict[str, int], channel: str = "chat:1") -> None:
    async def is_so() -> bool:
        return await members(replica, channel) == expected

    await eventually(is_so)


async def asked(client: Client, channel: str) -> dict[str, Any]:
    """What the client is answered when it asks who is on the channel."""
    await client.say({"type": "presence", "channel": channel, "id": f"who {channel}"})
    return await client.next("presence", "error", id=f"who {channel}")


class Announcements:
    """The joins and leaves that `watcher` gets, in order."""

    def __init__(self, watcher: Client) -> None:
        self._watcher = watcher

    async def next(self, user: str | None = None, **options: Any) -> tuple[str, str]:
        """The next one, or the next about `user`."""
        fields: dict[str, Any] = {"user": user} if user is not None else {}
        event = await self._watcher.next("join", "leave", channel="chat:1", **fields, **options)
        return event["type"], event["user"]

    async def until(self, replica: RunningReplica, mark: str) -> list[tuple[str, str]]:
        """All until `mark`, who comes now: presence is told of in the order in which it came about."""
        async with on(replica, mark):
            told: list[tuple[str, str]] = []
            while (event := await self.next()) != ("join", mark):
                told.append(event)
            return told


@contextlib.asynccontextmanager
async def watching(replica: RunningReplica) -> AsyncIterator[Announcements]:
    """Somebody on the channel, who knows already that they are."""
    async with on(replica, "watcher") as watcher:
        told = Announcements(watcher)
        assert await told.next() == ("join", "watcher")
        yield told


async def grace_has_passed() -> None:
    """Whoever left before this was called is taken off by the loop's timers before it returns."""
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(GRACE_S + 0.05, passed.set)
    await passed.wait()


class TestWhoIsThere:
    async def test_everybody_everywhere_with_all_devices(self, pair: Pair) -> None:
        """Fails if a client is not told of somebody on another replica, or a user's devices are not added up."""
        async with on(pair.here, "bob") as bob, on(pair.there, "김철수"), on(pair.there, "bob"):
            await becomes(pair.here, {"bob": 2, "김철수": 1})
            answer = await asked(bob, "chat:1")
            assert answer == {
                "type": "presence",
                "channel": "chat:1",
                "users": {"bob": 2, "김철수": 1},
                "id": "who chat:1",
            }
        await becomes(pair.there, {})

    async def test_it_is_refused_where_it_is_not_told(self, pair: Pair) -> None:
        """Fails if a client finds out who is on a channel without presence, or that it may not read."""
        async with Client(pair.here.url, user="bob") as bob:
            for channel in ("room:1", "private:1", "#eve"):
                assert (await asked(bob, channel))["code"] == "not_allowed"
            assert (await asked(bob, "quiet:1"))["users"] == {}

    async def test_nothing_is_kept_of_other_channels(self, pair: Pair) -> None:
        """Fails if who is on one channel is listed on another, or a channel without presence costs entries."""
        async with on(pair.here, "bob", "room:1"), on(pair.there, "eve", "chat:2"), on(pair.here, "bob"):
            await becomes(pair.here, {"bob": 1}, "chat:1")
            await becomes(pair.here, {"eve": 1}, "chat:2")
            assert await members(pair.here, "room:1") == {}


class TestComingAndGoing:
    async def test_others_are_told(self, pair: Pair) -> None:
        """Fails if others do not see who comes, goes, comes back too late for the grace time, or unsubscribes."""
        async with watching(pair.there) as told:
            async with on(pair.here, "김철수"):
                assert await told.next() == ("join", "김철수")
            assert await told.next() == ("leave", "김철수")
            await becomes(pair.there, {"watcher": 1})
            async with on(pair.there, "김철수") as back:
                assert await told.next() == ("join", "김철수")
                await back.say({"type": "unsubscribe", "channel": "chat:1"})
                assert await told.next() == ("leave", "김철수")

    async def test_several_devices_are_one_person(self, pair: Pair) -> None:
        """Fails if a second device joins, or a device that goes leaves while another stays."""
        async with watching(pair.there) as told:
            async with on(pair.here, "bob"):
                assert await told.next() == ("join", "bob")
                async with on(pair.there, "bob"), on(pair.here, "bob"):
                    await becomes(pair.here, {"watcher": 1, "bob": 3})
                await becomes(pair.here, {"watcher": 1, "bob": 1})
                assert await told.until(pair.here, "mark") == []
            assert await told.next("bob") == ("leave", "bob")
            assert ("leave", "bob") not in await told.until(pair.here, "another mark")

    async def test_back_in_time_is_never_gone(self, pair: Pair) -> None:
        """Fails if a page that is loaded anew, or a client that moves to another replica, leaves and joins."""
        async with watching(pair.here) as told:
            async with on(pair.here, "bob"):
                assert await told.next() == ("join", "bob")
            async with on(pair.there, "bob"):
                await grace_has_passed()
                await becomes(pair.here, {"watcher": 1, "bob": 1})
                assert await told.until(pair.here, "mark") == []

    async def test_a_client_is_gone_at_once_and_its_user_later(self, start: Start) -> None:
        """Fails if a client that has left is listed until the grace time of its user is over, or its user is not."""
        here = await start(presence={"grace_s": 60})
        async with on(here, "bob"):
            async with on(here, "eve"), on(here, "eve"):
                await clients_become(here, {"bob": 1, "eve": 2})
            await clients_become(here, {"bob": 1})
            await becomes(here, {"bob": 1, "eve": 1})
            async with on(here, "eve"):
                await clients_become(here, {"bob": 1, "eve": 1})
            await clients_become(here, {"bob": 1})
            assert await members(here) == {"bob": 1, "eve": 1}

    async def test_nothing_is_said_where_nobody_asked(self, pair: Pair) -> None:
        """Fails if subscribers of a channel without `join_leave` are told who comes and goes."""
        async with on(pair.there, "watcher", "quiet:1") as watcher:
            async with on(pair.here, "bob", "quiet:1"):
                await becomes(pair.there, {"watcher": 1, "bob": 1}, "quiet:1")
            await becomes(pair.there, {"watcher": 1}, "quiet:1")
            with pytest.raises(TimeoutError):
                await watcher.next("join", "leave", within_s=0.05)

    async def test_who_does_not_read_is_gone(self, pair: Pair) -> None:
        """Fails if a client that was dropped as slow (3008) stays on its channels."""
        slow_target = "/ws?user=slow&channels=chat:1"
        async with (
            watching(pair.there) as told,
            RawSocket(pair.here.url, slow_target, receive_buffer=4096) as slow,
        ):
            assert await told.next() == ("join", "slow")
            while pair.here.replica.hub.count("slow"):
                await pair.here.replica.manager.send_message("slow", "x" * 60_000)
            assert await told.next() == ("leave", "slow")
            await becomes(pair.there, {"watcher": 1})
            assert (await slow.closed())[0] == 3008


class TestReplicasThatGo:
    async def test_a_replica_that_drains_takes_its_users_off_at_once(self, start: Start) -> None:
        """Fails if the users of a replica that was stopped stay until a grace time or a lease has passed."""
        slow = {"presence": {"grace_s": 60}, "directory": {"lease_ttl_s": 60}}
        here, there = await start("replica-1", **slow), await start("replica-2", **slow)
        async with watching(there) as told, on(here, "bob"), on(here, "eve", "quiet:1"):
            assert await told.next() == ("join", "bob")
            await becomes(there, {"eve": 1}, "quiet:1")
            await here.stop()
            assert await told.next() == ("leave", "bob")
            assert await members(there) == {"watcher": 1}
            assert await members(there, "quiet:1") == {}

    async def test_a_replica_that_dies_takes_its_users_off(self, start: Start) -> None:
        """Fails if users of a replica that was killed stay, their leaving is not told once, or is told elsewhere."""
        here, there, third = [await start(f"replica-{n}") for n in (1, 2, 3)]
        async with (
            watching(there) as told,
            on(third, "eve", "quiet:1") as quiet,
            on(third, "eve"),
            on(here, "eve"),
            on(here, "bob"),
            on(here, "bob", "quiet:1"),
        ):
            await becomes(there, {"watcher": 1, "eve": 2, "bob": 1})
            await becomes(there, {"eve": 1, "bob": 1}, "quiet:1")
            assert {await told.next(), await told.next()} == {("join", "eve"), ("join", "bob")}
            await dies(here)
            assert await told.next(within_s=3) == ("leave", "bob")
            await becomes(there, {"watcher": 1, "eve": 1})
            await clients_become(there, {"watcher": 1, "eve": 1})
            await becomes(there, {"eve": 1}, "quiet:1")
            assert await told.until(third, "mark") == []
            with pytest.raises(TimeoutError):
                await quiet.next("leave", within_s=0.05)

    async def test_a_replica_that_was_taken_for_dead_comes_back(self, start: Start) -> None:
        """Fails if the users of a replica whose lease was reaped while it lived are not on their channels again."""
        here, there = await start("replica-1"), await start("replica-2")
        async with watching(there) as told, on(here, "bob"):
            assert await told.next() == ("join", "bob")
            await there.replica.directory._reap(here.replica.directory.lease)
            assert [await told.next(), await told.next()] == [("leave", "bob"), ("join", "bob")]
            await becomes(there, {"watcher": 1, "bob": 1})
            await clients_become(there, {"watcher": 1, "bob": 1})


async def dies(replica: RunningReplica) -> None:
    """As kill -9 looks to the others: its lease is not renewed, and nothing is taken back."""
    presence = replica.replica.shards[0].presence
    assert presence._task is not None
    await end([*replica.replica.directory._tasks, presence._task])


class TestRedisThatGoes:
    async def test_a_redis_that_forgot_is_told_again(self, own_redis: RedisServer, start: Start) -> None:
        """Fails if everybody is gone for ever, or counted twice, after Redis has lost its data."""
        here, there = [await start(f"replica-{n}", redis_url=own_redis.url) for n in (1, 2)]
        async with on(here, "bob"), on(here, "eve"), on(there, "bob"):
            await becomes(there, {"bob": 2, "eve": 1})
            own_redis.command("FLUSHALL")
            await becomes(there, {"bob": 2, "eve": 1})
            await clients_become(there, {"bob": 2, "eve": 1})
        await becomes(there, {})

    async def test_without_redis_nobody_can_say_and_afterwards_all_is_well(
        self, own_redis: RedisServer, start: Start
    ) -> None:
        """Fails if a question is answered wrongly while Redis is gone, or who left meanwhile stays for ever."""
        here = await start(redis_url=own_redis.url)
        async with on(here, "bob") as bob:
            async with on(here, "eve"):
                await becomes(here, {"bob": 1, "eve": 1})
                own_redis.stop()
                assert (await asked(bob, "chat:1"))["code"] == "unavailable"
            await grace_has_passed()
            own_redis.start()
            await becomes_within(here, {"bob": 1})


async def clients_become(replica: RunningReplica, expected: dict[str, int], channel: str = "chat:1") -> None:
    """Wait until so many clients of each user are there, one by one."""

    async def are_so() -> bool:
        clients = await replica.replica.backends.presence.clients(channel)
        return Counter(info.user for info in clients.values()) == expected

    await eventually(are_so)


async def becomes_within(replica: RunningReplica, expected: dict[str, int]) -> None:
    """As `becomes`, of a Redis that is coming back."""

    async def is_so() -> bool:
        with contextlib.suppress(Exception):
            return await members(replica) == expected
        return False

    await eventually(is_so)


class TestMany:
    async def test_who_asks_again_and_again_costs_little(self, start: Start, redis_server: RedisServer) -> None:
        """Fails if each question about a crowd is asked of Redis, or a crowd is never counted anew."""
        one = await start("replica-1")
        presence = one.replica.shards[0].presence
        key = one.redis.keys.presence("chat:1")
        redis_server.command("HSET", key, *(text for n in range(500) for text in (f"user-{n}", "2")))
        rosters = [await presence.roster("chat:1") for _ in range(50)]
        assert len(set(map(id, rosters))) <= 2, "read once, or twice where that took longer than a second"
        assert (len(rosters[-1].users), rosters[-1].connections) == (500, 1000)
        redis_server.command("HSET", key, "another", "1")

        async def is_new() -> bool:
            return "another" in (await presence.roster("chat:1")).users

        await eventually(is_new, within_s=2 * FRESH_S)
        redis_server.command("DEL", key)

    async def test_a_crowd_of_clients_is_counted_once(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if each question for a number has a whole crowd read, or counted."""
        one = await start("replica-1")
        presence = one.replica.shards[0].presence
        crowd = {str(n): ClientInfo(str(n), f"user-{n // 2}", msgspec.Raw(b"{}")) for n in range(500)}

        async def clients(_: str) -> dict[str, ClientInfo]:
            return crowd

        monkeypatch.setattr(presence._backend, "clients", clients)
        rosters = [await presence.clients("chat:1") for _ in range(50)]
        assert len(set(map(id, rosters))) <= 2, "once, or twice where that took longer than a second"
        assert (len(rosters[-1].clients), rosters[-1].users, rosters[-1].info_bytes) == (500, 250, 1000)

    async def test_few_are_always_as_they_are(self, start: Start, redis_server: RedisServer) -> None:
        """Fails if a small channel is told as it was a moment ago."""
        one = await start("replica-1")
        key = one.redis.keys.presence("chat:2")
        for n in range(1, 5):
            redis_server.command("HSET", key, f"user-{n}", "1")
            assert len(await members(one, "chat:2")) == n
        redis_server.command("DEL", key)
