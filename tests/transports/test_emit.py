"""`emit`: what a client says to the workers behind the cluster."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.streams import EMIT_STREAM, ShardedStream, StreamEntry
from heliograph.client.consumer import Consumer
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.metrics import read
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

ANY = {"events": ["*"]}
FREE = {"client_memory_percent": 0, "user_messages_per_second": 0, "user_bytes_per_second": 0}


async def emit(client: Client, event: str = "order", data: Any = 1) -> str | None:
    """Emit once; the code of the error that answers it."""
    await client.say({"type": "emit", "event": event, "data": data, "id": event})
    answer = await client.next("ack", "error", id=event)
    return answer.get("code")


async def test_a_worker_gets_what_a_client_emits(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if the ack comes without `id`, a field is missing, or a user's entries change their order."""
    one, two = await start_replica("replica-1", emit=ANY), await start_replica("replica-2", emit=ANY)
    got: list[StreamEntry] = []

    async def handle(entry: StreamEntry) -> None:
        got.append(entry)

    async with Client(one.url, user="우주") as client, Client(two.url, user="우주") as other:
        await client.say({"type": "emit", "event": "주문", "data": {"n": 1}, "id": "a"})
        assert await client.next("ack") == {"type": "ack", "id": "a"}
        await other.say({"type": "emit", "event": "order", "data": [2], "id": 7})
        assert await other.next("ack") == {"type": "ack", "id": 7}
        consumer = Consumer(redis_server.url, "workers", handle, prefix=f"{namespace}:", block_s=0.05)
        task = asyncio.create_task(consumer.run())
        await eventually(lambda: len(got) == 2)
        consumer.stop()
        await task
        assert [entry.json("data") for entry in got] == [{"n": 1}, [2]]
        first = {name: value.decode() for name, value in got[0].fields.items()}
        assert (first["event"], first["user"], first["replica"]) == ("주문", "우주", "replica-1")
        assert first["session"] == client.connected["session"]
        assert first["message_id"]
        assert first["emitted_at"].endswith("Z")
        assert set(first) == {"event", "data", "user", "session", "replica", "emitted_at", "message_id"}


async def test_without_redis_it_says_what_is_missing(start_replica: StartReplica) -> None:
    """Fails if the memory backend acknowledges what no worker can ever read."""
    alone = await start_replica(redis_url=None, emit=ANY)
    async with Client(alone.url, user="alice") as client:
        await client.say({"type": "emit", "event": "order", "data": 1, "id": 1})
        error = await client.next("error")
        assert (error["code"], error["id"]) == ("unavailable", 1)
        assert "HELIOGRAPH_REDIS__URL" in error["message"]
        await client.say({"type": "ping"})
        await client.next("pong")


async def test_what_cannot_be_stored_is_not_acknowledged(own_redis: RedisServer, start_replica: StartReplica) -> None:
    """Fails if a client is told that its emission is kept while Redis refuses it, or loses its socket over it."""
    one = await start_replica(redis_url=own_redis.url, emit=ANY)
    async with Client(one.url, user="alice") as client:
        own_redis.command("CONFIG", "SET", "maxmemory", "1")
        await client.say({"type": "emit", "event": "order", "data": 1, "id": 1})
        error = await client.next("error", id=1)
        assert error["code"] == "unavailable"
        own_redis.command("CONFIG", "SET", "maxmemory", "0")
        memory = one.replica.memory
        assert memory is not None
        await eventually(lambda: not memory.is_full)
        await client.say({"type": "emit", "event": "order", "data": 1, "id": 2})
        await client.next("ack", id=2)


async def test_what_is_no_emission_is_refused(start_replica: StartReplica) -> None:
    """Fails if an emission without a name or with data that nobody can read gets as far as the stream."""
    one = await start_replica(emit=ANY)
    async with Client(one.url, user="alice") as client:
        refused: list[tuple[dict[str, Any], str]] = [
            ({"data": 1}, "bad_request"),
            ({"event": "", "data": 1}, "bad_request"),
            ({"event": "x" * 129, "data": 1}, "bad_request"),
            ({"event": "order"}, "bad_request"),
            ({"event": "order", "data": json.loads("[" * 40 + "]" * 40)}, "too_deep"),
        ]
        for frame, code in refused:
            await client.say({"type": "emit", **frame, "id": 3})
            assert (await client.next("error", id=3))["code"] == code
    async with Client(one.url) as stranger:
        await stranger.say({"type": "emit", "event": "order", "data": 1})
        await stranger.next("error")
        assert await stranger.close_code() == 3501


