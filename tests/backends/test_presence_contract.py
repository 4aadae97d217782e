"""What `PresenceBackend` promises, of every backend alike; and what Redis adds: leases that run out."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
import pytest

from heliograph.backends.memory.presence import MemoryPresence
from heliograph.backends.redis import server
from heliograph.backends.redis.client import Client
from heliograph.backends.redis.directory import RedisDirectory
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.lifecycle import LifecyclePresence
from heliograph.backends.redis.presence import BATCH, RedisPresence
from heliograph.ports import PresenceBackend, PresenceEntry
from heliograph.protocol.client_info import ClientInfo, info_of
from heliograph.protocol.envelope import decode_envelopes, ending_of
from tests.support.lifecycle import Teller
from tests.support.replica_info import replica_info

LONG_S = 30.0
NODE = "node-1"

Announcement = tuple[str, str, str | ClientInfo]  # "join" or "leave", channel, user or client
NAMES = [
    "bob",
    "김철수",
    "🐈‍⬛",
    "مستخدم عربي",
    "{bob}",
    "}{:presence",
    "*?[a-z]\\",
    'a","b',
    "with space",
    "x" * 255,
]


@dataclass
class Stage:
    """A backend, and a listener to its announcements. `announced()`: all announcements since the last call."""

    presence: PresenceBackend
    announced: Callable[[], Awaitable[list[Announcement]]]

    async def enter(
        self,
        user: str,
        connections: int,
        *,
        lease: str = "a",
        channel: str = "chat:1",
        announced: bool = True,
        clients: Sequence[tuple[str, ClientInfo | None]] = (),
    ) -> bool:
        return await self.presence.enter(lease, [PresenceEntry(channel, user, connections, announced, clients)])


def everywhere(channel: str) -> bool:
    return True


def memory_stage() -> Stage:
    heard: list[Announcement] = []

    async def announced() -> list[Announcement]:
        new = heard.copy()
        heard.clear()
        return new

    class Listener:
        def user(self, channel: str, user: str, joined: bool) -> None:
            heard.append(("join" if joined else "leave", channel, user))

        def client(self, channel: str, client: ClientInfo, joined: bool) -> None:
            heard.append(("join" if joined else "leave", channel, client))

    return Stage(MemoryPresence(Listener()), announced)


@pytest.fixture
async def redis_stage(client: Client, keys: Keys) -> AsyncIterator[Stage]:
    """Redis, with the leases a and b."""
    bus_channel = f"{keys.prefix}events"
    async with client.pubsub(ignore_subscribe_messages=True) as listener:

        async def announced() -> list[Announcement]:
            mark = uuid.uuid4().hex.encode()
            await client.publish(f"{bus_channel}:mark", mark)
            new: list[Announcement] = []
            async for message in listener.listen():
                if message["data"] == mark:
                    break
                assert not message["data"].endswith(ending_of(NODE)), "this replica would take it for its own message"
                for said in decode_envelopes(message["data"]):
                    channel = said.address if said.client is None else said.on or ""
                    assert message["channel"].decode() == f"{bus_channel}:{channel}"
                    who = msgspec.json.decode(said.message, type=str) if said.client is None else said.client
                    assert said.client is None or said.address == "", "an older replica would tell of a user"
                    new.append((said.presence or "", channel, who))
            return new

        await listener.psubscribe(f"{bus_channel}:*")
        for lease in ("a", "b"):
            await RedisDirectory(server.RedisServer(client, keys)).take(lease, replica_info(), LONG_S)
        yield Stage(RedisPresence(server.RedisServer(client, keys, node_id=NODE)), announced)


@pytest.fixture(params=["memory", "redis", "redis with events"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """One after the other: every test that asks for this is part of the contract."""
    if request.param == "memory":
        return memory_stage()
    found: Stage = request.getfixturevalue("redis_stage")
    if request.param != "redis":
        teller = Teller.at(request.getfixturevalue("client"), request.getfixturevalue("keys"), NODE)
        found.presence = LifecyclePresence(teller.redis, teller.events, everywhere)
    return found


class TestEntering:
    async def test_who_is_there_is_counted_and_who_leaves_is_forgotten(self, stage: Stage) -> None:
        """Fails if somebody on the channel is not listed, or listed with a wrong count, or stays when they left."""
        assert await stage.presence.members("chat:1") == {}
        assert await stage.enter("bob", 1)
        assert await stage.enter("eve", 2)
        assert await stage.presence.members("chat:1") == {"bob": 1, "eve": 2}
        assert await stage.enter("eve", 1)
        assert await stage.enter("bob", 0)
        assert await stage.presence.members("chat:1") == {"eve": 1}

    async def test_several_entries_in_one_call(self, stage: Stage) -> None:
        """Fails if entries after the first, or beyond one round trip's batch, are lost."""
        users = [f"user-{n}" for n in range(BATCH + 1)]
        assert await stage.presence.enter("a", [PresenceEntry("chat:1", user, 1, False) for user in users])
        assert await stage.presence.members("chat:1") == dict.fromkeys(users, 1)
        assert await stage.presence.enter("a", [])

    async def test_totals_are_over_all_leases(self, stage: Stage) -> None:
        """Fails if a replica's count stands for all, or one replica's leaving takes the user off the others."""
        await stage.enter("bob", 2, lease="a")
        await stage.enter("bob", 3, lease="b")
        assert await stage.presence.members("chat:1") == {"bob": 5}
        await stage.enter("bob", 0, lease="a")
        assert await stage.presence.members("chat:1") == {"bob": 3}

    async def test_a_repeated_entry_is_harmless(self, stage: Stage) -> None:
        """Fails if a call whose answer was lost counts or announces twice when it is made again."""
        for _ in range(3):
            assert await stage.enter("bob", 2)
        assert await stage.presence.members("chat:1") == {"bob": 2}
        for _ in range(3):
            assert await stage.enter("bob", 0)
        assert await stage.presence.members("chat:1") == {}
        assert await stage.announced() == [("join", "chat:1", "bob"), ("leave", "chat:1", "bob")]

    async def test_channels_do_not_touch_each_other(self, stage: Stage) -> None:
        """Fails if leaving one channel changes, or is announced on, another."""
        await stage.enter("bob", 1, channel="chat:1")
        await stage.enter("bob", 2, channel="chat:2")
        await stage.announced()
        await stage.enter("bob", 0, channel="chat:1")
        assert await stage.presence.members("chat:1") == {}
        assert await stage.presence.members("chat:2") == {"bob": 2}
        assert await stage.announced() == [("leave", "chat:1", "bob")]

    @pytest.mark.parametrize("name", NAMES)
    async def test_names_may_be_any_text(self, stage: Stage, name: str) -> None:
        """Fails if a user or a channel is mangled, in the record, in an announcement, or when its replica dies."""
        channel = f"chat:{name}"
        await stage.enter(name, 1, channel=channel)
        assert await stage.presence.members(channel) == {name: 1}
        await stage.presence.reap("a", everywhere)
        assert await stage.presence.members(channel) == {}
        assert await stage.announced() == [("join", channel, name), ("leave", channel, name)]


