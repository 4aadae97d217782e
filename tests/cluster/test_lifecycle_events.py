"""Lifecycle events of whole replicas: who is killed, drained or cut off; consumers; settings."""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from heliograph import BadSetting, Consumer, LifecycleEvent, StreamEntry, online_users
from heliograph.application import build_replica
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.directory import RedisDirectory
from heliograph.backends.redis.keys import Keys
from tests.support.client import Client
from tests.support.cluster import ROOT
from tests.support.lifecycle import USUAL, short, told
from tests.support.members import Member, Members
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.replicas import settings_for
from tests.support.site import ServedApp
from tests.support.waiting import eventually
from tests.support.webhook_receiver import SECRET, Receiver

ALL = {"kinds": USUAL, "grace_s": 0.4}
ROOMS = {"room": {"presence": True, "subscription_events": True}}
EVENTFUL: dict[str, Any] = {"events": ALL, "namespaces": ROOMS, "presence": {"grace_s": 0.2}}
MANY = int(os.environ.get("HELIOGRAPH_TEST_USERS", "200"))


async def events_of(member: Member) -> list[LifecycleEvent]:
    return await told(member.redis.client, member.redis.keys)


@pytest.mark.alone
async def test_a_user_who_moves_never_left(redis_server: RedisServer, namespace: str) -> None:
    """Fails if a drained replica's user who is elsewhere in time, or a page that is reloaded, is told to have gone;
    or if one who stays away is not, or a channel's events differ from those of its subscribers."""
    async with Members(redis_server.url, namespace) as members:
        one, two = [await members.start(name, **EVENTFUL) for name in ("replica-1", "replica-2")]
        bob, eve = await one.connect("bob"), await one.connect("eve")
        await one.replica.reading.subscribe(bob.connection, "room:1")
        await one.replica.reading.subscribe(eve.connection, "room:1")
        await one.replica.reading.subscribe(eve.connection, "news")

        async def joined() -> bool:
            return len(await events_of(one)) == 7

        await eventually(joined)
        one.disconnect(bob)
        again = await two.connect("bob")
        await two.replica.reading.subscribe(again.connection, "room:1")
        await one.replica.node.stop()  # eve goes with it

        async def gone() -> bool:
            return len(await events_of(two)) == 10

        await eventually(gone)
        await asyncio.sleep(0.6)  # nothing more
        events = short(await events_of(two))
        assert sorted(events[:7]) == sorted(
            [
                "gap",
                "user_online bob",
                "user_online eve",
                "subscribed bob room:1",
                "subscribed eve room:1",
                "channel_occupied room:1",
                "channel_occupied news",
            ]
        )
        assert sorted(events[7:]) == sorted(["user_offline eve", "unsubscribed eve room:1", "channel_vacated news"])
        assert await online_users(redis_server.url, prefix=f"{namespace}:") == {"bob"}


async def test_consumers_and_a_receiver_get_the_same(redis_server: RedisServer, namespace: str) -> None:
    """Fails if the consumer that exists cannot read events, or reads the wrong stream, or nothing is pushed."""
    seen: list[LifecycleEvent] = []

    async def handle(entry: StreamEntry) -> None:
        seen.append(LifecycleEvent.read(entry))

    receiver = Receiver()
    async with ServedApp(receiver.app) as site, Members(redis_server.url, namespace) as members:
        webhooks = {"url": f"{site.url}/events", "secret": SECRET}
        one = await members.start(webhooks=webhooks, **EVENTFUL)
        consumer = Consumer(redis_server.url, "test", handle, stream="events", prefix=f"{namespace}:", block_s=0.05)
        running = asyncio.create_task(consumer.run())
        bob = await one.connect("bob")
        one.disconnect(bob)
        await eventually(lambda: len(seen) == 3)
        consumer.stop()
        await running
        assert seen == await events_of(one)
        await eventually(lambda: receiver.taken == seen)


async def test_without_events_nothing_knows_of_them(redis_server: RedisServer, namespace: str) -> None:
    """Fails if a cluster that wants no events runs other scripts, or writes other keys."""
    async with Members(redis_server.url, namespace) as members:
        one = await members.start()
        assert type(one.replica.directory._backend) is RedisDirectory
        await one.replica.reading.subscribe((await one.connect("bob")).connection, "chat:1")
        await asyncio.sleep(0.2)
        keys = [key.decode() async for key in one.redis.client.scan_iter(f"{namespace}:*")]
        assert not [key for key in keys if "stream:events" in key or "occupants" in key]


