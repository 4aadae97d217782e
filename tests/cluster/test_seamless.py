"""A log that goes on in another epoch with everything that was acknowledged: who listens is not told of a loss.

What a failover leaves in Redis is put there by hand; tests/cluster/test_failover.py has real ones.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from heliograph.protocol.position import Position
from tests.support.members import Device, Member, Members
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


@pytest.fixture
async def one(redis_server: RedisServer, namespace: str) -> AsyncIterator[Member]:
    async with Members(redis_server.url, namespace) as members:
        yield await members.start(channels={"heartbeat_s": 0.1, "page": 2})


def promote(one: Member, redis: RedisServer, channel: str, epoch: str, *, lost: int = 0, after: str = "next") -> None:
    """Let the log go on in the epoch `after`, without its last publications."""
    keys = one.redis.keys
    meta, stream = keys.meta(channel), keys.stream(channel)
    top = int(redis.command("HGET", meta, "top")) - lost
    for offset in range(top + 1, top + lost + 1):
        redis.command("XDEL", stream, f"{offset}-0")
    redis.command("XSETID", stream, f"{top}-0")
    facts = {"epoch": after, "seamless": after, "before": epoch, "began": str(top), "top": str(top)}
    redis.command("HSET", meta, *(word for fact in facts.items() for word in fact))


async def published(one: Member, channel: str, *numbers: int) -> Position:
    position = None
    for number in numbers:
        position = (await one.replica.manager.publish(channel, number)).position
    assert position is not None
    return position


async def listener(one: Member, user: str, channel: str, since: Position | None = None) -> Device:
    device = await one.connect(user)
    await one.replica.reading.subscribe(device.connection, channel, since)
    return device


async def test_who_listens_goes_on(one: Member, redis_server: RedisServer) -> None:
    """Fails if a failover that has lost nothing is told, or takes or repeats a message; SDKs have to start again."""
    plain, sdk = await listener(one, "bob", "news"), await listener(one, "eve", "news")
    again: list[str] = []
    sdk.connection.on_gap = again.append
    last = await published(one, "news", 1, 2, 3)
    await eventually(lambda: plain.got == [1, 2, 3])
    promote(one, redis_server, "news", last.epoch)
    following = await published(one, "news", 4, 5)
    assert following.epoch == "next"
    await eventually(lambda: plain.got == [1, 2, 3, 4, 5])
    assert len(plain.of("subscribed")) == 1
    assert again == ["news"]


async def test_who_has_seen_more_goes_on_where_the_log_does(one: Member, redis_server: RedisServer) -> None:
    """Fails if whoever saw what was never acknowledged waits until the new offsets have passed the old ones."""
    plain = await listener(one, "bob", "news")
    last = await published(one, "news", 1, 2, 3)
    await eventually(lambda: plain.got == [1, 2, 3])
    promote(one, redis_server, "news", last.epoch, lost=2)
    await published(one, "news", 4)
    await eventually(lambda: plain.got == [1, 2, 3, 4])
    assert len(plain.of("subscribed")) == 1
    late = await listener(one, "late", "news", last)
    await eventually(lambda: late.got == [4])
    assert [frame["recovered"] for frame in late.of("subscribed")] == [True]


async def test_viewers_of_a_run_who_have_seen_more_get_its_state(one: Member, redis_server: RedisServer) -> None:
    """Fails if a run shows an end that was never acknowledged, and did not come."""
    viewer = await one.connect("bob")
    await one.replica.reading.subscribe(viewer.connection, "run:1")
    manager = one.replica.manager
    first = (await manager.publish("run:1", {"state": "RUNNING", "progress": 10})).position
    await manager.publish("run:1", {"state": "END"})
    assert first is not None
    await eventually(lambda: any(frame.get("state") == "END" for frame in viewer.sink.frames))
    promote(one, redis_server, "run:1", first.epoch, lost=1)
    redis_server.command("HSET", one.redis.keys.state("run:1"), "state", '"RUNNING"')
    await eventually(lambda: len(viewer.of("initial_state")) == 2)
    assert viewer.of("initial_state")[-1]["state"] == "RUNNING"


async def test_in_the_middle_of_catching_up(one: Member, redis_server: RedisServer) -> None:
    """Fails if a client that reads page by page is told of a loss, or never comes to an end."""
    last = await published(one, "news", *range(1, 8))
    device = await one.connect("bob")
    done = False

    def meanwhile(_: object) -> None:
        nonlocal done
        if not done and 1 in device.got:
            done = True
            promote(one, redis_server, "news", last.epoch, lost=1)

    device.sink.on_write = meanwhile
    async with asyncio.timeout(5):
        await one.replica.reading.subscribe(device.connection, "news", Position(last.epoch, 0))
    await eventually(lambda: device.got == [1, 2, 3, 4, 5, 6])
    await published(one, "news", 8)
    await eventually(lambda: device.got == [1, 2, 3, 4, 5, 6, 8])
    assert [frame["recovered"] for frame in device.of("subscribed")] == [True]
