"""The consumer: at least once, whoever dies; a limit on attempts; Redis lost and found."""

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.streams import EMIT_STREAM, ShardedStream, StreamEntry
from heliograph.client.consumer import BACKOFF_MOST_S, Consumer, Handler, _backoff_s
from heliograph.errors import BusUnavailable
from tests.support.redis_answers import entries, text
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
QUICK: dict[str, Any] = {"block_s": 0.05, "claim_idle_s": 0.3, "count": 10}


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(redis_server.url, timeout_s=5)
    yield client
    await client.aclose()


@pytest.fixture
def stream(client: Redis, namespace: str) -> ShardedStream:
    return ShardedStream(client, Keys(f"{namespace}:", f"{namespace}:events"), EMIT_STREAM)


StartWorker = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start_worker(redis_server: RedisServer, namespace: str) -> Iterator[StartWorker]:
    """Start a worker in a process of its own; all are gone when the test ends."""
    workers: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.support.consumer_process", redis_server.url, f"{namespace}:"]
        workers.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()
        worker.wait()


@asynccontextmanager
async def running(url: str, namespace: str, handler: Handler, **options: Any) -> AsyncIterator[Consumer]:
    """A consumer that runs while the block does, and is stopped the graceful way."""
    consumer = Consumer(url, "workers", handler, prefix=f"{namespace}:", **{**QUICK, **options})
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        consumer.stop()
        await asyncio.wait_for(task, 5)


async def append(stream: ShardedStream, count: int, key: str | None = None) -> None:
    for number in range(count):
        await stream.append(key or f"user-{number}", {"n": str(number)})


async def pending(stream: ShardedStream, client: Redis, group: str = "workers") -> int:
    return sum([(await client.xpending(key, group))["pending"] for key in stream.shard_keys])


async def test_killed_workers_lose_nothing(
    stream: ShardedStream, client: Redis, start_worker: StartWorker, namespace: str
) -> None:
    """Fails if anything is acknowledged before it is done, or what a killed worker had is not taken over."""
    wanted = {str(number) for number in range(600)}
    handled = f"{namespace}:handled"
    workers = [start_worker() for _ in range(2)]
    await append(stream, 600)
    for killed in range(3):
        await eventually(lambda at_least=100 * (killed + 1): _at_least(client, handled, at_least), within_s=15)
        workers[killed].kill()  # SIGKILL, in the middle of its work
        workers.append(start_worker())

    async def all_handled() -> bool:
        return {text(n) for n in await client.lrange(handled, 0, -1)} == wanted

    await eventually(all_handled, within_s=20)
    await eventually(lambda: _none_pending(stream, client))
    doubled = await client.llen(handled) - len(wanted)
    assert doubled <= 3 * 4, "no more than what was in hand (one of each shard) may be handled twice"
    assert await client.xlen(stream.dead_key) == 0
    await eventually(lambda: all(map(_handles_sigterm, workers[3:])), within_s=10)
    for worker in workers:
        worker.terminate()
    for worker in workers[3:]:
        assert worker.wait(5) == 0, "SIGTERM is a graceful stop"


async def _at_least(client: Redis, key: str, count: int) -> bool:
    return int(await client.llen(key)) >= count


