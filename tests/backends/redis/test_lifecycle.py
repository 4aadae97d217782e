"""What Redis itself can do to lifecycle events: time, losses, restarts, events that are switched off for a while."""

import asyncio
import time
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.lifecycle import Told
from heliograph.ports import PresenceEntry
from heliograph.protocol.lifecycle import SELECTABLE, Kind
from tests.support.lifecycle import Teller, short, told
from tests.support.redis_server import RedisServer
from tests.support.replica_info import replica_info
from tests.support.waiting import eventually

LONG_S = 600.0


async def joined(client: Client, keys: Keys, name: str = "replica-1", **options: object) -> Teller:
    """A replica with the lease `name.0`."""
    teller = Teller.at(client, keys, name, **options)  # type: ignore[arg-type]
    await teller.directory.take(f"{name}.0", replica_info(name), LONG_S)
    return teller


def backed_up(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.glob("appendonlydir/*")}


async def answers(teller: Teller) -> bool:
    try:
        await teller.redis.ping()
    except RedisError:
        return False
    return True


async def test_what_an_event_says(client: Client, keys: Keys) -> None:
    """Fails if a user, a replica or a time is wrong, names in any script are mangled, or an id is missing."""
    one, two = await joined(client, keys, "replica-1"), await joined(client, keys, "replica-2")
    before_ms = await one.redis.now_ms()
    await one.directory.hold("replica-1.0", {'a","b': 1, "김철수": 2})
    await one.presence.enter("replica-1.0", [PresenceEntry("chat:🐈 1", "김철수", 1, announced=True)])
    await one.counts.enter("replica-1.0", {"chat:🐈 1": 1, "#김철수": 1})
    await one.presence.enter("replica-1.0", [PresenceEntry("lobby", "김철수", 1, announced=True)])
    await two.reap("replica-1.0")
    reaped_ms = await one.redis.now_ms()
    await asyncio.sleep(0.02)
    await two.events.tell_absences()
    events = await told(client, keys)
    assert sorted(short(events)) == sorted(
        [
            "gap",
            'user_online a","b',
            "user_online 김철수",
            "subscribed 김철수 chat:🐈 1",
            "channel_occupied chat:🐈 1",
            "unsubscribed 김철수 chat:🐈 1",
            "channel_vacated chat:🐈 1",
            'user_offline a","b',
            "user_offline 김철수",
        ]
    )
    assert {event.replica for event in events} == {"replica-1"}, "who goes was with the one that was reaped"
    assert all(before_ms <= event.at_ms <= reaped_ms for event in events), "when they went, not when it was told"
    assert events[0].from_ms == 0
    assert len({event.id for event in events}) == len(events)


async def test_the_grace_counts_from_the_end_of_the_lease(client: Client, keys: Keys) -> None:
    """Fails if the users of a replica that was killed are absent only from the moment on when that was noticed."""
    grace = Told(frozenset(SELECTABLE), grace_s=0.5, maxlen=1000)
    one, stopped = Teller.at(client, keys, "replica-1", grace), await joined(client, keys, "stopped", told=grace)
    two = await joined(client, keys, "replica-2", told=grace)
    await one.directory.take("replica-1.0", replica_info("replica-1"), 0.01)
    await one.directory.hold("replica-1.0", {"bob": 1, "eve": 1})
    await stopped.directory.hold("stopped.0", {"al": 1})
    await asyncio.sleep(0.55)
    await two.directory.hold("replica-2.0", {"eve": 1})
    await two.reap("replica-1.0")
    await stopped.reap("stopped.0")  # its lease would have lasted: absent from now on
    assert await two.events.tell_absences() == 1
    assert short(await told(client, keys))[4:] == ["user_offline bob"]


async def test_only_what_is_named_is_told(client: Client, keys: Keys) -> None:
    """Fails if a kind that nobody wants is told, or what is told depends on one that is not."""
    only = Told(frozenset([Kind.USER_OFFLINE]), grace_s=0.0, maxlen=1000)
    one = await joined(client, keys, told=only)
    for count in (1, 0, 1, 0):
        await one.directory.hold("replica-1.0", {"bob": count})
        await one.counts.enter("replica-1.0", {"chat:1": count})
    await one.events.tell_absences()
    assert short(await told(client, keys)) == ["gap", "user_offline bob"]


