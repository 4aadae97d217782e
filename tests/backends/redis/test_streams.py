"""The sharded streams, against a real Redis."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.streams import ShardedStream
from heliograph.errors import BusUnavailable
from tests.support.redis_answers import entries
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(redis_server.url, timeout_s=5)
    yield client
    await client.aclose()


@pytest.fixture
def stream(client: Redis, namespace: str) -> ShardedStream:
    return ShardedStream(client, Keys(f"{namespace}:", f"{namespace}:events"), "work", shards=4)


async def test_the_same_key_is_always_in_the_same_shard(stream: ShardedStream) -> None:
    """Fails if the hash differs between processes (as `hash()` does), or leaves shards empty."""
    assert [stream.shard_of(key) for key in ("alice", "bob", "우주여행고양이")] == [3, 0, 3]
    assert {stream.shard_of(f"user-{number}") for number in range(100)} == {0, 1, 2, 3}


async def test_entries_of_a_key_keep_their_order_and_their_text(stream: ShardedStream) -> None:
    """Fails if what is appended comes out otherwise: order, Korean, bytes that are JSON."""
    await stream.create_group("workers")
    for number in range(10):
        await stream.append("우주여행고양이", {"event": "고양이", "data": b'{"n":%d}' % number})
    entries = await stream.read("workers", "one", count=100)
    assert [entry.json("data")["n"] for entry in entries] == list(range(10))
    assert {(entry["event"], entry.shard, entry.deliveries) for entry in entries} == {("고양이", 3, 1)}


async def test_a_shard_is_kept_at_about_its_length(client: Redis, namespace: str) -> None:
    """Fails if MAXLEN is left out (Redis fills up), or exact (each append would cost a trim)."""
    stream = ShardedStream(client, Keys(f"{namespace}:", f"{namespace}:events"), "work", shards=1, maxlen=100)
    await asyncio.gather(*(stream.append("k", {"n": str(number)}) for number in range(500)))
    assert 100 <= await client.xlen(stream.shard_keys[0]) < 300


async def test_a_group_that_exists_stays_where_it_is(stream: ShardedStream) -> None:
    """Fails if creating a group twice is an error, or begins anew."""
    await stream.create_group("workers")
    await stream.append("alice", {"n": "1"})
    assert len(await stream.read("workers", "one", count=10)) == 1
    await stream.create_group("workers")
    assert await stream.read("workers", "one", count=10) == []


async def test_a_group_reads_from_the_start_or_from_now(stream: ShardedStream) -> None:
    """Fails if a group that is made late misses what is kept, or one that wants only news gets old entries."""
    await stream.append("alice", {"n": "old"})
    await stream.create_group("all")
    await stream.create_group("news", start="$")
    await stream.append("alice", {"n": "new"})
    assert [entry["n"] for entry in await stream.read("all", "one", count=10)] == ["old", "new"]
    assert [entry["n"] for entry in await stream.read("news", "one", count=10)] == ["new"]


async def test_several_shards_are_read_in_one_command(stream: ShardedStream, own_redis: RedisServer) -> None:
    """Fails if each shard costs a command, or `count` counts all shards together."""
    client = connect(own_redis.url)
    stream = ShardedStream(client, Keys("t:", "t:events"), "work", shards=4)
    await stream.create_group("workers")
    for number in range(40):
        await stream.append(f"user-{number}", {"n": str(number)})
    entries = await stream.read("workers", "one", count=3)
    assert own_redis.calls("xreadgroup") == 1
    assert [sum(entry.shard == shard for entry in entries) for shard in range(4)] == [3, 3, 3, 3]
    assert {entry.shard for entry in await stream.read("workers", "one", count=3, shards=[1, 2])} == {1, 2}
    await client.aclose()


async def test_reading_waits_for_the_first_entry_and_not_longer(stream: ShardedStream) -> None:
    """Fails if `block_s` is not handed on, is taken for milliseconds, or 0 waits for ever."""
    await stream.create_group("workers")
    assert await stream.read("workers", "one", count=10, block_s=0) == []
    waiting = asyncio.create_task(stream.read("workers", "one", count=10, block_s=4))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await stream.append("alice", {"n": "1"})
    assert [entry["n"] for entry in await waiting] == ["1"]


async def test_each_entry_goes_to_one_consumer(stream: ShardedStream) -> None:
    """Fails if two consumers of a group are given the same entry."""
    await stream.create_group("workers")
    for number in range(50):
        await stream.append(f"user-{number}", {"n": str(number)})
    one = await stream.read("workers", "one", count=7)
    two = await stream.read("workers", "two", count=50)
    assert sorted(int(entry["n"]) for entry in one + two) == list(range(50))
    assert one
    assert two


async def test_what_is_idle_is_claimed_and_counted(stream: ShardedStream) -> None:
    """Fails if the idle time is not looked at, deliveries are not counted, or done entries come back."""
    await stream.create_group("workers")
    for number in range(3):
        await stream.append("bob", {"n": str(number)})
    given = await stream.read("workers", "dead", count=10)
    await stream.acknowledge("workers", 0, given[0].id)
    assert (await stream.claim("workers", "alive", 0, min_idle_s=30)).entries == []
    await asyncio.sleep(0.03)
    claimed = await stream.claim("workers", "alive", 0, min_idle_s=0.02, count=10)
    assert [(entry["n"], entry.deliveries) for entry in claimed.entries] == [("1", 2), ("2", 2)]
    assert claimed.cursor == "0-0"
    assert await stream.pending("workers", "alive", 0) == [entry.id for entry in given[1:]]
    assert await stream.pending("workers", "dead", 0) == []


async def test_what_was_trimmed_before_it_was_done_is_told(stream: ShardedStream, client: Redis) -> None:
    """Fails if an entry that is lost to MAXLEN vanishes without a word."""
    await stream.create_group("workers")
    entry_id = await stream.append("bob", {"n": "1"})
    await stream.read("workers", "one", count=10)
    await client.xtrim(stream.shard_keys[0], maxlen=0, approximate=False)
    claimed = await stream.claim("workers", "two", 0, min_idle_s=0)
    assert (claimed.entries, claimed.trimmed) == ([], [entry_id])


async def test_keeping_is_no_delivery_and_giving_back_undoes_one(stream: ShardedStream) -> None:
    """Fails if a long handler uses up its entry's attempts, or a graceful stop does."""
    await stream.create_group("workers")
    await stream.append("bob", {"n": "1"})
    entries = await stream.read("workers", "one", count=10)
    await asyncio.sleep(0.06)
    await stream.keep("workers", "one", 0, [entries[0].id])
    assert (await stream.claim("workers", "two", 0, min_idle_s=0.05)).entries == []
    await stream.give_back("workers", "one", entries, idle_s=60)
    claimed = await stream.claim("workers", "two", 0, min_idle_s=59)
    assert [entry.deliveries for entry in claimed.entries] == [1]


