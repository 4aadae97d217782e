"""Durable and live together on two real Redis servers, each killed in turn: the composite, and the cluster."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from heliograph.backends.redis.client import connect
from heliograph.backends.redis.streams import StreamEntry
from heliograph.client.composite import Composite, Item
from heliograph.client.consumer import Consumer
from heliograph.client.live import Live, LiveMessage
from heliograph.errors import BadSetting, BusUnavailable
from heliograph.settings import Settings
from heliograph.tasks import end
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

StartServer = Callable[..., RedisServer]


@pytest.fixture
def live(own_redis: RedisServer) -> RedisServer:
    """The volatile server."""
    return own_redis


@pytest.fixture
def durable(tmp_path: Path) -> Any:
    """The server that writes each command to disk."""
    server = RedisServer(tmp_path, appendonly=True).start()
    yield server
    server.stop()


@pytest.fixture
async def composite(live: RedisServer, durable: RedisServer) -> AsyncIterator[Composite]:
    async with Composite(live.url, durable.url, prefix="t:") as composite:
        yield composite


@asynccontextmanager
async def following(composite: Composite, key: str, **options: Any) -> AsyncIterator[list[Item]]:
    """What a follower gets while the block runs."""
    items: list[Item] = []

    async def follow() -> None:
        followed: Any = composite.follow(key, **options)  # a generator, as only its type does not say
        async with aclosing(followed) as found:
            async for item in found:
                items.append(item)

    task = asyncio.create_task(follow())
    try:
        yield items
    finally:
        await end([task])  # more than one cancellation may be needed: redis-py can lose one


def data(items: list[Item]) -> list[Any]:
    return [item.data for item in items]


# -- live alone


async def test_live_tells_how_many_heard_it(live: RedisServer) -> None:
    """Fails if the count is not Redis' own, or a subscription is not in force when it is returned."""
    one = Live(live.url)
    other = Live(live.url, channel_prefix="other:")
    assert await one.publish("날씨", "nobody") == 0
    async with (
        await one.subscribe("날씨", "news") as first,
        await one.subscribe("날씨"),
        await other.subscribe("날씨"),
    ):
        assert await one.publish("날씨", "비".encode()) == 2, "the prefix keeps the third out of it"
        assert await first.next(1.0) == LiveMessage("날씨", "비".encode())
        assert await first.next(0.01) is None
    await one.close()
    await other.close()


async def test_a_live_subscription_says_when_it_is_lost(live: RedisServer) -> None:
    """Fails if redis-py subscribes anew in silence: what was published meanwhile would be missing unnoticed."""
    one = Live(live.url)
    async with await one.subscribe("news") as subscription:
        live.command("CLIENT", "KILL", "TYPE", "pubsub")
        with pytest.raises(BusUnavailable):
            await subscription.next(1.0)
    await one.close()


# -- the composite


async def test_one_call_keeps_remembers_and_tells(
    composite: Composite, live: RedisServer, durable: RedisServer
) -> None:
    """Fails if one of the three is left out, or lands on the wrong server."""
    listener = Live(live.url)
    async with await listener.subscribe("sensor-7") as subscription:
        stored = await composite.publish("sensor-7", {"celsius": 21.5, "곳": "서울"})
        assert stored.heard == 1
        message = await subscription.next(1.0)
    assert message is not None
    assert json.loads(message.data) == {"id": stored.id, "key": "sensor-7", "data": {"celsius": 21.5, "곳": "서울"}}
    assert await composite.latest("sensor-7") == Item(stored.id, "sensor-7", {"celsius": 21.5, "곳": "서울"})
    assert await composite.latest("sensor-8") is None
    assert live.command("DBSIZE") == "0", "the live server keeps nothing"
    assert durable.command("DBSIZE") == "3", "one shard, one latest, and which run of Redis this is"
    await listener.close()


