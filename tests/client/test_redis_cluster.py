"""Programs beside the replicas on a Redis Cluster: publishers, consumers, and the command line."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner
from redis import Redis

from heliograph import Consumer, Namespace, Published, StreamEntry
from heliograph.backends.redis.cluster.tags import balanced_tags, slot_of
from heliograph.cli import main
from heliograph.client import redis_transport
from heliograph.client.publisher import Publisher
from heliograph.errors import PublishError
from heliograph.protocol.shard_map import ShardMap
from tests.client.test_publisher import Both, made
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_cluster import RedisCluster
from tests.support.replicas import run_replica, settings_for
from tests.support.waiting import eventually

EPHEMERAL = {"cursors": Namespace(ephemeral=True)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters with a replica each. Users and channels are in one slot, which moves from test to test."""
    started = RedisCluster(tmp_path_factory.mktemp("cluster"), replicas=True)
    try:
        yield started.start()
    finally:
        started.stop()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def spread(cluster: RedisCluster, count: int = 4) -> str:
    """The URL with several virtual shards."""
    return cluster.url.replace("virtual_shards=1", f"virtual_shards={count}")


async def test_every_virtual_shard_is_reached(
    redis_cluster: RedisCluster, start_replica: StartReplica, namespace: str, kind: str
) -> None:
    """Fails if a program writes, in some virtual shard, where the replicas do not look."""
    url, shards = spread(redis_cluster), ShardMap(4)
    replica = await start_replica(redis_url=url, namespaces=EPHEMERAL)
    names = {shards.of(f"chat:{number}"): f"chat:{number}" for number in range(40)}
    cursors = {shards.of(f"cursors:{number}"): f"cursors:{number}" for number in range(40)}
    assert len(names) == len(cursors) == 4
    publisher = made(kind, url, namespace, namespaces=EPHEMERAL)
    async with Client(replica.url, user="bob") as bob:
        for channel in (*names.values(), *cursors.values()):
            await bob.say({"type": "subscribe", "channel": channel})
            await bob.next("subscribed", channel=channel)
            await publisher.publish(channel, channel)
            assert (await bob.next("message", channel=channel))["data"] == channel
        await publisher.send_to_user("bob", "hello")
        assert (await bob.next("message", channel="#bob"))["data"] == "hello"
        await publisher.log_many(7, [(str(number), "stdout") for number in range(100)])
    await publisher.close()


async def test_another_number_of_virtual_shards(
    redis_cluster: RedisCluster, start_replica: StartReplica, namespace: str, kind: str
) -> None:
    """Fails if a program publishes, or a replica serves users, where the replicas of the cluster do not look."""
    replica = await start_replica(redis_url=spread(redis_cluster))
    channels = {ShardMap(4).of(f"chat:{number}"): f"chat:{number}" for number in range(40)}
    for count in (1, 2, 8):
        url = spread(redis_cluster, count)
        for namespaces in ({}, {"chat": Namespace(ephemeral=True)}):
            publisher = made(kind, url, namespace, namespaces=namespaces)
            for channel in channels.values():
                with pytest.raises(PublishError, match="virtual_shards"):
                    await publisher.publish(channel, 1)
            await publisher.close()
        other = await run_replica(settings_for(redis_url=url, namespace=namespace), "replica-2")
        try:
            await eventually(lambda other=other: other.replica.node.reason == "redis_layout")
        finally:
            await other.stop()
    assert replica.replica.node.ready
    assert replica.replica.node.reason == ""


async def test_runs_that_lose_their_worker(
    redis_cluster: RedisCluster, start_replica: StartReplica, namespace: str
) -> None:
    """Fails if the lease of a run is not seen, or not given up, in the virtual shard that has the run."""
    await start_replica(redis_url=spread(redis_cluster))
    publisher = Publisher(spread(redis_cluster), prefix=f"{namespace}:", bus_channel=f"{namespace}:events")

    def lose_them() -> int:
        runs = [f"run-{number}" for number in range(8)]
        publisher.lease_runs(runs, 60)
        publisher.release_run(runs[0])
        publisher.lease_runs(runs[1:], 0.001)
        return publisher.reap_lost_runs()

    with publisher:
        assert await asyncio.to_thread(lose_them) <= 7  # the replica looks for them too


