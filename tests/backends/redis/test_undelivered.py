"""Messages that nobody has taken in time: what is told of them, exactly once, whatever becomes of Redis."""

import asyncio
import itertools
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.exceptions import RedisError

from heliograph.backends.redis import server, undelivered
from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.lifecycle import LifecycleEvents
from heliograph.backends.redis.log import RedisLog
from heliograph.backends.redis.receipts import RedisReceipts
from heliograph.backends.redis.undelivered import REMEMBERED_S, RedisUndelivered
from heliograph.errors import BusUnavailable
from heliograph.ports import Draft, Receipt, Written
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.lifecycle import Kind, LifecycleEvent
from heliograph.protocol.position import Position
from tests.support.appending import append
from tests.support.lifecycle import EVERYTHING, told
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

LONG_S = 600.0
BOB = "김철수}"


class Post:
    """A Redis that keeps messages for users, and tells those that nobody has taken in `after_s`."""

    def __init__(self, redis: server.RedisServer, after_s: float = 0.0, **options: Any) -> None:
        self.redis = redis
        self.options = Namespace(undelivered_after_s=after_s or 0.001, **options)
        self.log = RedisLog(redis)
        self.receipts = RedisReceipts(redis, ttl_s=LONG_S)
        self.after_s = self.options.undelivered_after_s
        self.undelivered = self.teller()
        self._count = 0

    def teller(self) -> RedisUndelivered:
        events = LifecycleEvents(self.redis, EVERYTHING, "replica-1")
        return RedisUndelivered(self.redis, events, after_s=self.after_s, slack_s=0)

    async def send(self, user: str = BOB, count: int = 1, **options: Any) -> Position:
        """Keep so many messages for the user; their data hold what looks like a message id."""
        position = Position("", 0)
        for _ in range(count):
            self._count += 1
            data = msgspec.Raw(b'{"message_id":"no"}')
            draft = Draft(f"#{user}", data, f"m{self._count}", "2026-11-30T12:00:00.000Z", **options)
            position = (await append(self.log, draft, self.options, "n.1")).position
        return position

    async def write(self, epoch: str, after: int, up_to: int, device: str = "", user: str = BOB) -> None:
        await self.undelivered.note([Written(user, device, epoch, after, up_to)])

    async def say(self, position: Position, device: str = "phone") -> None:
        await self.receipts.keep([Receipt(BOB, device, f"#{BOB}", position, 1.0)])

    async def kept(self, user: str = BOB) -> list[tuple[int, dict[bytes, bytes]]]:
        """Each message that servers have sent: its offset and its fields."""
        found: Any = await self.redis.client.xrange(self.redis.keys.stream(f"#{user}"))
        return [(int(entry.split(b"-")[0]), fields) for entry, fields in found]

    async def told(self) -> list[LifecycleEvent]:
        """Tell what is due, and return all that was ever told."""
        await asyncio.sleep(0.002)
        await self.undelivered.tell()
        return await undelivered_in(self.redis.client, self.redis.keys)

    async def waits(self) -> int:
        """The number of users whose messages nobody may have taken."""
        return int(await self.redis.client.zcard(self.redis.keys.untaken))


async def undelivered_in(client: Client, keys: Keys) -> list[LifecycleEvent]:
    return [each for each in await told(client, keys) if each.event == Kind.MESSAGE_UNDELIVERED]


def offsets(events: list[LifecycleEvent]) -> list[int | None]:
    return [event.offset for event in events]


@pytest.fixture(params=["single", "shard"])
def post(request: pytest.FixtureRequest) -> Post:
    return Post(request.getfixturevalue(request.param))