class TestAnnouncing:
    async def test_only_the_first_joins_and_the_last_leaves(self, stage: Stage) -> None:
        """Fails if a second device, or a second replica, is announced as a join, or its end as a leave."""
        await stage.enter("bob", 1, lease="a")
        assert await stage.announced() == [("join", "chat:1", "bob")]
        await stage.enter("bob", 2, lease="a")
        await stage.enter("bob", 1, lease="b")
        await stage.enter("bob", 1, lease="a")
        await stage.enter("bob", 0, lease="a")
        assert await stage.announced() == []
        await stage.enter("bob", 0, lease="b")
        assert await stage.announced() == [("leave", "chat:1", "bob")]

    async def test_several_at_once_join_once(self, stage: Stage) -> None:
        """Fails if a user who is entered with more than one connection does not join."""
        await stage.enter("bob", 3)
        assert await stage.announced() == [("join", "chat:1", "bob")]

    async def test_who_was_never_there_does_not_leave(self, stage: Stage) -> None:
        """Fails if a visit shorter than its entry is announced, or leaves a trace."""
        await stage.enter("bob", 0)
        assert await stage.presence.members("chat:1") == {}
        assert await stage.announced() == []

    async def test_nothing_is_said_unless_asked_for(self, stage: Stage) -> None:
        """Fails if joins and leaves are announced on a channel without `join_leave`."""
        await stage.enter("bob", 1, announced=False)
        await stage.enter("bob", 0, announced=False)
        assert await stage.announced() == []