async def test_it_is_off_until_a_setting_names_the_events(start_replica: StartReplica) -> None:
    """Fails if a client may say what nobody has opened to clients: that somebody has paid, say."""
    one, two = await start_replica(), await start_replica("replica-2", emit={"events": ["order", "page.*"]})
    async with Client(one.url, user="alice") as off, Client(two.url, user="alice") as on:
        await off.say({"type": "emit", "event": "order", "data": 1, "id": 1})
        error = await off.next("error", id=1)
        assert (error["code"], "HELIOGRAPH_EMIT__EVENTS" in error["message"]) == ("not_allowed", True)
        codes = [await emit(on, event) for event in ("order", "page.viewed", "payment.confirmed", "page")]
        assert codes == [None, None, "not_allowed", "not_allowed"]


class TestRoom:
    """What the workers have not acknowledged is not dropped; what they have makes room."""

    @pytest.fixture
    async def redis(self, redis_server: RedisServer) -> AsyncIterator[Redis]:
        client = connect(redis_server.url, timeout_s=5)
        yield client
        await client.aclose()

    @pytest.fixture
    def stream(self, redis: Redis, namespace: str) -> ShardedStream:
        return ShardedStream(redis, Keys(f"{namespace}:", f"{namespace}:events"), EMIT_STREAM, shards=1)

    async def test_a_full_stream_refuses(self, start_replica: StartReplica, stream: ShardedStream) -> None:
        """Fails if one user's flood pushes out what another was told is kept."""
        one = await start_replica(emit=ANY, redis={"emit_shards": 1, "emit_maxlen": 10})
        await stream.create_group("workers")
        await stream.create_group("audit")
        async with Client(one.url, user="alice") as alice, Client(one.url, user="mallory") as mallory:
            for n in range(5):
                assert await emit(alice, data=n) is None
            codes = [await emit(mallory) for _ in range(8)]
            assert codes == [None] * 5 + ["unavailable"] * 3
            assert (await read(one))("client_writes_refused_total", limit="emit_full") == 3
            first = await stream.read("workers", "one", count=6)
            assert [entry.json("data") for entry in first[:5]] == list(range(5)), "all that was acknowledged is there"
            await stream.acknowledge("workers", 0, *(entry.id for entry in first[:2]), first[5].id)
            assert await emit(mallory) == "unavailable", "the other group has handled nothing"
            again = await stream.read("audit", "one", count=10)
            await stream.acknowledge("audit", 0, *(entry.id for entry in again))
            assert [await emit(mallory) for _ in range(3)] == [None, None, "unavailable"]
            assert await stream.pending("workers", "one", 0) == [entry.id for entry in first[2:5]]
            await stream.acknowledge("workers", 0, *(entry.id for entry in first[2:5]))
            left = await stream.read("workers", "one", count=100)
            await stream.acknowledge("workers", 0, *(entry.id for entry in left))
            left = await stream.read("audit", "one", count=100)
            await stream.acknowledge("audit", 0, *(entry.id for entry in left))
            assert [await emit(mallory) for _ in range(11)] == [None] * 10 + ["unavailable"], "all of it was room"
            for group in ("workers", "audit"):
                assert len(await stream.read(group, "one", count=100)) == 10

    async def test_its_bytes_have_a_limit_too(self, start_replica: StartReplica) -> None:
        """Fails if few entries that are large fill Redis."""
        one = await start_replica(emit={**ANY, "shard_bytes": 200_000}, redis={"emit_shards": 1})
        async with Client(one.url, user="alice") as alice:
            codes = [await emit(alice, data="x" * 20_000) for _ in range(20)]
        assert codes.index("unavailable") in range(6, 14)
        assert set(codes[codes.index("unavailable") :]) == {"unavailable"}

    async def test_what_is_old_goes(
        self, start_replica: StartReplica, redis: Redis, stream: ShardedStream, namespace: str
    ) -> None:
        """Fails if entries or dead letters that nobody asks for take memory for ever."""
        one = await start_replica(emit={**ANY, "ttl_s": 0.4}, redis={"emit_shards": 1})
        await stream.create_group("workers")
        async with Client(one.url, user="alice") as alice:
            assert await emit(alice) is None
            [entry] = await stream.read("workers", "one", count=1)
            assert await emit(alice) is None
            await stream.bury("workers", entry, {"dead_reason": "poison"})
            assert await redis.xlen(stream.shard_keys[0]) == 2

            async def gone() -> bool:
                return not await redis.xlen(stream.shard_keys[0]) and not await redis.xlen(stream.dead_key)

            await eventually(gone)
            assert await emit(alice) is None
            assert len(await stream.read("workers", "one", count=10)) == 1, "the group is still there"

    async def test_the_budget_is_that_of_messages(self, start_replica: StartReplica) -> None:
        """Fails if a user may emit beside what they may send, on each replica anew."""
        limits = {"user_messages_per_second": 0.5}
        one = await start_replica(emit=ANY, limits=limits)
        two = await start_replica("replica-2", emit=ANY, limits=limits)
        async with Client(one.url, user="alice") as first, Client(two.url, user="alice") as second:
            codes = [await emit(client) for client in (first, second) * 4]
            assert codes == [None] * 5 + ["rate_limited"] * 3
            assert (await second.send("bob", 1)).get("code") == "rate_limited"