def test_the_command_line(redis_cluster: RedisCluster, namespace: str) -> None:
    """Fails if `publish` or `shards` cannot use a cluster, by option or by variable."""
    names = {"HELIOGRAPH_REDIS__PREFIX": f"{namespace}:", "HELIOGRAPH_BUS__CHANNEL": f"{namespace}:events"}

    def run(*words: str, **variables: str) -> str:
        done = CliRunner().invoke(main, words, env={**names, **variables})
        assert done.exit_code == 0, done.output
        return done.output

    url = spread(redis_cluster, 2)
    assert run("publish", "news", "one", "--redis", url).strip()
    run("shards", "--adopt", HELIOGRAPH_REDIS__URL=url)
    shown = run("shards", HELIOGRAPH_REDIS__URL=url).splitlines()
    assert [line.partition("  ")[2] for line in shown] == ["shard 1 of 2 (v1): ok", "shard 2 of 2 (v1): ok"]


# -- slots that move, and masters that are replaced


@asynccontextmanager
async def publishing(publisher: Both, channel: str, acknowledged: list[Published]) -> AsyncIterator[None]:
    """Meanwhile the publisher publishes numbers, each when the one before was acknowledged."""
    ended = asyncio.Event()

    async def publish() -> None:
        while not ended.is_set():
            acknowledged.append(await publisher.publish(channel, len(acknowledged)))

    task = asyncio.create_task(publish())
    try:
        await eventually(lambda: len(acknowledged) > 10)
        yield
        enough = len(acknowledged) + 10
        await eventually(lambda: task.done() or len(acknowledged) > enough, within_s=20)
    finally:
        ended.set()
        await task


def stored(cluster: RedisCluster, namespace: str, channel: str) -> list[bytes]:
    """The data of all entries of a channel's log, in order."""
    slot = cluster.slots[0]
    with Redis.from_url(cluster.owner(slot).url) as redis:
        [key] = list(redis.keys(f"{namespace}:*{{{channel}}}:log"))
        found: Any = redis.xrange(key)
    return [fields[b"b"] for _, fields in found]


def moved(cluster: RedisCluster) -> None:
    for _ in range(2):
        cluster.move(cluster.slots[0])


def failed_over(cluster: RedisCluster) -> None:
    cluster.fail_over(cluster.owner(cluster.slots[0]))
    cluster.wait_until_whole()


def frozen(cluster: RedisCluster) -> None:
    """The master hangs, is replaced, and goes on as if nothing had happened."""
    master = cluster.owner(cluster.slots[0])
    replica = cluster.replica_of(master)
    master.freeze()
    try:
        deadline = time.monotonic() + 20
        while not replica.command("ROLE").startswith("master"):
            assert time.monotonic() < deadline, "the replica does not take over"
            time.sleep(0.05)
        time.sleep(0.5)  # publishers have to leave a master that only keeps silent
    finally:
        master.thaw()
    cluster.wait_until_whole()


def moved_at_once(cluster: RedisCluster) -> None:
    for _ in range(2):
        cluster.move_at_once(cluster.slots[0])


@pytest.mark.parametrize("change", [moved, failed_over])
@pytest.mark.alone
async def test_a_publisher_does_not_notice_that_another_server_has_the_slot(
    cluster: RedisCluster, namespace: str, change: Callable[[RedisCluster], None]
) -> None:
    """Fails if something acknowledged is lost or doubled, or the log begins a new epoch, though nothing was lost."""
    await publish_during(cluster, namespace, change)