def client_of(user: str, number: int, *, chan_info: bytes | None = None) -> ClientInfo:
    return ClientInfo(f"{user}-{number}", user, info_of(b'{"name":"\xec\x95\x88"}'), info_of(chan_info))


class TestClients:
    async def test_each_client_is_listed_with_its_infos(self, stage: Stage) -> None:
        """Fails if a client is missing or has another's infos, or one that has left stays."""
        first, second = client_of("bob", 1, chan_info=b"[1,null]"), ClientInfo("bob-2", "bob")
        assert await stage.enter("bob", 1, clients=[("bob-1", first)])
        assert await stage.enter("bob", 1, lease="b", clients=[("bob-2", second)])
        assert await stage.presence.clients("chat:1") == {"bob-1": first, "bob-2": second}
        assert await stage.presence.clients("chat:2") == {}
        assert await stage.presence.members("chat:1") == {"bob": 2}
        assert await stage.enter("bob", 0, clients=[("bob-1", None)])
        assert await stage.presence.clients("chat:1") == {"bob-2": second}

    async def test_each_client_joins_and_leaves(self, stage: Stage) -> None:
        """Fails if a client's join or leave is not announced, twice, without its infos, or before its user's."""
        first, second = client_of("bob", 1), client_of("bob", 2, chan_info=b"2")
        for _ in range(2):
            await stage.enter("bob", 1, clients=[("bob-1", first)])
        assert await stage.announced() == [("join", "chat:1", "bob"), ("join", "chat:1", first)]
        await stage.enter("bob", 2, clients=[("bob-2", second)])
        assert await stage.announced() == [("join", "chat:1", second)]
        for _ in range(2):
            await stage.enter("bob", 1, clients=[("bob-1", None), ("bob-2", None)])
        assert await stage.announced() == [("leave", "chat:1", first), ("leave", "chat:1", second)]
        await stage.enter("bob", 0)
        assert await stage.announced() == [("leave", "chat:1", "bob")]

    async def test_a_client_that_is_gone_before_it_was_written(self, stage: Stage) -> None:
        """Fails if a short visit leaves a trace, or is announced."""
        await stage.enter("bob", 0, clients=[("bob-1", None)])
        assert await stage.presence.clients("chat:1") == {}
        assert await stage.announced() == []

    async def test_nothing_is_said_of_clients_unless_asked_for(self, stage: Stage) -> None:
        """Fails if clients are announced on a channel without `join_leave`, or are not listed there."""
        await stage.enter("bob", 1, announced=False, clients=[("bob-1", client_of("bob", 1))])
        assert list(await stage.presence.clients("chat:1")) == ["bob-1"]
        await stage.enter("bob", 0, announced=False, clients=[("bob-1", None)])
        assert await stage.announced() == []

    @pytest.mark.parametrize("name", NAMES)
    async def test_clients_of_any_user_on_any_channel(self, stage: Stage, name: str) -> None:
        """Fails if a name is mangled in the record of a client, or its replica's death leaves it there."""
        channel, info = f"chat:{name}", ClientInfo("c", name, info_of(b'"}\\n{"'))
        await stage.enter(name, 1, channel=channel, clients=[("c", info)])
        assert await stage.presence.clients(channel) == {"c": info}
        await stage.presence.reap("a", everywhere)
        assert await stage.presence.clients(channel) == {}
        assert ("leave", channel, info) in await stage.announced()

    async def test_a_dead_replicas_clients_leave(self, stage: Stage) -> None:
        """Fails if clients of a dead replica stay, those of others go with them, or reaping twice says it twice."""
        mine, others = client_of("bob", 1), client_of("bob", 2)
        await stage.enter("bob", 1, lease="a", clients=[("bob-1", mine)])
        await stage.enter("bob", 1, lease="b", clients=[("bob-2", others)])
        await stage.announced()
        for _ in range(2):
            await stage.presence.reap("a", everywhere)
        assert await stage.presence.clients("chat:1") == {"bob-2": others}
        assert await stage.announced() == [("leave", "chat:1", mine)]


