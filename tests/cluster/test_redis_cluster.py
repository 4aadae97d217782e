"""Redis Cluster: slots move from server to server, and masters are replaced, while messages go on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import msgspec
import pytest

from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.opening import open_server
from heliograph.callbacks import await_callback
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.ports import new_node_id
from heliograph.protocol.envelope import Envelope
from heliograph.settings import BusSettings
from tests.cluster.test_channels import publish
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_cluster import RedisCluster
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters with a replica each. Users and channels are in one slot, which moves from test to test."""
    made = RedisCluster(tmp_path_factory.mktemp("cluster"), replicas=True)
    try:
        yield made.start()
    finally:
        made.stop()


def moved(cluster: RedisCluster) -> None:
    for _ in range(3):
        cluster.move(cluster.slots[0])


def failed_over(cluster: RedisCluster) -> None:
    cluster.fail_over(cluster.owner(cluster.slots[0]))
    cluster.wait_until_whole()


@asynccontextmanager
async def chatting(alice: Client, acknowledged: list[int]) -> AsyncIterator[None]:
    """Meanwhile alice sends numbers to bob, each when the one before was acknowledged."""
    ended = asyncio.Event()

    async def send() -> None:
        while not ended.is_set():
            number = len(acknowledged)
            answer = await alice.send("bob", number, idempotency_key=f"k{number}")
            assert answer["type"] == "ack", answer
            acknowledged.append(number)

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        ended.set()
        await task


@pytest.mark.parametrize("change", [moved, failed_over])
@pytest.mark.alone
async def test_nobody_notices_that_another_server_has_the_slot(
    cluster: RedisCluster, start_replica: StartReplica, change: Callable[[RedisCluster], None]
) -> None:
    """Fails if a message is lost, doubled or refused, or a log begins a new epoch, though nothing was lost."""
    one, two = [await start_replica(f"replica-{number}", redis_url=cluster.url) for number in (1, 2)]
    acknowledged: list[int] = []
    async with Client(one.url, user="alice") as alice, Client(two.url, user="bob") as bob:
        await bob.say({"type": "subscribe", "channel": "chat:1"})
        cursor = (await bob.next("subscribed"))["cursor"]
        async with chatting(alice, acknowledged):
            await asyncio.to_thread(change, cluster)
            await asyncio.sleep(0.2)
        assert await bob.messages(len(acknowledged)) == acknowledged
        assert len(acknowledged) > 50, "alice has to send meanwhile"
        await publish(one, "chat:1", "after")
        assert await bob.messages(1) == ["after"]
        assert (await alice.send("bob", "at once", ephemeral=True))["type"] == "ack"
        assert await bob.messages(1) == ["at once"]
        await bob.nothing_more()
        assert await bob.only("lost", "error") == []
    async with Client(one.url, user="bob") as bob:
        await bob.say({"type": "subscribe", "channel": "chat:1", "cursor": cursor})
        assert (await bob.next("subscribed"))["recovered"] is True
        assert await bob.messages(1) == ["after"]


@pytest.mark.slow
async def test_a_master_that_is_gone_takes_nothing_acknowledged_with_it(
    cluster: RedisCluster, start_replica: StartReplica
) -> None:
    """Fails if a message is lost that replicas of Redis have confirmed, or anybody is told of a loss."""
    slot = cluster.slots[0]

    def replace() -> None:
        gone = cluster.owner(slot)
        gone.stop()
        cluster.owner(slot)
        gone.start()  # as a replica, without which nothing is confirmed any more

    ack = {"ack": "replica"}
    one, two = [await start_replica(f"replica-{number}", redis_url=cluster.url, redis=ack) for number in (1, 2)]
    async with Client(one.url, user="alice") as alice, Client(two.url, user="bob") as bob:
        number, gone = 0, None
        async with asyncio.timeout(40):
            while gone is None or not gone.done() or number < 40:
                answer = await alice.send("bob", number, idempotency_key=f"k{number}")
                number += answer["type"] == "ack"
                await asyncio.sleep(0.05)  # fewer than are kept, until bob's replica listens again
                if number == 20 and gone is None:
                    gone = asyncio.create_task(asyncio.to_thread(replace))
        await gone
        got: dict[int, None] = {}
        while number - 1 not in got:
            got.update(dict.fromkeys(await bob.messages(1)))
        assert list(got) == list(range(number))
        assert [frame["recovered"] for frame in await bob.only("subscribed")] == []
    cluster.wait_until_whole()


async def test_users_and_channels_are_spread_over_virtual_shards(
    redis_cluster: RedisCluster, start_replica: StartReplica
) -> None:
    """Fails if a user or a channel of some virtual shard is not reached from another replica."""
    url = redis_cluster.url.replace("virtual_shards=1", "virtual_shards=4")
    one, two = [await start_replica(f"replica-{number}", redis_url=url) for number in (1, 2)]
    users, channels = [f"user-{number}" for number in range(8)], [f"chat:{number}" for number in range(8)]
    async with Client(one.url, user="alice") as alice, AsyncExitStack() as stack:
        for user, channel in zip(users, channels, strict=True):
            client = await stack.enter_async_context(Client(two.url, user=user))
            await client.say({"type": "subscribe", "channel": channel})
            await client.next("subscribed")
            assert (await alice.send(user, "kept"))["type"] == "ack"
            assert (await alice.send(user, "passing", ephemeral=True))["type"] == "ack"
            await publish(one, channel, "to all")
            assert sorted(await client.messages(3)) == ["kept", "passing", "to all"]


async def test_the_server_itself_says_that_the_slot_has_left(
    cluster: RedisCluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a bus without any other traffic does not take the server's `sunsubscribe` for what it is."""
    monkeypatch.setattr("heliograph.backends.redis.cluster.topology.LOOK_S", 600)
    keys = Keys(f"{namespace}:", f"{namespace}:events")
    bus = PubSubManager(
        open_server(cluster.url, keys, node_id=new_node_id()),
        bus=BusSettings(canary_interval_s=30, canary_timeout_s=60),
    )
    got: list[Envelope] = []
    try:
        await bus.initialize()
        bus.start_listening(got.append)
        await eventually(lambda: sum(bus.stats.lag.counts) > 0)  # the canary is back, and none follows
        await bus.follow("chat:1")
        await asyncio.to_thread(cluster.move, cluster.slots[0])
        await eventually(lambda: bus.stats.resubscriptions == 1, within_s=10)
        assert bus.stats.connection_losses == 0
        envelope = Envelope(message=msgspec.Raw(b"1"), channel="chat:1")
        await await_callback(partial(bus.relay_on, envelope))
        await eventually(lambda: len(got) == 1)
    finally:
        await bus.close()
        await bus.server.close()