async def test_what_the_event_says(post: Post) -> None:
    """Fails if a message of a server or a client is left out, told twice by two replicas, or with wrong fields."""
    before_ms = await post.redis.now_ms()
    await post.send()
    await post.send(client="al")
    last = await post.send()
    await asyncio.sleep(0.002)
    await asyncio.gather(post.undelivered.tell(), post.teller().tell())
    events = await post.told()
    after_ms = await post.redis.now_ms()
    assert [(each.offset, each.message_id) for each in events] == [(1, "m1"), (2, "m2"), (3, "m3")]
    assert {(each.user, each.channel, each.epoch) for each in events} == {(BOB, f"#{BOB}", last.epoch)}
    assert all(each.at_ms == (each.kept_at_ms or 0) + 1 and before_ms < each.at_ms <= after_ms for each in events)
    assert await post.waits() == 0
    await post.send()
    assert offsets(await post.told()) == [1, 2, 3, 4]


async def test_what_somebody_takes_is_not_told(post: Post) -> None:
    """Fails if a message that was written to any device is told, or one before or after it is not."""
    epoch = (await post.send(count=6)).epoch
    await post.write(epoch, 1, 2)  # a connection that came after the first, and left
    await post.write(epoch, 3, 4, "phone")
    await post.write(epoch, 4, 5, "laptop")
    await post.write("other", 0, 6)
    await post.write(epoch, 9, 100)
    assert offsets(await post.told()) == [1, 3, 6]
    position = await post.send(count=2)
    await post.write(epoch, 0, position.offset)
    assert await post.waits() == 0, "all is taken: nobody looks again"
    assert offsets(await post.told()) == [1, 3, 6]


async def test_a_device_that_sends_receipts_takes_with_them(post: Post) -> None:
    """Fails if what was written to such a device counts, or its receipts do not, or those of others."""
    first = await post.send()
    await post.say(first)
    last = await post.send(count=3)
    await post.write(last.epoch, 0, last.offset, "phone")
    await post.say(Position(last.epoch, 3))
    await post.receipts.keep([Receipt(BOB, "phone", f"x#{BOB}", last, 1.0)])
    await post.write(last.epoch, 0, 1, "laptop")
    assert offsets(await post.told()) == [4]
    await post.send()
    await post.write(last.epoch, 4, 5, "laptop")
    assert offsets(await post.told()) == [4]


async def test_nothing_is_told_before_its_time(single: server.RedisServer) -> None:
    """Fails if a message is told early, with one that is due, or looked at again before its time."""
    post = Post(single, after_s=0.3)
    await post.send(count=2)
    await post.send("eve")
    assert await post.told() == []
    await asyncio.sleep(0.2)
    await post.send()

    async def two() -> bool:
        return len(await post.told()) == 3

    await eventually(two)
    events = await post.told()
    assert [(each.user, each.offset) for each in events if each.user == BOB] == [(BOB, 1), (BOB, 2)]
    assert all(each.at_ms == (each.kept_at_ms or 0) + 300 for each in events)
    assert await post.waits() == 1
    due = await single.client.zscore(single.keys.untaken, single.keys.meta(f"#{BOB}"))
    assert due == int((await post.kept())[2][1][b"t"]) + 300


async def test_more_than_one_call_takes(single: server.RedisServer) -> None:
    """Fails if events beyond those of one call wait for the next time, or are out of order."""
    post = Post(single, history_size=1000)
    await post.send(count=230)
    assert offsets(await post.told()) == list(range(1, 231))


async def test_what_the_log_has_dropped_is_told_as_a_number(single: server.RedisServer) -> None:
    """Fails if messages are silently missing that were displaced before their time, or those that were removed are
    told."""
    post = Post(single, history_size=1)
    await post.send(count=400)
    first_kept = (await post.kept())[0][0]
    assert first_kept > 1
    events = await post.told()
    assert (events[0].count, events[0].offset, events[0].message_id) == (first_kept - 1, first_kept - 1, None)
    assert offsets(events[1:]) == list(range(first_kept, 401))
    await post.send("eve", count=3)
    await post.log.remove("#eve")
    assert len(await post.told()) == len(events)
    assert await post.waits() == 0
    await post.send("eve")
    assert offsets((await post.told())[len(events) :]) == [4]