def _handles_sigterm(worker: "subprocess.Popen[bytes]") -> bool:
    """Whether it is so far: a worker that was started just now would die of it."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


async def _none_pending(stream: ShardedStream, client: Redis) -> bool:
    return await pending(stream, client) == 0


async def test_an_entry_that_kills_its_worker_ends_in_the_dead_letters(
    stream: ShardedStream, client: Redis, start_worker: StartWorker, namespace: str
) -> None:
    """Fails if such an entry goes on for ever, or takes innocent neighbours of the same batch with it."""
    for n in ("0", "1", "poison", "2", "3", "4"):
        await stream.append("bob", {"n": n})

    deadline = time.monotonic() + 20
    deaths = 0
    worker = start_worker()
    while not await client.xlen(stream.dead_key):
        assert time.monotonic() < deadline
        if worker.poll() is not None:
            deaths += 1
            worker = start_worker()
        await asyncio.sleep(0.02)
    await eventually(lambda: _none_pending(stream, client))
    assert deaths == 3
    [(_, dead)] = await entries(client, stream.dead_key)
    assert dead[b"n"] == b"poison"
    assert dead[b"dead_reason"] == b"delivered 3 times and never acknowledged"
    assert dead[b"dead_attempts"] == b"3"
    handled = Counter(await client.lrange(f"{namespace}:handled", 0, -1))
    assert handled == {b"0": 1, b"1": 1, b"2": 1, b"3": 1, b"4": 1}


async def test_a_handler_that_fails_is_tried_again_and_then_given_up(
    stream: ShardedStream, client: Redis, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if an entry is acknowledged although its handler raised, or a dead letter does not say why."""
    attempts: list[tuple[str, int]] = []

    async def handle(entry: StreamEntry) -> None:
        attempts.append((entry["n"], entry.deliveries))
        if entry["n"] == "1" or (entry["n"] == "0" and entry.deliveries < 2):
            raise ValueError("고장 난 것")

    await append(stream, 3, key="bob")
    async with running(redis_server.url, namespace, handle, max_attempts=3) as consumer:
        await eventually(lambda: consumer.stats.dead == 1)
        await eventually(lambda: _none_pending(stream, client))
    assert sorted(attempts) == [("0", 1), ("0", 2), ("1", 1), ("1", 2), ("1", 3), ("2", 1)]
    assert (consumer.stats.handled, consumer.stats.failed) == (2, 4)
    [(_, dead)] = await entries(client, stream.dead_key)
    assert dead[b"dead_reason"].decode() == "ValueError: 고장 난 것"
    assert {dead[b"dead_group"], dead[b"dead_shard"], dead[b"dead_attempts"]} == {b"workers", b"0", b"3"}
    assert dead[b"dead_id"] == (await entries(client, stream.shard_keys[0]))[1][0]