async def test_the_latest_state_is_forgotten_after_its_time(live: RedisServer) -> None:
    """Fails if the latest state has no TTL (a key that is never used again stays for ever)."""
    async with Composite(live.url, prefix="t:", latest_ttl_s=0.1) as one_server:
        await one_server.publish("k", 1)
        assert await one_server.latest("k") is not None
        await asyncio.sleep(0.15)
        assert await one_server.latest("k") is None


async def test_a_follower_gets_each_entry_of_its_key_once_and_in_order(composite: Composite) -> None:
    """Fails if entries of other keys of the shard get in, or one is given out twice (log and live)."""
    first = await composite.publish("a", -1)
    async with (
        following(composite, "a", after="0-0", poll_s=5) as everything,
        following(composite, "a", after=first.id, poll_s=5) as rest,
    ):
        await eventually(lambda: data(everything) == [-1])
        for number in range(100):
            await composite.publish("a" if number % 2 else f"b{number}", number)
        odd = [number for number in range(100) if number % 2]
        await eventually(lambda: data(everything) == [-1, *odd], within_s=3)
        await eventually(lambda: data(rest) == odd, within_s=3)
    assert not any(item.gap for item in everything)


async def test_the_live_server_dies(composite: Composite, live: RedisServer) -> None:
    """Fails if that refuses what can be kept, claims that it was sent, or followers miss what was published."""
    async with following(composite, "a", after="0-0", poll_s=0.2) as items:
        assert (await composite.publish("a", 1)).heard is not None
        await eventually(lambda: data(items) == [1])
        live.stop()
        assert (await composite.publish("a", 2)).heard is None
        await eventually(lambda: data(items) == [1, 2])
        latest = await composite.latest("a")
        assert latest is not None
        assert latest.data == 2
        live.start()
        await eventually(lambda: _heard(composite, "b"))
        await composite.publish("a", 3)
        await eventually(lambda: data(items) == [1, 2, 3])


async def _heard(composite: Composite, key: str) -> bool:
    return (await composite.publish(key, 0)).heard is not None


async def test_a_frozen_live_server_costs_a_second(composite: Composite, live: RedisServer) -> None:
    """Fails if a live server that accepts and says nothing holds up the publisher for good."""
    await composite.publish("a", 1)
    live.freeze()
    stored = await asyncio.wait_for(composite.publish("a", 2), 3)
    assert stored.heard is None
    live.thaw()


async def test_the_durable_server_dies(composite: Composite, live: RedisServer, durable: RedisServer) -> None:
    """Fails if something is sent live that is not kept, or a follower ends, or the durable server forgets."""
    listener = Live(live.url)
    async with await listener.subscribe("a") as heard, following(composite, "a", after="0-0", poll_s=0.1) as items:
        await composite.publish("a", 1)
        assert await heard.next(1.0) is not None
        durable.stop()
        with pytest.raises(BusUnavailable):
            await composite.publish("a", 2)
        assert await heard.next(0.1) is None, "what is not kept is not sent"
        with pytest.raises(BusUnavailable):
            await composite.latest("a")
        durable.start()
        await composite.publish("a", 3)
        await eventually(lambda: data(items) == [1, 3])
        assert not any(item.gap for item in items)
    await listener.close()


async def test_a_full_durable_server_refuses(composite: Composite, live: RedisServer, durable: RedisServer) -> None:
    """Fails if half of a publication is kept, or one that was refused is sent."""
    await composite.publish("a", 1)
    durable.command("CONFIG", "SET", "maxmemory", "1")
    listener = Live(live.url)
    async with await listener.subscribe("a") as heard:
        with pytest.raises(BusUnavailable):
            await composite.publish("a", 2)
        assert await heard.next(0.1) is None
    latest = await composite.latest("a")
    assert latest is not None
    assert latest.data == 1
    await listener.close()


