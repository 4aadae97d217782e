"""Several Redis servers, over which users and channels are spread: each shard is a whole little cluster."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from heliograph import (
    AsyncPublisher,
    BadSetting,
    BusUnavailable,
    Consumer,
    Namespace,
    Publisher,
    PublishError,
    StreamEntry,
)
from heliograph.backends.redis.keys import Keys
from heliograph.callbacks import await_callback
from heliograph.client.shard_list import ShardList
from heliograph.cluster.sharded_bus import ShardedBus
from heliograph.protocol.envelope import Envelope
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.metrics import families, scrape
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica, run_replica, settings_for
from tests.support.shards import RedisShards
from tests.support.waiting import eventually

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "heliograph.json"
KEY = "6c1fa0b2d5e84f3d"
OPTIONS: dict[str, Any] = {
    "api": {"key": KEY},
    "emit": {"events": ["*"]},
    "namespaces": {"lobby": {"presence": True, "join_leave": True}, "run": {"run": True}},
}
HEADERS = {"X-API-Key": KEY}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisShards]:
    """Three servers that the tests share, each test in a namespace of its own."""
    started = RedisShards(tmp_path_factory.mktemp("shards")).start()
    yield started
    started.stop()


@pytest.fixture
def own_shards(tmp_path: Path) -> Iterator[RedisShards]:
    started = RedisShards(tmp_path).start()
    yield started
    started.stop()


@pytest.fixture
async def pair(shards: RedisShards, start_replica: StartReplica) -> tuple[RunningReplica, RunningReplica]:
    one, two = await asyncio.gather(*(start_replica(f"replica-{n}", **shards.options, **OPTIONS) for n in (1, 2)))
    return one, two


@pytest.fixture
async def api(pair: tuple[RunningReplica, RunningReplica]) -> AsyncIterator[Any]:
    async with http_client(pair[0].url, headers=HEADERS) as http:

        async def call(method: str, **params: Any) -> Any:
            answer = (await http.post(f"/api/{method}", json=params)).json()
            assert "error" not in answer, answer
            return answer["result"]

        yield call


@asynccontextmanager
async def devices(users: Sequence[str], *replicas: RunningReplica) -> AsyncIterator[list[Client]]:
    """A client of each user, on these replicas in turn."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Client(replicas[number % len(replicas)].url, user=user))
            for number, user in enumerate(users)
        ]


def keys(shards: RedisShards, pattern: str) -> list[int]:
    """In which shards there are such keys."""
    return [index for index, server in enumerate(shards.servers) if server.command("KEYS", pattern)]


class TestTheWayOfAMessage:
    async def test_users_and_channels_of_every_shard(
        self, pair: tuple[RunningReplica, RunningReplica], shards: RedisShards, namespace: str
    ) -> None:
        """Fails if a message for a user or on a channel of some shard is lost, doubled, out of order or elsewhere."""
        users, channels = shards.names("#user-"), shards.names("news-")
        async with Client(pair[0].url, user="alice") as alice:
            for index, (user, channel) in enumerate(zip(users, channels, strict=True)):
                async with Client(pair[1].url, user=user) as bob:
                    await bob.say({"type": "subscribe", "channel": channel})
                    await bob.next("subscribed")
                    for number in range(20):
                        assert (await alice.send(user, number))["type"] == "ack"
                        await alice.say({"type": "publish", "channel": channel, "data": 100 + number})
                    assert (await alice.send(user, "ephemeral", ephemeral=True))["delivery"] == "remote"
                    got = await bob.messages(41)
                    assert [each for each in got if each in range(20)] == list(range(20))
                    assert [each for each in got if each in range(100, 120)] == list(range(100, 120))
                    assert "ephemeral" in got
                    await bob.nothing_more()
                found = [keys(shards, f"{namespace}:{{#{user}}}:{stream}") for stream in ("log", "clients")]
                assert sorted(found) == [[], [index]]
                assert keys(shards, f"{namespace}:{{{channel}}}:*") == [index]

    async def test_a_client_resumes_channels_of_all_shards(
        self, pair: tuple[RunningReplica, RunningReplica], shards: RedisShards, api: Any
    ) -> None:
        """Fails if what came meanwhile on a channel of some shard is missing, doubled, or said to be lost."""
        [user, *_], channels = shards.names("#user-"), shards.names("news-")
        async with Client(pair[1].url, user=user) as bob:
            for channel in channels:
                await bob.say({"type": "subscribe", "channel": channel})
                await bob.next("subscribed", channel=channel)
            for channel in (*channels, f"#{user}"):
                await api("publish", channel=channel, data="seen")
            cursors = {}
            for _ in range(4):
                frame = await bob.next("message")
                cursors[frame.get("channel", "")] = frame["cursor"]
        for channel in (*channels, f"#{user}"):
            await api("publish", channel=channel, data="missed")
        async with Client(pair[0].url) as bob:
            await bob.say({"type": "connect", "user": user, "cursor": list(cursors.values())[-1]})
            await bob.next("connected")
            for channel, cursor in cursors.items():
                if channel:
                    await bob.say({"type": "subscribe", "channel": channel, "cursor": cursor})
                    assert (await bob.next("subscribed", channel=channel))["recovered"]
                    assert await bob.messages(1) == ["missed"]

    async def test_an_idempotency_key_counts_in_its_shard(
        self, pair: tuple[RunningReplica, RunningReplica], shards: RedisShards
    ) -> None:
        """Fails if a repetition through another replica is published twice."""
        for user in shards.names("#user-"):
            async with Client(pair[0].url, user="alice") as one, Client(pair[1].url, user="alice") as two:
                first = await one.send(user, 1, idempotency_key="k")
                assert (await two.send(user, 1, idempotency_key="k"))["message_id"] == first["message_id"]