def test_a_slot_that_moves_while_threads_use_all_connections(
    cluster: RedisCluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a publisher takes a move for a loss because its own threads have all connections to the new owner."""
    monkeypatch.setattr(redis_transport, "MAX_CONNECTIONS", 1)
    with Publisher(cluster.url, prefix=f"{namespace}:", bus_channel=f"{namespace}:events") as publisher:
        publisher.publish("news", 1)
        scripts: Any = publisher._redis_transport("")._scripts  # type: ignore[union-attr]
        before = scripts._loaded.known
        cluster.move(cluster.slots[0])
        publisher.publish("news", 2)
        assert scripts._loaded.known.process != before.process
        assert scripts._loaded.known.name == before.name


@pytest.mark.alone
async def test_a_master_that_hangs_and_is_replaced(cluster: RedisCluster, namespace: str) -> None:
    """Fails if something is lost or doubled though replicas of Redis have confirmed it."""
    await publish_during(cluster, namespace, frozen, ack="replica", epochs=2)


@pytest.mark.alone
async def test_a_slot_that_moves_in_one_step(tmp_path: Path, start_replica: StartReplica, namespace: str) -> None:
    """Fails likewise if the slot moves as in Valkey 9, whose clients see no ASK; or if a replica loses the bus."""
    valkey = RedisCluster(tmp_path, server="valkey")
    try:
        await asyncio.to_thread(valkey.start)
        replica = await start_replica(redis_url=valkey.url)
        async with Client(replica.url, user="bob") as bob:
            await publish_during(valkey, namespace, moved_at_once)
            for kind in ("sync", "async"):
                publisher = made(kind, valkey.url, namespace)
                for number in range(3):
                    await publisher.send_to_user("bob", number)
                await publisher.close()
            assert await bob.messages(6) == [0, 1, 2] * 2
            await bob.nothing_more()
            assert await bob.only("lost", "error") == []
        assert replica.replica.node.ready
        await replica.stop()
    finally:
        valkey.stop()


async def publish_during(
    cluster: RedisCluster, namespace: str, change: Callable[[RedisCluster], None], *, epochs: int = 1, **options: Any
) -> None:
    """Publish with both publishers while the cluster changes, and look at what they got and what is kept."""
    kinds = ("sync", "async")
    options |= {"namespaces": {"n": Namespace(history_size=100_000)}, "deadline_s": 30}
    publishers = [made(kind, cluster.url, namespace, **options) for kind in kinds]
    acknowledged: list[list[Published]] = [[], []]
    one, two = (
        publishing(publisher, f"n:{kind}", done)
        for publisher, kind, done in zip(publishers, kinds, acknowledged, strict=True)
    )
    async with one, two:
        await asyncio.to_thread(change, cluster)
    for publisher, kind, done in zip(publishers, kinds, acknowledged, strict=True):
        await publisher.close()
        assert [each.offset for each in done] == list(range(1, len(done) + 1))
        assert len({each.epoch for each in done}) == epochs
        kept = await asyncio.to_thread(stored, cluster, namespace, f"n:{kind}")
        assert [f'"message":{number}' in entry.decode() for number, entry in enumerate(kept)] == [True] * len(done)


async def test_a_consumer_reads_on_when_slots_move(
    cluster: RedisCluster, start_replica: StartReplica, namespace: str
) -> None:
    """Fails if an emission of some virtual shard is not handled, or a user's emissions overtake each other."""
    url = spread(cluster, 2)
    replica = await start_replica(redis_url=url, emit={"events": ["*"]})
    handled: dict[str, list[int]] = {"alice": [], "bob": [], "carol": [], "dave": []}
    assert {ShardMap(2).of(f"#{user}") for user in handled} == {0, 1}

    async def handle(entry: StreamEntry) -> None:
        if not handled[entry["user"]] or handled[entry["user"]][-1] != entry.json("data"):  # at least once
            handled[entry["user"]].append(entry.json("data"))

    consumer = Consumer(url, "workers", handle, prefix=f"{namespace}:", block_s=0.5, claim_idle_s=1)
    running = asyncio.create_task(consumer.run())
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(replica.url, user=user)) for user in handled]
        for number in range(6):
            for client in clients:
                await client.say({"type": "emit", "event": "order", "data": number, "id": number})
                assert (await client.next("ack", "error", id=number))["type"] == "ack"
            if number % 3 == 0:
                for tag in balanced_tags(2):
                    await asyncio.to_thread(cluster.move, slot_of(tag))
        await eventually(lambda: set(map(tuple, handled.values())) == {tuple(range(6))}, within_s=20)
    consumer.stop()
    await running
    assert consumer.stats.dead == consumer.stats.failed == 0


# -- slots between two servers