async def test_a_follower_that_is_too_far_behind_is_told(durable: RedisServer, live: RedisServer) -> None:
    """Fails if a gap that MAXLEN has made is skipped in silence, also behind entries of other keys."""
    async with Composite(live.url, durable.url, prefix="t:", shards=1) as composite:
        first = await composite.publish("a", 0)
        for number in range(10):
            await composite.publish("a", number)
        durable.command("XTRIM", "t:{stream:composite}:0", "MAXLEN", "0")
        await composite.publish("b", 10)
        async with following(composite, "a", after=first.id, poll_s=0.05) as items:
            await asyncio.sleep(0.1)
            await composite.publish("a", 11)
            await composite.publish("a", 12)
            await eventually(lambda: len(items) == 2)
    assert [(item.data, item.gap) for item in items] == [(11, True), (12, False)]


async def test_workers_can_read_what_the_composite_keeps(composite: Composite, durable: RedisServer) -> None:
    """Fails if the composite's stream is not one that `Consumer` understands."""
    got: list[Any] = []

    async def handle(entry: StreamEntry) -> None:
        got.append((entry["key"], entry.json("data")))

    consumer = Consumer(durable.url, "workers", handle, stream="composite", prefix="t:", shards_total=4, block_s=0.05)
    await composite.publish("a", {"n": 1})
    task = asyncio.create_task(consumer.run())
    await eventually(lambda: got == [("a", {"n": 1})])
    consumer.stop()
    await task


# -- the cluster over two servers


@pytest.fixture
def two(live: RedisServer, durable: RedisServer, namespace: str) -> dict[str, Any]:
    """The options of a replica whose log has a server of its own."""
    return {
        "redis": {"url": live.url, "durable_url": durable.url, "prefix": f"{namespace}:"},
        "channels": {"heartbeat_s": 0.2},
    }


@pytest.fixture
async def keeper(durable: RedisServer) -> AsyncIterator[Redis]:
    client = connect(durable.url)
    yield client
    await client.aclose()


async def test_the_cluster_keeps_on_one_server_and_tells_on_the_other(
    two: dict[str, Any], start_replica: StartReplica, live: RedisServer, durable: RedisServer, namespace: str
) -> None:
    """Fails if log, state or emissions land on the live server, or directory and bus on the durable one."""
    two = {**two, "emit": {"events": ["e"]}}
    first, second = await start_replica("replica-1", **two), await start_replica("replica-2", **two)
    async with Client(first.url, user="alice") as alice, Client(second.url, user="bob") as bob:
        assert (await alice.send("bob", "안녕"))["delivery"] == "remote"
        assert (await alice.send("alice", "me"))["delivery"] == "local"
        assert (await alice.send("carol", "later"))["delivery"] == "stored"
        await alice.say({"type": "emit", "event": "e", "data": 1, "id": 1})
        await alice.next("ack", id=1)
        assert await bob.messages(1) == ["안녕"]
        assert await alice.messages(1) == ["me"]
        await bob.nothing_more()
        await alice.say({"type": "subscribe", "channel": "news", "id": 2})
        await alice.next("subscribed")
        await bob.say({"type": "publish", "channel": "news", "data": "하나", "id": 3})
        await bob.next("ack", id=3)
        assert await alice.messages(1) == ["하나"]
        names = {key.removeprefix(f"{namespace}:") for key in live.command("KEYS", "*").split()}
        kinds = {name.rpartition(":")[2] for name in names if not name.startswith("probe:")}
        assert not kinds & {"meta", "log", "clients", "sequences", "state", "tail"}
        kept = {key.removeprefix(f"{namespace}:") for key in durable.command("KEYS", "*").split()}
        assert {"{#bob}:clients", "{#bob}:meta", "{news}:clients", "bus:sequences"} <= kept
        assert not any("holders" in key or "leases" in key for key in kept)
    async with Client(first.url, user="carol") as carol:
        await carol.say({"type": "history", "channel": "#carol"})
        assert [each["data"] for each in (await carol.next("history"))["publications"]] == ["later"]