class TestWhatServersAsk:
    async def test_presence_runs_channels_and_blocks(
        self, pair: tuple[RunningReplica, RunningReplica], shards: RedisShards, api: Any
    ) -> None:
        """Fails if what the server API says or does misses a shard."""
        users, lobbies = shards.names("#user-"), shards.names("lobby:")
        async with devices(users, *pair) as clients:
            for lobby in lobbies:
                for client in clients:
                    await client.say({"type": "subscribe", "channel": lobby})
                    await client.next("subscribed", channel=lobby)

                async def all_there(lobby: str = lobby) -> bool:
                    return bool((await api("presence_stats", channel=lobby))["num_users"] == 3)

                await eventually(all_there)

            async def listed() -> bool:
                found = (await api("channels"))["channels"]
                return all(found.get(lobby, {}).get("num_clients") == 3 for lobby in lobbies)

            await eventually(listed)
            assert len((await api("info"))["nodes"]) == 2
            for run in shards.names("run:"):
                await api("publish", channel=run, data={"state": "RUNNING", "progress": 40})
                async with http_client(pair[1].url) as http:
                    answer = await http.get(f"/api/runs/{run.removeprefix('run:')}?user=bob")
                    assert answer.json()["progress"] == 40
            for user, client in zip(users, clients, strict=True):
                await api("disconnect", user=user, block_s=60)
                assert await client.close_code() == 3503
                for replica in pair:
                    async with Client(replica.url) as again:
                        await again.say({"type": "connect", "user": user})
                        assert await again.close_code() == 3503

    async def test_one_request_for_channels_of_all_shards(
        self, pair: tuple[RunningReplica, RunningReplica], shards: RedisShards, api: Any
    ) -> None:
        """Fails if a broadcast, or one history of many, stops at the border of a shard."""
        channels = [f"news-{number}" for number in range(12)]
        result = await api("broadcast", channels=channels, data={"n": 1})
        assert [each["result"]["offset"] for each in result["responses"]] == [1] * 12
        for channel in channels:
            assert len((await api("history", channel=channel, limit=10))["publications"]) == 1

    async def test_metrics_and_readiness_tell_of_each_shard(
        self, pair: tuple[RunningReplica, RunningReplica]
    ) -> None:
        """Fails if one does not see which Redis fails."""
        text = await scrape(pair[0])
        for shard in "123":
            assert f'heliograph_shard_up{{shard="{shard}"}} 1.0' in text
            assert f'heliograph_bus_received_total{{shard="{shard}"}}' in text
            assert f'heliograph_publish_seconds_count{{shard="{shard}"}}' in text
        there = {sample.name for family in families(text) for sample in family.samples if "shard" in sample.labels}
        shown = set(re.findall(r"(heliograph_\w+)\{[^{}]*shard!=", DASHBOARD.read_text()))
        assert len(shown) > 4
        assert shown <= there, "the dashboard shows by shard what is not told by shard"
        async with http_client(pair[0].url) as http:
            answer = (await http.get("/ready")).json()
            assert answer["ready"]
            assert len(answer["shards"]) == 3
            rows = (await http.get("/api/cluster")).json()["shards"]
            assert [(row["shard"], row["works"]) for row in rows] == [(1, True), (2, True), (3, True)]


