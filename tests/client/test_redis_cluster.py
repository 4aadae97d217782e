"""Programs beside the replicas on a Redis Cluster: publishers, consumers, and the command line."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis

from heliograph import Namespace, Published
from heliograph.cli import main
from heliograph.client.publisher import Publisher
from heliograph.protocol.shard_map import ShardMap
from tests.client.test_publisher import Both, made
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_cluster import RedisCluster
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


@pytest.mark.parametrize("change", [moved, failed_over])
@pytest.mark.alone
async def test_a_publisher_does_not_notice_that_another_server_has_the_slot(
    cluster: RedisCluster, namespace: str, change: Callable[[RedisCluster], None]
) -> None:
    """Fails if something acknowledged is lost or doubled, or the log begins a new epoch, though nothing was lost."""
    kinds = ("sync", "async")
    options: dict[str, Any] = {"namespaces": {"n": Namespace(history_size=100_000)}, "deadline_s": 20}
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
        assert len({each.epoch for each in done}) == 1
        kept = await asyncio.to_thread(stored, cluster, namespace, f"n:{kind}")
        assert [f'"message":{number}' in entry.decode() for number, entry in enumerate(kept)] == [True] * len(done)