async def test_the_cluster_goes_on_when_the_live_server_dies(
    two: dict[str, Any], start_replica: StartReplica, live: RedisServer
) -> None:
    """Fails if what is kept does not reach users here at once and users elsewhere with the heartbeat, each once."""
    first, second = await start_replica("replica-1", **two), await start_replica("replica-2", **two)
    async with Client(first.url, user="alice") as alice, Client(second.url, user="bob") as bob:
        for each in (alice, bob):
            await each.say({"type": "subscribe", "channel": "news"})
            await each.next("subscribed")
        assert (await alice.send("bob", 0))["delivery"] == "remote"
        assert await bob.messages(1) == [0]
        await asyncio.sleep(0.3)  # a heartbeat has seen that
        live.stop()
        assert (await alice.send("bob", 1))["type"] == "ack"
        assert (await alice.send("alice", 2))["delivery"] == "local"
        await alice.say({"type": "publish", "channel": "news", "data": 3, "id": 9})
        await alice.next("ack", id=9)
        assert await alice.messages(2) == [2, 3]
        assert sorted(await bob.messages(2)) == [1, 3]
        live.start()
        await eventually(lambda: first.replica.node.ready and second.replica.node.ready, within_s=10)
        await alice.send("bob", 4)
        assert await bob.messages(1) == [4]
        await alice.nothing_more()
        await bob.nothing_more()


async def test_the_cluster_delivers_nothing_that_the_durable_server_did_not_take(
    two: dict[str, Any], start_replica: StartReplica, durable: RedisServer
) -> None:
    """Fails if a publisher is told that it worked, or anybody gets what is not kept, or it does not recover."""
    first, second = await start_replica("replica-1", **two), await start_replica("replica-2", **two)
    async with Client(first.url, user="alice") as alice, Client(second.url, user="bob") as bob:
        await alice.send("bob", 0)
        assert await bob.messages(1) == [0]
        durable.stop()
        assert (await alice.send("bob", 1))["code"] == "unavailable"
        assert (await alice.send("bob", "typing", ephemeral=True))["delivery"] == "remote"
        assert await bob.messages(1) == ["typing"], "what is ephemeral needs the live server only"
        durable.start()

        async def is_taken() -> bool:  # between two attempts to connect, everything is refused at once
            return bool((await alice.send("bob", 2))["type"] == "ack")

        await eventually(is_taken)
        assert await bob.messages(1) == [2]
        await bob.nothing_more()


async def test_many_publishers_over_two_servers_keep_the_order(
    two: dict[str, Any], start_replica: StartReplica
) -> None:
    """Fails if publications that are announced out of order are delivered so, or lost, or doubled."""
    replicas = [await start_replica(f"replica-{number}", **two) for number in (1, 2)]
    async with Client(replicas[0].url, user="alice") as alice, Client(replicas[1].url, user="bob") as bob:
        for each in (alice, bob):
            await each.say({"type": "subscribe", "channel": "logs:1"})
            await each.next("subscribed")
        managers = [each.replica.manager for each in replicas]
        receipts = await asyncio.gather(
            *(managers[number % 2].publish("logs:1", number) for number in range(200)),
            *(managers[number % 2].publish("#bob", 1000 + number) for number in range(100)),
        )
        order = {result.position.offset: number for number, result in enumerate(receipts[:200]) if result.position}
        expected = [order[offset] for offset in sorted(order)]
        assert await alice.messages(200) == expected
        got = await bob.messages(300)
        assert [each for each in got if each < 1000] == expected
        assert sorted(each for each in got if each >= 1000) == list(range(1000, 1100))
        await alice.nothing_more()
        await bob.nothing_more()


def test_a_durable_server_alone_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a forgotten HELIOGRAPH_REDIS__URL means a cluster in memory, although what is kept has a server."""
    monkeypatch.setenv("HELIOGRAPH_AUTH__MODE", "open")
    monkeypatch.setenv("HELIOGRAPH_REDIS__DURABLE_URL", "redis://localhost:1/0")
    with pytest.raises(BadSetting, match="needs URL too"):
        Settings.load()
    monkeypatch.setenv("HELIOGRAPH_REDIS__URL", "redis://localhost:2/0")
    assert Settings.load().redis.durable_url == "redis://localhost:1/0"