class TestProgramsBesideTheCluster:
    async def test_a_replica_is_reached_over_the_shards_in_which_it_listens(
        self, pair: tuple[RunningReplica, RunningReplica]
    ) -> None:
        """Fails if a replica whose bus begins anew in one shard counts as gone: its clients would lose sessions."""
        one, two = pair
        bus = ShardedBus([shard.backends.bus for shard in one.replica.shards])
        envelope = Envelope(message=msgspec.Raw(b"null"), channel="", node_id=bus.node_id)

        async def reach(node_id: str) -> Any:
            return await await_callback(lambda done: bus.post(node_id, envelope, done))

        await two.replica.shards[0].backends.bus.close()
        assert await reach(two.replica.node.node_id) == 1
        assert await reach("0123456789abcdef") == 0

    async def test_publishers_and_consumers_find_the_same_shards(
        self, pair: tuple[RunningReplica, RunningReplica], shards: RedisShards, namespace: str
    ) -> None:
        """Fails if a program without replicas looks for a channel in another Redis than the replicas do."""
        given: Any = {"prefix": f"{namespace}:", "bus_channel": f"{namespace}:events"}
        users = shards.names("#user-")
        got: list[StreamEntry] = []

        async def handle(entry: StreamEntry) -> None:
            got.append(entry)

        async with devices(users, *pair) as clients:
            with Publisher(shards.urls, **given) as plain:
                async with AsyncPublisher(", ".join(shards.urls), **given) as waiting:
                    for user, client in zip(users, clients, strict=True):
                        assert (await asyncio.to_thread(plain.send_to_user, user, "a")).offset == 1
                        assert (await waiting.send_to_user(user, "b")).offset == 2
                        assert await client.messages(2) == ["a", "b"]
                        lines = [(f"line {number}", "stdout") for number in range(5)]
                        assert [each.offset for each in await waiting.log_many(user, lines)] == [1, 2, 3, 4, 5]
                runs = [run.removeprefix("run:") for run in shards.names("run:")]
                for run in runs:
                    plain.publish_progress(run, state="RUNNING")
                plain.lease_runs(runs, 0.05)
                assert keys(shards, f"{namespace}:runs:leases") == [0, 1, 2]
                plain.release_run(runs[0])
                await asyncio.sleep(0.1)
                assert await asyncio.to_thread(plain.reap_lost_runs) == 2
            for client in clients:
                await client.say({"type": "emit", "event": "order", "data": 1, "id": "e"})
                await client.next("ack", id="e")
            consumer = Consumer(shards.urls, "workers", handle, prefix=f"{namespace}:", block_s=0.05)
            task = asyncio.create_task(consumer.run())
            await eventually(lambda: consumer.stats.handled == 3)
            consumer.stop()
            await task
            assert sorted(entry["user"] for entry in got) == sorted(users)


class TestAReplicaThatDies:
    async def test_is_forgotten_in_every_shard(
        self, pair: tuple[RunningReplica, RunningReplica], shards: RedisShards, namespace: str
    ) -> None:
        """Fails if users of a dead replica stay in the directory of some shard."""
        async with devices(shards.names("#user-"), pair[1]):
            assert keys(shards, f"{namespace}:{{#user-*}}:holders") == [0, 1, 2]
            for shard in pair[1].replica.shards:
                for task in shard.directory._tasks:
                    task.cancel()  # as if the process were gone: nothing renews its leases
            await eventually(lambda: keys(shards, f"{namespace}:{{#user-*}}:holders") == [])