@asynccontextmanager
async def process(redis_url: str, namespace: str, name: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A replica in a process of its own, with the intervals that it has by default."""
    port = free_port()
    variables = {
        "HELIOGRAPH_AUTH__MODE": "open",
        "HELIOGRAPH_REDIS__URL": redis_url,
        "HELIOGRAPH_REDIS__PREFIX": f"{namespace}:",
        "HELIOGRAPH_BUS__CHANNEL": f"{namespace}:events",
        "HELIOGRAPH_EVENTS__KINDS": '["user_online","user_offline"]',
    }
    command = [sys.executable, "-m", "heliograph", "serve", "--port", str(port), "--name", name]
    environment = {**os.environ, **variables}
    quiet = asyncio.subprocess.DEVNULL
    started = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet)
    try:
        yield f"http://127.0.0.1:{port}", started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def serves(url: str) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    except OSError:
        return False
    writer.close()
    return True


async def in_hundreds(calls: Sequence[Coroutine[Any, Any, object]]) -> None:
    for i in range(0, len(calls), 100):
        await asyncio.gather(*calls[i : i + 100])


@pytest.mark.slow
@pytest.mark.alone  # it measures how long that takes
async def test_the_users_of_a_killed_replica_are_offline_in_time(redis_server: RedisServer, namespace: str) -> None:
    """Fails if a replica that is killed with many users leaves one online, tells of one twice, takes more than six
    seconds, or tells of those who were back elsewhere within the grace."""
    client, keys = connect(redis_server.url), Keys(f"{namespace}:", f"{namespace}:events")
    async with (
        process(redis_server.url, namespace, "replica-1") as (url, killed),
        process(redis_server.url, namespace, "replica-2") as (elsewhere, _),
    ):
        await eventually(lambda: serves(url), within_s=20)
        await eventually(lambda: serves(elsewhere), within_s=20)
        users = [f"user-{number}" for number in range(MANY)]
        back = users[::10]
        clients = [Client(url, user=user) for user in users]
        again = [Client(elsewhere, user=user) for user in back]
        await in_hundreds([each.__aenter__() for each in clients])
        killed.kill()
        died_ms = time.time() * 1000
        await in_hundreds([each.__aenter__() for each in again])

        async def all_told() -> bool:
            events = await told(client, keys)
            return sum(event.event == "user_offline" for event in events) >= MANY - len(back)

        await eventually(all_told, within_s=20)
        events = await told(client, keys)
        offline = [event for event in events if event.event == "user_offline"]
        assert Counter(event.user for event in offline) == Counter(set(users) - set(back))
        online = Counter(event.user for event in events if event.event == "user_online")
        assert online == Counter(users)
        last_ms = max(int(event.id.partition("-")[0]) for event in offline)
        assert last_ms - died_ms < 6000
        await in_hundreds([each.__aexit__(None, None, None) for each in (*clients, *again)])
    await client.aclose()


def undelivered(**options: Any) -> dict[str, Any]:
    return {"redis_url": "redis://x", "events": {"kinds": ["message_undelivered"]}, "namespaces": {"#": options}}


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        ({"events": {"kinds": ["gap"]}}, "gap is always told"),
        ({"events": {"kinds": ["user_up"]}}, "Input should be 'user_online'"),
        ({"webhooks": {"url": "http://x/", "secret": "a" * 32}}, "WEBHOOKS__URL needs HELIOGRAPH_EVENTS__KINDS"),
        ({"redis_url": "redis://x", "namespaces": ROOMS}, "'room' has subscription_events, which needs"),
        ({"redis_url": "redis://x", "events": {"kinds": ["subscribed"]}}, "no namespace has subscription_events"),
        (
            {"redis_url": "redis://x", "events": ALL, "namespaces": {"room": {"subscription_events": True}}},
            "subscription_events of 'room' needs presence",
        ),
        ({"events": {"kinds": ["message_undelivered"]}}, "message_undelivered, which needs NAMESPACES"),
        ({"namespaces": {"#": {"undelivered_after_s": 60}}}, "needs message_undelivered in HELIOGRAPH_EVENTS__KINDS"),
        (
            {"namespaces": {"news": {"undelivered_after_s": 60}}},
            "an option of '#' .users' own channels., not of 'news'",
        ),
        (undelivered(undelivered_after_s=60, ephemeral=True), "cannot be given with ephemeral"),
        (undelivered(undelivered_after_s=60, force_recovery_mode="cache"), "with force_recovery_mode cache"),
        (undelivered(undelivered_after_s=295), "is 295: history_ttl_s must be 10 s more, and is 300"),
        (
            {**undelivered(undelivered_after_s=60), "redis": {"durable_url": "redis://y"}},
            "unset HELIOGRAPH_REDIS__DURABLE_URL",
        ),
    ],
)
def test_settings_that_would_tell_nothing_are_refused(groups: dict[str, Any], why: str) -> None:
    """Fails if events are set up so that somebody waits for them in vain."""
    with pytest.raises(ValidationError, match=why):
        settings_for(**groups)


def test_a_replica_without_redis_refuses_to_tell_events() -> None:
    """Fails if somebody waits in vain for what memory does not keep; `heliograph up` brings its Redis later."""
    settings = settings_for(events={"kinds": ["user_online"]})
    with pytest.raises(BadSetting, match="EVENTS__KINDS needs HELIOGRAPH_REDIS__URL"):
        build_replica(settings, "replica-1")