async def test_a_long_handler_is_left_alone(
    stream: ShardedStream, client: Redis, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a second worker takes over what the first is still at, or what waits behind it in the same batch."""
    handled: list[str] = []

    async def handle(entry: StreamEntry) -> None:
        await asyncio.sleep(1.0 if entry["n"] == "0" else 0)  # more than three times claim_idle_s
        handled.append(entry["n"])

    await append(stream, 3, key="bob")
    async with running(redis_server.url, namespace, handle) as one:
        await eventually(lambda: one._workers[0]._in_hand[0])
        async with running(redis_server.url, namespace, handle) as two:
            await eventually(lambda: len(handled) == 3)
            assert handled == ["0", "1", "2"]
            assert two.stats.claimed == 0


async def test_a_graceful_stop_finishes_one_and_gives_back_the_rest(
    stream: ShardedStream, client: Redis, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a stop breaks off the handler, or others wait for what was never begun, or count it as an attempt."""
    begun, finished, later = asyncio.Event(), [], []

    async def slow(entry: StreamEntry) -> None:
        begun.set()
        await asyncio.sleep(0.2)
        finished.append(entry["n"])

    async def quick(entry: StreamEntry) -> None:
        later.append((entry["n"], entry.deliveries))

    await append(stream, 4, key="bob")
    async with running(redis_server.url, namespace, slow, claim_idle_s=60.0):
        await begun.wait()
    assert finished == ["0"]
    async with running(redis_server.url, namespace, quick, claim_idle_s=59.0):
        await eventually(lambda: len(later) == 3)
    assert later == [("1", 1), ("2", 1), ("3", 1)]
    assert await pending(stream, client) == 0


async def test_a_cancelled_consumer_loses_nothing(
    stream: ShardedStream, client: Redis, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if cancelling leaves a task or a connection behind, or acknowledges what was not done."""
    begun, later = asyncio.Event(), []

    async def hangs(entry: StreamEntry) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def quick(entry: StreamEntry) -> None:
        later.append(entry["n"])

    await append(stream, 2, key="bob")
    consumer = Consumer(redis_server.url, "workers", hangs, prefix=f"{namespace}:", **QUICK)
    task = asyncio.create_task(consumer.run())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    async with running(redis_server.url, namespace, quick):
        await eventually(lambda: sorted(later) == ["0", "1"])


async def test_one_worker_keeps_the_order_of_each_key_and_works_on_shards_at_once(
    stream: ShardedStream, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a key's entries overtake each other, or a slow entry of one shard holds up the others."""
    handled: list[tuple[int, int]] = []
    first = asyncio.Event()

    async def handle(entry: StreamEntry) -> None:
        if entry.shard == 0 and not first.is_set():
            await asyncio.wait_for(first.wait(), 3)
        handled.append((entry.shard, int(entry["n"])))
        if entry.shard == 3:
            first.set()

    await append(stream, 20, key="bob")  # shard 0
    await append(stream, 20, key="alice")  # shard 3
    async with running(redis_server.url, namespace, handle):
        await eventually(lambda: len(handled) == 40)
    for shard in (0, 3):
        assert [n for where, n in handled if where == shard] == list(range(20))


async def test_a_worker_can_have_shards_of_its_own(
    stream: ShardedStream, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a worker reads, or takes over from, shards that are not its own."""
    ones: set[int] = set()
    twos: set[int] = set()

    async def one(entry: StreamEntry) -> None:
        ones.add(entry.shard)

    async def two(entry: StreamEntry) -> None:
        twos.add(entry.shard)

    await append(stream, 60)
    async with (
        running(redis_server.url, namespace, one, shards=[0, 1]) as first,
        running(redis_server.url, namespace, two, shards=[2, 3]) as second,
    ):
        await eventually(lambda: first.stats.handled + second.stats.handled == 60)
    assert (ones, twos) == ({0, 1}, {2, 3})


async def test_two_groups_each_get_everything(
    stream: ShardedStream, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if groups take entries from each other."""
    got: Counter[str] = Counter()

    async def handle(entry: StreamEntry) -> None:
        got[entry["n"]] += 1

    await append(stream, 5)
    other = Consumer(redis_server.url, "audit", handle, prefix=f"{namespace}:", **QUICK)
    task = asyncio.create_task(other.run())
    async with running(redis_server.url, namespace, handle):
        await eventually(lambda: got == {str(n): 2 for n in range(5)})
    other.stop()
    await task


async def test_it_outlives_a_restart_of_redis(own_redis: RedisServer, tmp_path: Path) -> None:
    """Fails if the loss of Redis ends the worker, loses an entry, or has it done twice by the one who did it."""
    own_redis = RedisServer(tmp_path, appendonly=True).start()
    client = connect(own_redis.url)
    stream = ShardedStream(client, Keys("t:", "t:events"), EMIT_STREAM)
    handled: list[str] = []

    async def handle(entry: StreamEntry) -> None:
        if entry["n"] == "5":
            own_redis.stop()  # the handler is done, but that cannot be acknowledged
        handled.append(entry["n"])

    try:
        await append(stream, 20, key="bob")
        async with running(own_redis.url, "t", handle) as consumer:
            await eventually(lambda: consumer.stats.losses >= 2)
            own_redis.start()
            await eventually(lambda: len(handled) >= 20)
            assert sorted(map(int, handled)) == list(range(20))
            await eventually(lambda: _none_pending(stream, client))
    finally:
        await client.aclose()
        own_redis.stop()


async def test_it_begins_anew_when_redis_has_lost_everything(own_redis: RedisServer) -> None:
    """Fails if a Redis that came back empty (no group) leaves the worker deaf, also for what came in meanwhile."""
    client = connect(own_redis.url)
    stream = ShardedStream(client, Keys("t:", "t:events"), EMIT_STREAM)
    handled: list[str] = []

    async def handle(entry: StreamEntry) -> None:
        handled.append(entry["n"])

    async with running(own_redis.url, "t", handle, start="$") as consumer:
        await eventually(lambda: _exists(client, stream))
        await stream.append("bob", {"n": "before"})
        await eventually(lambda: handled == ["before"])
        own_redis.stop()
        await eventually(lambda: consumer.stats.losses)
        own_redis.start()
        await stream.append("bob", {"n": "after"})
        await eventually(lambda: handled == ["before", "after"])
    await client.aclose()


async def _exists(client: Redis, stream: ShardedStream) -> bool:
    return bool(await client.exists(stream.shard_keys[-1]))


async def test_it_waits_for_a_redis_that_is_not_there_yet_and_can_be_stopped_meanwhile(
    own_redis: RedisServer,
) -> None:
    """Fails if a worker that starts first gives up, or its stop waits for Redis."""

    async def handle(entry: StreamEntry) -> None: ...

    own_redis.stop()
    async with running(own_redis.url, "t", handle) as consumer:
        await eventually(lambda: consumer.stats.losses >= 2)


async def test_what_is_lost_to_the_length_of_the_stream_is_counted(
    stream: ShardedStream, client: Redis, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a loss that Redis tells of is passed over in silence."""
    await stream.create_group("workers")
    await append(stream, 2, key="bob")
    await stream.read("workers", "dead", count=10)
    await client.xtrim(stream.shard_keys[0], maxlen=0, approximate=False)

    async def handle(entry: StreamEntry) -> None: ...

    async with running(redis_server.url, namespace, handle, claim_idle_s=0.1) as consumer:
        await eventually(lambda: consumer.stats.trimmed == 2)


async def test_an_error_of_our_own_in_the_handler_is_the_handlers(
    stream: ShardedStream, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a BusUnavailable that the handler raises is taken for the consumer's own loss of Redis."""

    async def handle(entry: StreamEntry) -> None:
        raise BusUnavailable("of another server")

    await append(stream, 1)
    async with running(redis_server.url, namespace, handle, max_attempts=1) as consumer:
        await eventually(lambda: consumer.stats.dead == 1)
    assert consumer.stats.losses == 0


async def test_a_handler_that_awaits_what_it_has_cancelled(
    stream: ShardedStream, client: Redis, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a CancelledError out of a handler ends the worker: it is one failed attempt of that entry."""
    handled: list[str] = []

    async def cancels_a_task(entry: StreamEntry) -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    async def cancels_itself(entry: StreamEntry) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    async def handle(entry: StreamEntry) -> None:
        if entry["n"] == "0":
            await cancels_a_task(entry)
        if entry["n"] == "1":
            await cancels_itself(entry)
        handled.append(entry["n"])

    await append(stream, 3, key="bob")
    async with running(redis_server.url, namespace, handle, max_attempts=2) as consumer:
        await eventually(lambda: consumer.stats.dead == 2)
        await stream.append("alice", {"n": "last"})
        await eventually(lambda: handled == ["2", "last"])
    assert (consumer.stats.failed, consumer.stats.losses) == (4, 0)
    reasons = [fields[b"dead_reason"].decode() for _, fields in await entries(client, stream.dead_key)]
    assert len(reasons) == 2
    assert all("cancelled" in reason for reason in reasons)


async def test_an_exception_without_words(
    stream: ShardedStream, client: Redis, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if an exception whose text cannot be had, or is no valid text, ends the worker."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def handle(entry: StreamEntry) -> None:
        raise Mute if entry["n"] == "0" else ValueError("\ud800")

    await append(stream, 2, key="bob")
    async with running(redis_server.url, namespace, handle, max_attempts=1) as consumer:
        await eventually(lambda: consumer.stats.dead == 2)
    reasons = [fields[b"dead_reason"].decode() for _, fields in await entries(client, stream.dead_key)]
    assert sorted(reasons) == ["Mute", "ValueError: ?"]


def test_the_pause_has_an_end_however_long_redis_is_away() -> None:
    """Fails if a worker ends because it has tried for an hour."""
    assert 0 <= _backoff_s(100_000) <= BACKOFF_MOST_S