async def test_events_that_were_off_for_a_while_leave_a_gap(client: Client, keys: Keys) -> None:
    """Fails if a user who was absent when events were switched off is told to be gone when they are on again."""
    one = await joined(client, keys)
    await one.directory.hold("replica-1.0", {"bob": 1})
    await one.directory.hold("replica-1.0", {"bob": 0})
    await one.counts.enter("replica-1.0", {"chat:1": 1})
    _, about, _, _ = keys.lifecycle
    off_at = int(time.time() * 1000) - 61_000
    await client.hset(about, "seen_at", off_at)
    await client.zrem(keys.leases, "replica-1.0")  # reaped by a replica that knew of no events
    later = await joined(client, keys, "later")
    await later.events.tell_absences()
    await later.counts.enter("later.0", {"chat:1": 1})
    await later.counts.enter("later.0", {"chat:1": 0})
    await later.events.tell_absences()
    events = await told(client, keys)
    assert short(events)[3:] == ["gap", "channel_occupied chat:1", "channel_vacated chat:1"]
    assert events[3].from_ms == off_at


@pytest.mark.parametrize("sync", ["everysec", "always"])
async def test_a_restart_is_a_gap_if_anything_may_be_lost(tmp_path: Path, keys: Keys, sync: str) -> None:
    """Fails if lost events are not told of, or a server that loses nothing is doubted."""
    redis = RedisServer(tmp_path, appendonly=True, options=("--appendfsync", sync)).start()
    client = connect(redis.url)
    try:
        one = await joined(client, keys)
        await one.directory.hold("replica-1.0", {"bob": 1, "eve": 1})
        await one.events.tell_absences()
        seen_at = one.events._seen_at
        backup = backed_up(tmp_path)
        await one.directory.hold("replica-1.0", {"eve": 0})
        await one.events.tell_absences()
        assert short(await told(client, keys))[-1] == "user_offline eve"
        redis.stop()
        if sync == "everysec":  # the last second is lost
            for path, content in backup.items():
                path.write_bytes(content)
        redis.start()
        await eventually(lambda: answers(one))
        await one.directory.take("replica-1.1", replica_info(), LONG_S)
        await one.directory.hold("replica-1.1", {"bob": 1})
        await one.reap("replica-1.0")
        await one.events.tell_absences()
        events = await told(client, keys)
        expected = ["gap", "user_online bob", "user_online eve"]
        expected += ["gap"] if sync == "everysec" else []
        assert short(events) == [*expected, "user_offline eve"]
        if sync == "everysec":
            assert events[3].from_ms == seen_at
            assert events[3].until_ms is not None
            assert events[3].until_ms > events[3].at_ms
        assert await one.directory.users() == {"bob"}
    finally:
        await client.aclose()
        redis.stop()


async def test_data_that_go_back_without_a_restart_are_a_gap(client: Client, keys: Keys) -> None:
    """Fails if a server that was a replica for a moment, and took older data, tells of no gap."""
    one = await joined(client, keys)
    await one.events.tell_absences()
    _, about, _, _ = keys.lifecycle
    older = await client.dump(about)
    assert older is not None
    seen_at = one.events._seen_at
    await asyncio.sleep(0.02)
    await one.events.tell_absences()
    await client.restore(about, 0, older, replace=True)
    await one.events.tell_absences()
    await one.events.tell_absences()
    events = await told(client, keys)
    assert short(events) == ["gap", "gap"]
    assert events[1].from_ms == seen_at


async def test_more_absences_than_one_call_takes(client: Client, keys: Keys) -> None:
    """Fails if those beyond the first 500 are forgotten, or told twice by two replicas that sweep at once."""
    one, two = await joined(client, keys, "replica-1"), await joined(client, keys, "replica-2")
    users = {f"user-{number}": 1 for number in range(1200)}
    await one.directory.hold("replica-1.0", users)
    await two.reap("replica-1.0")
    counts = await asyncio.gather(one.events.tell_absences(), two.events.tell_absences())
    assert sum(counts) == 1200
    offline = [event.user for event in await told(client, keys) if event.event == "user_offline"]
    assert sorted(filter(None, offline)) == sorted(users)