class TestReaping:
    async def test_what_stood_under_the_lease_is_gone_and_announced(self, stage: Stage) -> None:
        """Fails if users of a dead replica stay on their channels, or nobody hears that they left."""
        await stage.enter("bob", 2, channel="chat:1")
        await stage.enter("eve", 1, channel="chat:2")
        await stage.announced()
        await stage.presence.reap("a", everywhere)
        assert await stage.presence.members("chat:1") == await stage.presence.members("chat:2") == {}
        assert set(await stage.announced()) == {("leave", "chat:1", "bob"), ("leave", "chat:2", "eve")}

    async def test_what_stands_under_others_stays(self, stage: Stage) -> None:
        """Fails if a user who is on a living replica too leaves with the dead one."""
        await stage.enter("bob", 1, lease="a")
        await stage.enter("bob", 2, lease="b")
        await stage.announced()
        await stage.presence.reap("a", everywhere)
        assert await stage.presence.members("chat:1") == {"bob": 2}
        assert await stage.announced() == []

    async def test_it_announces_only_where_that_is_asked_for(self, stage: Stage) -> None:
        """Fails if the death of a replica is announced as a leave on a channel that announces no joins."""
        await stage.enter("bob", 1, channel="chat:1")
        await stage.enter("bob", 1, channel="quiet:1", announced=False)
        await stage.announced()
        await stage.presence.reap("a", lambda channel: channel == "chat:1")
        assert await stage.presence.members("quiet:1") == {}
        assert await stage.announced() == [("leave", "chat:1", "bob")]

    async def test_it_may_be_done_by_several_and_more_than_once(self, stage: Stage) -> None:
        """Fails if two replicas that reap the same lease count or announce twice."""
        await stage.enter("bob", 1, lease="a")
        await stage.enter("eve", 1, lease="b")
        await stage.announced()
        for _ in range(2):
            await stage.presence.reap("a", everywhere)
        await stage.presence.reap("never taken", everywhere)
        assert await stage.presence.members("chat:1") == {"eve": 1}
        assert await stage.announced() == [("leave", "chat:1", "bob")]


class TestLeasesInRedis:
    """One process has no leases to lose."""

    @pytest.fixture
    def presence(self, client: Client, keys: Keys) -> RedisPresence:
        return RedisPresence(server.RedisServer(client, keys))

    @pytest.mark.parametrize("how", ["unknown", "doomed", "reaped"])
    async def test_a_lease_that_is_not_held_enters_nothing(
        self, presence: RedisPresence, client: Client, keys: Keys, how: str
    ) -> None:
        """Fails if a replica that was written off enters users whom nobody would ever forget."""
        directory = RedisDirectory(server.RedisServer(client, keys))
        if how != "unknown":
            await directory.take("a", replica_info(), LONG_S)
            await directory.doom("a")
        if how == "reaped":
            await directory.reap("a")
        assert not await presence.enter("a", [PresenceEntry("chat:1", "bob", 1, True)])
        assert await presence.members("chat:1") == {}

    async def test_nothing_is_left_in_redis(self, presence: RedisPresence, client: Client, keys: Keys) -> None:
        """Fails if every user, channel or lease that ever was costs Redis memory for ever."""
        await RedisDirectory(server.RedisServer(client, keys)).take("a", replica_info(), LONG_S)
        before = set(await client.keys(f"{keys.prefix}*"))
        entries = [
            PresenceEntry("chat:1", "bob", 1, True, [("bob-1", client_of("bob", 1))]),
            PresenceEntry("chat:1", "bob", 0, True, [("bob-1", None)]),
        ]
        assert await presence.enter("a", entries[:1])
        assert set(await client.keys(f"{keys.prefix}*")) > before
        assert await presence.enter("a", entries[1:])
        assert set(await client.keys(f"{keys.prefix}*")) == before
        assert await presence.enter("a", entries[:1])
        await presence.reap("a", everywhere)
        assert set(await client.keys(f"{keys.prefix}*")) == before