async def test_burying_moves_the_entry(stream: ShardedStream, client: Redis) -> None:
    """Fails if a dead letter loses a field, or stays pending and is tried again."""
    await stream.create_group("workers")
    await stream.append("bob", {"n": "1", "data": b"{}"})
    [entry] = await stream.read("workers", "one", count=10)
    await stream.bury("workers", entry, {"dead_reason": "it is bad"})
    [(_, fields)] = await entries(client, stream.dead_key)
    assert fields == {b"n": b"1", b"data": b"{}", b"dead_reason": b"it is bad"}
    assert await stream.pending("workers", "one", 0) == []


async def test_a_consumer_with_something_pending_is_not_forgotten(stream: ShardedStream, client: Redis) -> None:
    """Fails if XGROUP DELCONSUMER takes a pending entry with it: that would lose it."""
    await stream.create_group("workers")
    await stream.append("bob", {"n": "1"})
    await stream.read("workers", "one", count=10)
    await stream.forget_consumer("workers", "one")
    assert await stream.pending("workers", "one", 0) != []
    assert await client.xinfo_consumers(stream.shard_keys[1], "workers") == []


async def test_a_scan_tells_of_a_hole(stream: ShardedStream, client: Redis) -> None:
    """Fails if a reader whose place was trimmed goes on as if nothing were missing."""
    ids = [await stream.append("bob", {"n": str(number)}) for number in range(4)]
    entries, gap = await stream.scan(0, ids[0], count=2)
    assert ([entry["n"] for entry in entries], gap) == (["1", "2"], False)
    await client.xtrim(stream.shard_keys[0], maxlen=1, approximate=False)
    entries, gap = await stream.scan(0, ids[0], count=2)
    assert ([entry["n"] for entry in entries], gap) == (["3"], True)
    assert (await stream.scan(0, "0-0", count=2))[1] is False
    assert await stream.last_id(0) == ids[3]
    assert await stream.last_id(1) == "0-0"


async def test_every_failure_has_one_name(own_redis: RedisServer) -> None:
    """Fails if redis-py's own errors get out: refused, gone, or a group that does not exist."""
    client = connect(own_redis.url)
    stream = ShardedStream(client, Keys("t:", "t:events"), "work", shards=2)
    with pytest.raises(BusUnavailable) as caught:
        await stream.read("nobody", "one", count=1)
    assert "NOGROUP" in caught.value.detail
    own_redis.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(BusUnavailable) as caught:
        await stream.append("bob", {"n": "1"})
    assert "maxmemory" in caught.value.detail
    own_redis.stop()
    with pytest.raises(BusUnavailable):
        await stream.append("bob", {"n": "1"})
    own_redis.start()
    await eventually(lambda: stream.append("bob", {"n": "1"}))
    await client.aclose()