async def test_other_messages_are_none(single: server.RedisServer) -> None:
    """Fails if the option costs a namespace without it a key or a field, or messages without a time are told."""
    post = Post(single)
    plain = Post(single)
    plain.options = Namespace()
    await plain.send(count=2)
    assert not await single.client.exists(single.keys.untaken)
    meta = await single.client.hgetall(single.keys.meta(f"#{BOB}"))
    assert b"untaken" not in meta
    assert all(list(fields) == [b"b"] for _, fields in await plain.kept())
    await post.send()
    await plain.send()
    await post.send()
    assert offsets(await post.told()) == [3, 5]


def backed_up(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.glob("appendonlydir/*")}


@pytest.mark.parametrize("sync", ["everysec", "always"])
async def test_a_restart_of_redis(tmp_path: Path, keys: Keys, sync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if what was written is told because Redis has forgotten that, also after a long outage with reports in
    vain; a message that it has kept is not told; or one that has got the offset of a lost one counts as written."""
    redis = RedisServer(tmp_path, appendonly=True, options=("--appendfsync", sync)).start()
    client = connect(redis.url)
    post = Post(server.RedisServer(client, keys))

    try:
        epoch = (await post.send(count=2)).epoch
        await post.send("eve")
        backup = backed_up(tmp_path)
        await post.write(epoch, 0, 2)
        lost = await post.send()
        await post.write(epoch, 2, 3)
        redis.stop()
        outage_s = 10 * REMEMBERED_S
        monkeypatch.setattr(undelivered, "monotonic", lambda: monotonic() + outage_s)
        for _ in range(2):
            with pytest.raises(BusUnavailable):
                await post.write(epoch, 0, 1, "laptop")
        if sync == "everysec":
            for path, content in backup.items():
                path.write_bytes(content)
        redis.start()
        await eventually(lambda: answers(client))
        again = await post.send()
        events = await post.told()
        if sync == "everysec":
            assert again.epoch != lost.epoch
            assert again.offset == lost.offset
        assert sorted((each.user or "", each.offset or 0) for each in events) == sorted(
            [("eve", 1), (BOB, again.offset)]
        )
        assert next(each.epoch for each in events if each.user == BOB) == again.epoch
    finally:
        await client.aclose()
        redis.stop()


async def answers(client: Client) -> bool:
    try:
        await client.link.ping()
    except RedisError:
        return False
    return True


_numbers = itertools.count()
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.booleans(), st.integers(1, 3)),
        st.tuples(st.just("write"), st.integers(0, 12), st.integers(1, 6)),
        st.tuples(st.just("say"), st.integers(1, 12), st.just(0)),
        st.tuples(st.just("tell"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


# Positions that the log has not reached.
@example(steps=[("send", 0, 1), ("write", 1, 3), ("send", 0, 3)])
@given(steps=_steps)
@settings(
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_every_order_of_steps(client: Client, namespace: str, steps: list[tuple[str, int, int]]) -> None:
    """Fails if a message is told that somebody has taken, twice or out of order; or one that nobody has is not."""
    name = f"{namespace}:{next(_numbers)}"
    post = Post(server.RedisServer(client, Keys(f"{name}:", f"{name}:events")))
    epoch, top = "", 0
    open_offsets: set[int] = set()
    expected: list[int] = []
    for step, one, other in [*steps, ("tell", 0, 0)]:
        if step == "send":
            epoch = (await post.send(count=other, client="al" if one else None)).epoch
            open_offsets |= set(range(top + 1, top + other + 1))
            top += other
        elif step == "write":
            await post.write(epoch, one, one + other)
            open_offsets -= set(range(one + 1, one + other + 1))
        elif step == "say" and one <= top:
            await post.say(Position(epoch, one))
            open_offsets -= set(range(one + 1))
        elif step == "tell":
            expected += sorted(open_offsets)
            open_offsets.clear()
            await post.told()
            assert await post.waits() == 0
    assert offsets(await post.told()) == expected