async def test_a_slot_whose_keys_are_on_both_servers(
    cluster: RedisCluster, start_replica: StartReplica, namespace: str
) -> None:
    """Fails if a call that is answered with ASK or TRYAGAIN is lost, doubled, or begins a new epoch.

    The channel `gone` has moved as a whole, `half` in part, and a third is new.
    """
    slot, channels = cluster.slots[0], ("t:gone", "t:half", "t:new")
    replica = await start_replica(redis_url=cluster.url)
    parties = [made(kind, cluster.url, namespace) for kind in ("sync", "async")]
    before = [await party.publish(channel, 0) for party in parties for channel in channels[:2]]
    target = cluster.another(slot)
    source = cluster.begin_move(slot, target)
    with Redis.from_url(source.url) as redis:
        keys = {channel: cast("list[bytes]", redis.keys(f"{namespace}:*{{{channel}}}*")) for channel in channels[:2]}
        half = sorted(keys["t:half"])
        redis.migrate("127.0.0.1", target.port, [*keys["t:gone"], half[0]], 0, 5000)
    assert "ASK " in source.command("EXISTS", keys["t:gone"][0].decode())
    assert "TRYAGAIN" in source.command("EXISTS", half[0].decode(), half[1].decode())
    async with Client(replica.url, user="alice") as alice:
        held = [asyncio.create_task(party.publish(channel, 1)) for party in parties for channel in channels]
        sent = asyncio.create_task(alice.send("bob", "hello"))
        await asyncio.sleep(0.2)  # meanwhile nothing can be done
        assert not any(task.done() for task in (*held, sent))
        await asyncio.to_thread(cluster.move_keys, slot, source, target)
        await asyncio.to_thread(cluster.end_move, slot, source, target)
        after = await asyncio.gather(*held)
        assert (await sent).get("code") in (None, "unavailable")  # on a busy machine the move takes a second
    for channel in channels:
        offsets = [each.offset for each in (*before, *after) if each.channel == channel]
        assert sorted(offsets) == list(range(1, len(offsets) + 1))
        assert len({each.epoch for each in (*before, *after) if each.channel == channel}) == 1
    for party in parties:
        await party.close()


async def test_a_move_that_takes_longer_than_a_call_waits(
    cluster: RedisCluster, start_replica: StartReplica, namespace: str
) -> None:
    """Fails if a client waits for ever, is not told that nothing was done, or its repetition is kept twice."""
    slot = cluster.slots[0]
    replica = await start_replica(redis_url=cluster.url)
    publisher = made("sync", cluster.url, namespace, deadline_s=0.2)
    patient = made("sync", cluster.url, namespace, deadline_s=20)
    async with Client(replica.url, user="alice") as alice, Client(replica.url, user="bob") as bob:
        assert (await alice.send("bob", 0))["type"] == "ack"
        target = cluster.another(slot)
        source = cluster.begin_move(slot, target)
        waiting = asyncio.create_task(patient.publish("t:patient", 1))
        answer = await alice.send("bob", 1, idempotency_key="one")
        assert (answer["type"], answer["code"]) == ("error", "unavailable")
        with pytest.raises(PublishError, match=r"moving|ASK|TRYAGAIN") as refused:
            await publisher.publish("t:late", 1)
        assert "may have been" not in str(refused.value)
        await asyncio.to_thread(cluster.move_keys, slot, source, target)
        await asyncio.to_thread(cluster.end_move, slot, source, target)
        assert (await waiting).offset == 1

        async def sent() -> bool:
            return bool((await alice.send("bob", 1, idempotency_key="one"))["type"] == "ack")

        await eventually(sent, within_s=10)
        assert await bob.messages(2) == [0, 1]
        await bob.nothing_more()
    await publisher.close()
    await patient.close()


def test_a_url_of_one_server_is_not_enough(redis_cluster: RedisCluster, namespace: str) -> None:
    """Fails if who gives the URL of a cluster's server, as of one Redis, is not told what to give."""
    told = []
    with Publisher(
        f"redis://127.0.0.1:{redis_cluster.servers[0].port}", prefix=f"{namespace}:", deadline_s=0
    ) as publisher:
        for number in range(20):  # some channels are at the other two servers
            try:
                publisher.publish(f"chat:{number}", 1)
            except PublishError as error:
                told.append(str(error))
    assert told
    assert all("redis+cluster://" in text for text in told)