@pytest.mark.alone
class TestAShardThatFails:
    async def test_a_lost_bus_connection_has_some_time_to_come_back(
        self, shards: RedisShards, start_replica: StartReplica
    ) -> None:
        """Fails if all replicas say that they are not ready because the bus of one shard begins anew."""
        calm = {"canary_interval_s": 0.5, "canary_timeout_s": 3.0}
        one = await start_replica("replica-1", **shards.options, bus=calm)
        lost = one.replica.shards[1].backends.bus
        before = lost.stats.resubscriptions
        shards.servers[1].command("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: not lost.ready)
        while lost.stats.resubscriptions == before or not lost.ready:
            assert one.replica.node.ready, one.replica.node.reason
            await asyncio.sleep(0.005)

    async def test_others_go_on_and_it_comes_back_empty(
        self, own_shards: RedisShards, start_replica: StartReplica
    ) -> None:
        """Fails if a dead shard hurts users of others, keeps its own waiting, or is not used again (F8)."""
        loop = asyncio.get_running_loop()
        options = {**own_shards.options, "bus": {"canary_timeout_s": 3.0}}  # the usual one: this machine may be slow
        one, two = await asyncio.gather(*(start_replica(f"replica-{n}", **options) for n in (1, 2)))
        users, dead = own_shards.names("#user-"), own_shards.servers[1]
        async with Client(one.url, user="alice") as alice, devices(users, two) as clients:
            for user in users:
                assert (await alice.send(user, "before"))["type"] == "ack"
            dead.stop()
            answers, slowest_s, until = [], 0.0, loop.time() + 1.5
            while loop.time() < until:
                for user in users:
                    began = loop.time()
                    answers.append((user, (await alice.send(user, "meanwhile")).get("code", "ack")))
                    slowest_s = max(slowest_s, loop.time() - began)
                for replica in (one, two):
                    assert replica.replica.node.ready, replica.replica.node.reason
                await asyncio.sleep(0.02)
            assert {user for user, code in answers if code == "unavailable"} == {users[1]}
            assert {code for user, code in answers if user != users[1]} == {"ack"}
            assert slowest_s < 2
            assert one.replica.node.reason == two.replica.node.reason == "bus_lost"
            async with http_client(one.url) as http:
                ready = await http.get("/ready")
                assert ready.status_code == 200
                assert [row["works"] for row in ready.json()["shards"]] == [True, False, True]
            async with Client(two.url, user=users[1]) as late, Client(two.url, user=users[0]) as other:
                assert late.connected["type"] == other.connected["type"] == "connected"
            dead.start()  # it has lost everything
            became_unready = []
            while one.replica.node.reason or two.replica.node.reason:
                became_unready += [each for each in (one, two) if not each.replica.node.ready]
                assert loop.time() < until + 10
                await asyncio.sleep(0.01)
            assert not became_unready
            assert (await alice.send(users[1], "after"))["type"] == "ack"
            await clients[1].next("message", data="after")
            assert (await alice.send(users[1], "now", ephemeral=True))["type"] == "ack"
            await clients[1].next("message", data="now")

    def test_workers_of_the_others_keep_their_runs(self, shards: RedisShards, namespace: str) -> None:
        """Fails if runs count as lost, or lost ones are not found, because the Redis of another one is gone."""
        keys = Keys(f"{namespace}:", f"{namespace}:events")
        urls = [shards.urls[0], f"redis://127.0.0.1:{free_port()}/0", shards.urls[2]]
        first, gone, last = (name.removeprefix("run:") for name in shards.names("run:"))

        def leased() -> list[str]:
            return [shards.servers[number].command("ZRANGE", keys.run_leases, "0", "-1") for number in (0, 2)]

        with Publisher(urls, prefix=keys.prefix, bus_channel=keys.bus_channel) as publisher:
            with pytest.raises(PublishError):
                publisher.lease_runs([gone, first, last], 0.001)
            assert leased() == [first, last]
            time.sleep(0.01)  # until the leases have run out
            with pytest.raises(PublishError):
                publisher.reap_lost_runs()
            assert leased() == ["", ""]


class TestAnotherLayout:
    async def test_replicas_of_two_layouts(
        self, own_shards: RedisShards, start_replica: StartReplica, namespace: str
    ) -> None:
        """Fails if a deploy in which half of the replicas know other shards splits channels in silence (F7)."""
        first = await start_replica("replica-1", **own_shards.options)
        fourth = RedisServer(own_shards.directory).start()
        try:
            for urls in (
                own_shards.urls[:2],
                own_shards.urls[::-1],
                own_shards.urls[:1],
                [*own_shards.urls, fourth.url],
            ):
                other = await run_replica(settings_for(namespace=namespace, redis={"shards": urls}), "replica-2")
                try:
                    await eventually(lambda other=other: other.replica.node.reason == "redis_layout")
                    async with http_client(other.url) as http:
                        ready = await http.get("/ready")
                    assert ready.status_code == 503
                    assert "of 3 (v1)" in ready.json()["detail"]
                    async with Client(other.url, user="alice") as alice:
                        for user in own_shards.names("#user-"):
                            assert (await alice.send(user, 1)).get("code") == "unavailable"
                finally:
                    await other.stop()
            assert fourth.command("KEYS", f"{namespace}:*log") == ""
            assert fourth.command("HGET", f"{namespace}:server", "layout") == ""
        finally:
            fourth.stop()
        assert first.replica.node.ready
        assert first.replica.node.reason == ""

    async def test_programs_of_another_layout(
        self, own_shards: RedisShards, start_replica: StartReplica, namespace: str
    ) -> None:
        """Fails if a publisher or a consumer with other settings writes or reads where nobody else does."""
        await start_replica("replica-1", **own_shards.options)
        given: Any = {"prefix": f"{namespace}:", "bus_channel": f"{namespace}:events"}
        ephemeral = {"chat": Namespace(ephemeral=True)}

        async def handle(entry: StreamEntry) -> None: ...

        for urls in (own_shards.urls[0], own_shards.urls[:2], own_shards.urls[::-1]):
            for namespaces in ({}, ephemeral):
                plain = Publisher(urls, namespaces=namespaces, **given)
                with plain, pytest.raises(PublishError, match="HELIOGRAPH_REDIS__SHARDS"):
                    await asyncio.to_thread(plain.publish, "chat:1", 1)
                async with AsyncPublisher(urls, namespaces=namespaces, **given) as waiting:
                    with pytest.raises(PublishError, match="HELIOGRAPH_REDIS__SHARDS"):
                        await waiting.publish("chat:1", 1)
            with pytest.raises(BadSetting, match="HELIOGRAPH_REDIS__SHARDS"):
                await Consumer(urls, "workers", handle, prefix=f"{namespace}:", block_s=0.05).run()

    async def test_programs_of_another_layout_that_came_first(
        self, own_shards: RedisShards, start_replica: StartReplica, namespace: str
    ) -> None:
        """Fails if a publisher that found an empty Redis goes on, with other settings, when replicas have come."""
        given: Any = {"prefix": f"{namespace}:", "bus_channel": f"{namespace}:events"}
        for urls in (own_shards.urls[0], own_shards.urls[:2]):
            plain, waiting = Publisher(urls, **given), AsyncPublisher(urls, **given)
            passing = Publisher(own_shards.urls[:2], namespaces={"chat": Namespace(ephemeral=True)}, **given)
            publishers = [partial(plain.publish, "chat:1", 1), partial(passing.publish, "chat:1", 1)]
            for publish in publishers:
                await asyncio.to_thread(publish)
            await waiting.publish("chat:1", 1)
            replica = await start_replica("replica-1", **own_shards.options)
            for publish in publishers:
                with pytest.raises(PublishError, match="HELIOGRAPH_REDIS__SHARDS"):
                    await asyncio.to_thread(publish)
            with pytest.raises(PublishError, match="HELIOGRAPH_REDIS__SHARDS"):
                await waiting.publish("chat:1", 1)
            plain.close()
            passing.close()
            await waiting.close()
            await replica.stop()
            for server in own_shards.servers:
                server.command("FLUSHALL")

    async def test_another_cluster_is_no_shard(
        self, own_shards: RedisShards, start_replica: StartReplica, namespace: str
    ) -> None:
        """Fails if a consumer handles what the clients of a cluster with one Redis have emitted."""
        await start_replica("replica-1", redis_url=own_shards.urls[1])

        async def handle(entry: StreamEntry) -> None: ...

        with pytest.raises(BadSetting, match="HELIOGRAPH_REDIS__SHARDS"):
            await Consumer(own_shards.urls, "workers", handle, prefix=f"{namespace}:", block_s=0.05).run()

    async def test_a_list_that_is_changed(
        self, own_shards: RedisShards, start_replica: StartReplica, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if replicas with shards turn out one that runs alone, or nobody can go from one Redis to several."""
        monkeypatch.setenv("HELIOGRAPH_REDIS__PREFIX", f"{namespace}:")
        alone = await start_replica("replica-1", redis_url=own_shards.urls[0])
        with Publisher(own_shards.urls[0], prefix=f"{namespace}:") as publisher:
            await asyncio.to_thread(publisher.publish, "news", 1)
            other = await run_replica(
                settings_for(namespace=namespace, redis={"shards": own_shards.urls}), "replica-2"
            )
            try:
                await eventually(lambda: other.replica.node.reason == "redis_layout")
                assert alone.replica.node.ready
                listed = ShardList(own_shards.urls)
                assert [row.is_good for row in await asyncio.to_thread(listed.rows)] == [False, True, True]
                with pytest.raises(BusUnavailable, match="stop them first"):
                    await asyncio.to_thread(listed.adopt)
                await alone.stop()
                await asyncio.to_thread(listed.adopt)
                await eventually(lambda: other.replica.node.ready)
                with pytest.raises(PublishError, match="HELIOGRAPH_REDIS__SHARDS"):
                    await asyncio.to_thread(publisher.publish, "news", 2)
                assert all(row.is_good for row in await asyncio.to_thread(listed.rows))
            finally:
                await other.stop()
