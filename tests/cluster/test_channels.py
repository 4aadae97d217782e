"""Channels over real replicas and sockets: no gap, no repeat, no inversion, whatever happens to the bus."""

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from heliograph.codecs.plain.cursor import format_cursor, parse_cursor
from heliograph.errors import BusUnavailable
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.position import Position
from heliograph.tasks import end
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.like import Like
from tests.support.members import Members
from tests.support.raw_socket import RawSocket
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.settling import believe_at_once
from tests.support.waiting import eventually

QUICK = {"heartbeat_s": 0.1, "linger_s": 0.2}
DIRECTED = {"routing": "directed"}
LONG = {"chat": {"history_size": 100_000}, "#": {"history_size": 100_000}}  # histories that no test outruns


@contextlib.asynccontextmanager
async def arrive(replica: RunningReplica, user: str, **query: str) -> AsyncIterator[Client]:
    """Connect with more on the URL than a user: `cursor`, `replay`, `channels`."""
    async with Client(replica.url, path=f"/ws?{urlencode({'user': user, **query})}") as client:
        client.connected = await client.next("connected")
        yield client


async def subscribe(client: Client, channel: str, **fields: Any) -> dict[str, Any]:
    """Returns the answer: `subscribed`, or the error."""
    await client.say({"type": "subscribe", "channel": channel, "id": f"sub {channel}", **fields})
    return await client.next("subscribed", "error", id=f"sub {channel}")


async def publish(replica: RunningReplica, channel: str, *data: Any) -> None:
    for each in data:
        await replica.replica.manager.publish(channel, each)


def position(frame: dict[str, Any]) -> Position:
    [found] = parse_cursor(frame["cursor"]).values()
    return found


@contextlib.asynccontextmanager
async def meanwhile(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have the jobs run until the block ends."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        await end(tasks)  # more than one cancellation may be needed: redis-py can lose one


def drop_what_comes(replica: RunningReplica) -> Callable[[], None]:
    """Lose all that the bus brings to the replica, without a trace, until the returned function is called."""
    bus = replica.bus
    handler, bus._handler = bus._handler, lambda envelope: None

    def mend() -> None:
        bus._handler = handler

    return mend


def kill_bus_connections(redis: RedisServer) -> None:
    assert int(redis.command("CLIENT", "KILL", "TYPE", "pubsub")) > 0


@dataclass
class Pair:
    """Where things happen: two replicas of one cluster, or twice the only one."""

    here: RunningReplica
    there: RunningReplica


@pytest.fixture(params=["memory", "redis", "directed"])
async def pair(request: pytest.FixtureRequest, start_replica: StartReplica) -> Pair:
    if request.param == "memory":
        alone = await start_replica("replica-1", redis_url=None, channels=QUICK, namespaces=LONG)
        return Pair(alone, alone)
    bus = DIRECTED if request.param == "directed" else {}
    here = await start_replica("replica-1", channels=QUICK, namespaces=LONG, bus=bus)
    return Pair(here, await start_replica("replica-2", channels=QUICK, namespaces=LONG, bus=bus))


class TestSubscribing:
    async def test_what_is_published_anywhere_comes_in_order(self, pair: Pair) -> None:
        """Fails if a subscriber misses, doubles or reorders anything of several publishers."""
        async with arrive(pair.here, "a") as a, arrive(pair.there, "b") as b:
            for client in (a, b):
                assert (await subscribe(client, "chat:1"))["recovered"] is False
            await asyncio.gather(
                publish(pair.here, "chat:1", *(["here", n] for n in range(50))),
                publish(pair.there, "chat:1", *(["there", n] for n in range(50))),
            )
            got = await a.messages(100)
            assert await b.messages(100) == got
            for side in ("here", "there"):
                assert [n for where, n in got if where == side] == list(range(50))
            for client in (a, b):
                await client.nothing_more()

    async def test_without_a_cursor_only_what_comes(self, pair: Pair) -> None:
        """Fails if a new subscriber gets history that it did not ask for."""
        await publish(pair.there, "chat:1", "before")
        async with arrive(pair.here, "a") as a:
            subscribed = await subscribe(a, "chat:1")
            assert position(subscribed).offset == 1
            await publish(pair.there, "chat:1", "after")
            message = await a.next("message")
            assert (message["data"], position(message).offset) == ("after", 2)

    async def test_a_cursor_goes_on_on_another_replica(self, pair: Pair) -> None:
        """Fails if what was published while a client moved is lost, or comes twice."""
        async with arrive(pair.here, "a") as a:
            await subscribe(a, "chat:1")
            await publish(pair.here, "chat:1", 1, 2)
            await a.next("message")
            cursor = (await a.next("message"))["cursor"]
        await publish(pair.here, "chat:1", 3, 4)
        async with arrive(pair.there, "a") as a:
            subscribed = await subscribe(a, "chat:1", cursor=cursor)
            assert (subscribed["recovered"], subscribed["cursor"]) == (True, cursor)
            await publish(pair.here, "chat:1", 5)
            assert await a.messages(3) == [3, 4, 5]
            await a.nothing_more()

    async def test_a_cursor_on_the_url_names_any_number_of_channels(self, pair: Pair) -> None:
        """Fails if the channels of a connection's cursor are not subscribed to at once."""
        async with arrive(pair.here, "a") as a:
            cursors = [a.connected["cursor"]]
            cursors += [(await subscribe(a, channel))["cursor"] for channel in ("chat:1", "chat:&=%우")]
        await publish(pair.there, "chat:&=%우", "x")
        await publish(pair.there, "chat:1", "y")
        await publish(pair.there, "#a", "z")
        async with arrive(pair.there, "a", cursor="&".join(cursors)) as a:
            got = [await a.next("message") for _ in range(3)]
            assert {each["channel"]: each["data"] for each in got} == {"chat:&=%우": "x", "chat:1": "y", "#a": "z"}
            await a.nothing_more()

    async def test_a_cursor_too_old_is_said_aloud(self, start_replica: StartReplica) -> None:
        """Fails if a client with a gap before it is not told, or does not get what is still kept."""
        one = await start_replica(namespaces={"small": {"history_size": 1}})
        async with arrive(one, "a") as a:
            cursor = (await subscribe(a, "small:1"))["cursor"]
        await publish(one, "small:1", *range(300))
        async with arrive(one, "a") as a:
            subscribed = await subscribe(a, "small:1", cursor=cursor)
            assert subscribed["recovered"] is False
            oldest = position(subscribed).offset
            assert 100 <= oldest < 300
            await publish(one, "small:1", "live")
            assert await a.messages(300 - oldest + 1) == [*range(oldest, 300), "live"]
            await a.nothing_more()

    async def test_the_history_after_a_cursor_too_old_is_what_is_kept(self, start_replica: StartReplica) -> None:
        """Fails if who reads page by page with such a cursor gets nothing, or never comes to the end."""
        one = await start_replica(namespaces={"small": {"history_size": 1}})
        async with arrive(one, "a") as a:
            cursor = (await subscribe(a, "small:1"))["cursor"]
        await publish(one, "small:1", *range(300))
        for since in (cursor, format_cursor({"small:1": Position("0123abcd", 7)})):
            async with arrive(one, "a") as a:
                got, at = [], since
                while True:
                    await a.say({"type": "history", "channel": "small:1", "cursor": at, "limit": 40})
                    page = await a.next("history")
                    got += [each["data"] for each in page["publications"]]
                    if page["cursor"] == at:
                        break
                    at = page["cursor"]
                assert 1 <= len(got) <= 200
                assert got == list(range(300))[-len(got) :]

    async def test_a_cursor_of_another_epoch_is_said_aloud(self, pair: Pair) -> None:
        """What has been kept since the log began anew follows: fails if it is withheld, or told to be all."""
        cursor = format_cursor({"chat:1": Position("0123abcd", 7)})
        async with arrive(pair.here, "a") as a:
            assert (await subscribe(a, "chat:1", cursor=cursor))["recovered"] is False
            await publish(pair.there, "chat:1", "live")
            assert await a.messages(1) == ["live"]
        async with arrive(pair.here, "a") as a:
            subscribed = await subscribe(a, "chat:1", cursor=cursor)
            assert (subscribed["recovered"], position(subscribed).offset) == (False, 0)
            await publish(pair.there, "chat:1", "next")
            assert await a.messages(2) == ["live", "next"]
            await a.nothing_more()

    async def test_replay_and_logs_begin_at_the_start(self, pair: Pair) -> None:
        """Fails if who comes late to a log does not see the same lines; elsewhere `replay` asks for that."""
        await publish(pair.here, "logs:101", *range(20))
        await publish(pair.here, "chat:1", *range(20))
        async with arrive(pair.there, "a") as a:
            subscribed = await subscribe(a, "logs:101")
            assert position(subscribed).offset == 0
            assert await a.messages(20) == list(range(20))
            await subscribe(a, "chat:1", replay=True)
            assert await a.messages(20) == list(range(20))
            await a.nothing_more()

    async def test_unsubscribed_is_unsubscribed(self, pair: Pair) -> None:
        """Fails if anything comes after `unsubscribed`, or the channel cannot be joined again."""
        async with arrive(pair.here, "a") as a, arrive(pair.here, "b") as b:
            for client in (a, b):
                await subscribe(client, "chat:1")
            await a.say({"type": "unsubscribe", "channel": "chat:1", "id": 1})
            await a.next("unsubscribed", id=1)
            await publish(pair.there, "chat:1", "unheard")
            assert await b.messages(1) == ["unheard"]  # so the bus has brought it here
            await a.nothing_more()
            assert position(await subscribe(a, "chat:1")).offset == 1
            await publish(pair.there, "chat:1", "heard")
            assert await a.messages(1) == ["heard"]

    async def test_joining_while_publishers_run(self, pair: Pair) -> None:
        """Fails if a publication falls between history and live, or is in both."""

        async def keep_publishing(replica: RunningReplica) -> None:
            while True:
                await publish(replica, "chat:1", 0)
                await asyncio.sleep(0.001)

        async with arrive(pair.here, "a") as a:
            first = position(await subscribe(a, "chat:1")).offset
            async with meanwhile(keep_publishing(pair.here), keep_publishing(pair.there)):
                cursor: str | None = None
                for turn in range(20):
                    async with arrive((pair.here, pair.there)[turn % 2], "b") as b:
                        fields = {"cursor": cursor} if cursor is not None else {"replay": True}
                        subscribed = await subscribe(b, "chat:1", **fields)
                        assert subscribed["recovered"] is (cursor is not None)
                        expected = position(subscribed).offset
                        for _ in range(20):
                            message = await b.next("message")
                            expected += 1
                            assert position(message).offset == expected
                        cursor = message["cursor"]
            await publish(pair.here, "chat:1", "the end")
            while (message := await a.next("message"))["data"] != "the end":
                first += 1
                assert position(message).offset == first

    async def test_a_large_replay_with_a_slow_reader(self, pair: Pair) -> None:
        """Fails if 10,000 lines close a slow client, grow without bound, or lose what comes meanwhile."""
        line = "x" * 400
        for begin in range(0, 10_000, 40):
            await asyncio.gather(*(publish(pair.here, "logs:1", [n, line]) for n in range(begin, begin + 40)))
        async with RawSocket(pair.there.url, "/ws?user=slow", receive_buffer=4096) as raw:
            await raw.next("connected")
            await raw.say({"type": "subscribe", "channel": "logs:1"})
            assert position(await raw.next("subscribed")).offset == 0
            await asyncio.sleep(0.3)  # it does not read
            outboxes = [each.outbox._bytes for each in pair.there.replica.hub]
            assert max(outboxes) < 200_000
            live = asyncio.create_task(publish(pair.here, "logs:1", *([n, line] for n in range(2000))))
            for offset in range(1, 12_001):
                assert position(await raw.next("message")).offset == offset
            await live

    async def test_a_slow_reader_who_vanishes_is_forgotten(self, pair: Pair) -> None:
        """Fails if a client that goes away in the middle of its replay is served for ever."""
        for _ in range(75):
            await asyncio.gather(*(publish(pair.here, "logs:1", "x" * 2000) for _ in range(40)))
        async with RawSocket(pair.there.url, "/ws?user=slow", receive_buffer=4096) as raw:
            await raw.say({"type": "subscribe", "channel": "logs:1"})
            await raw.next("subscribed")
            await asyncio.sleep(0.1)
            raw.abort()
            await eventually(lambda: pair.there.replica.hub.connections == 0, within_s=3)

    async def test_many_devices_catch_up_with_one_channel_at_once(self, pair: Pair) -> None:
        """Fails if joins of one channel at the same time get in each other's way."""
        await publish(pair.here, "chat:1", *range(50))
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(arrive(pair.there, f"u{n}")) for n in range(10)]
            publishing = asyncio.create_task(publish(pair.here, "chat:1", *range(50, 100)))
            await asyncio.gather(*(subscribe(client, "chat:1", replay=True) for client in clients))
            await publishing
            for client in clients:
                assert await client.messages(100) == list(range(100))
                await client.nothing_more()


class TestUsers:
    async def test_who_was_away_gets_what_came_meanwhile(self, pair: Pair) -> None:
        """Fails if a message to a user who is nowhere is lost although they come back with their cursor."""
        async with arrive(pair.here, "bob") as bob, arrive(pair.there, "al") as al:
            assert (await al.send("bob", 1))["delivery"] in ("local", "remote")
            message = await bob.next("message")
            assert message["channel"] == "#bob"
            await bob.socket.close()
            await eventually(lambda: pair.here.replica.hub.count("bob") == 0)

            async def is_stored() -> bool:
                return bool((await al.send("bob", "away"))["delivery"] == "stored")

            await eventually(is_stored)
            sent = 1
            await al.send("bob", "last")
            async with arrive(pair.there, "bob", cursor=message["cursor"]) as again:
                assert (await again.next("subscribed"))["recovered"] is True
                got: list[Any] = []
                while got[-1:] != ["last"]:
                    got += await again.messages(1)
                assert len(got) > sent
                assert set(got) == {"away", "last"}
                await al.send("bob", "live")
                assert await again.messages(1) == ["live"]
                await again.nothing_more()

    async def test_replay_gives_all_that_is_kept(self, pair: Pair) -> None:
        """Fails if `?replay` does not begin at the start."""
        async with arrive(pair.here, "al") as al:
            for n in range(5):
                assert (await al.send("bob", n))["delivery"] == "stored"
            async with arrive(pair.there, "bob", replay="") as bob:
                assert await bob.messages(5) == list(range(5))
                await al.send("bob", "live")
                assert await bob.messages(1) == ["live"]
                await bob.nothing_more()

    @pytest.mark.parametrize("bus", [{}, DIRECTED], ids=["shared", "directed"])
    async def test_five_hundred_in_a_row_to_two_devices(self, start_replica: StartReplica, bus: Any) -> None:
        """Fails if a burst to a user on two other replicas stalls or loses its order."""
        one, two, three = [await start_replica(f"replica-{n}", bus=bus) for n in (1, 2, 3)]
        async with arrive(one, "al") as al, arrive(two, "bob") as phone, arrive(three, "bob") as laptop:
            for n in range(500):
                await al.say({"type": "send", "to": "bob", "data": n, "id": n})
            for device in (phone, laptop):
                assert await device.messages(500, within_s=10) == list(range(500))
                await device.nothing_more()

    @pytest.mark.parametrize("bus", [{}, DIRECTED], ids=["shared", "directed"])
    @pytest.mark.parametrize("before", [[], [1]], ids=["the first of all", "one of many"])
    async def test_a_last_message_to_a_user_that_was_lost(
        self, start_replica: StartReplica, bus: Any, before: list[int]
    ) -> None:
        """Fails if the counter of the bus channel that should have brought it does not give it away."""
        one, two = [await start_replica(f"replica-{n}", bus=bus) for n in (1, 2)]
        async with arrive(one, "al") as al, arrive(two, "bob") as bob:
            for n in before:
                await al.send("bob", n)
            assert await bob.messages(len(before)) == before
            await asyncio.sleep(1.1)  # one heartbeat
            mend = drop_what_comes(two)
            assert (await al.send("bob", "lost"))["delivery"] == "remote"
            await asyncio.sleep(0.1)
            mend()
            sent_at = time.monotonic()
            assert await bob.messages(1) == ["lost"]
            assert time.monotonic() - sent_at < 2.3

    async def test_an_append_whose_answer_was_lost_is_delivered_all_the_same(
        self, start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if what is in the log, but was published to nobody, waits for the next message."""
        one = await start_replica(channels=QUICK, namespaces=LONG)
        log = one.replica.manager._log

        def lose_the_answer(draft: Any, options: Any, lease: str, done: Callable[[Any], object]) -> None:
            log.submit(draft, options, lease, lambda _: done(BusUnavailable("the answer was lost")))

        async with arrive(one, "bob") as bob:
            await believe_at_once(one.redis.client, one.redis.keys)
            with monkeypatch.context() as patch:
                patch.setattr(one.replica.manager, "_log", Like(log, submit=lose_the_answer))
                with pytest.raises(BusUnavailable):
                    await one.replica.manager.publish("#bob", "kept", idempotency_key="k")
            assert await bob.messages(1) == ["kept"]
            result = await one.replica.manager.publish("#bob", "kept", idempotency_key="k")
            assert result.position is not None
            assert result.position.offset == 1
            await bob.nothing_more()


class TestRuns:
    async def test_state_first_and_then_progress(self, pair: Pair) -> None:
        """Fails if a viewer who comes late does not see the state as it is, or the progress after it."""
        channel = "run:20251105_1430_우주여행고양이"
        await publish(pair.here, channel, {"state": "RUNNING", "progress": 40, "message": "시작"})
        async with Client(pair.there.url, user="v", path="/ws/runs/20251105_1430_우주여행고양이") as viewer:
            await viewer.next("subscribed")
            state = await viewer.next("initial_state")
            assert state == {"type": "initial_state", "state": "RUNNING", "progress": 40.0, "logs": ["시작"]}
            await publish(pair.here, channel, {"progress": 41})
            progress = await viewer.next("progress")
            assert progress == {
                "type": "progress",
                "run_id": "20251105_1430_우주여행고양이",
                "state": "RUNNING",
                "progress": 41.0,
                "message": None,
            }

    async def test_nothing_lost_or_doubled_between_state_and_progress(self, pair: Pair) -> None:
        """Fails if an update is in both `initial_state` and the progress after it, or in neither."""

        async def work() -> None:
            for count in itertools.count(1):
                await publish(pair.here, "run:1", {"progress": count / 1000, "message": str(count)})
                await asyncio.sleep(0.001)

        async with meanwhile(work()):
            for turn in range(20):
                async with arrive((pair.there, pair.here)[turn % 2], "v", channels="run:1") as viewer:
                    state = await viewer.next("initial_state")
                    told = [int(each) for each in state["logs"]]
                    for _ in range(10):
                        told.append(int((await viewer.next("progress"))["message"]))
                    assert told == list(range(told[0], told[0] + len(told)))
                    assert state["progress"] == told[-11] / 1000

    async def test_what_is_no_update_is_refused(self, pair: Pair) -> None:
        with pytest.raises(Exception, match="update"):
            await publish(pair.here, "run:1", [1, 2])


class TestRepair:
    async def test_a_gap_in_the_middle_of_a_stream(
        self, own_redis: RedisServer, start_replica: StartReplica, caplog: pytest.LogCaptureFixture
    ) -> None:
        """CLIENT KILL TYPE pubsub while messages flow: no gap, no repeat, and the client's socket stays open."""
        caplog.set_level(logging.INFO, "heliograph.cluster.repair")
        one = await start_replica("replica-1", redis_url=own_redis.url, namespaces=LONG)
        two = await start_replica("replica-2", redis_url=own_redis.url, namespaces=LONG)
        async with arrive(one, "a") as a, arrive(two, "b") as b:
            for client in (a, b):
                await subscribe(client, "chat:1")
            for n in range(600):
                if n % 100 == 50:
                    await eventually(
                        lambda: one.replica.node.ready and two.replica.node.ready
                    )  # there is one to kill
                    kill_bus_connections(own_redis)
                await publish(one, "chat:1", n)
                await one.replica.manager.publish("#b", n)
            for client, expected in ((a, [*range(600)]), (b, sorted([*range(600), *range(600)]))):
                got = [await client.next("message", within_s=10) for _ in expected]
                assert sorted(each["data"] for each in got) == expected
                for channel in ("chat:1", "#b"):
                    offsets = [position(each).offset for each in got if each["channel"] == channel]
                    assert offsets == list(range(1, len(offsets) + 1))
                await client.nothing_more()
        assert two.replica.telemetry.repairs > 0
        assert two.replica.telemetry.unfilled_gaps == 0
        assert any(
            getattr(each, "channel", "") == "chat:1" and "repaired" in each.getMessage() for each in caplog.records
        )

    async def test_a_gap_longer_than_a_page(self, start_replica: StartReplica) -> None:
        """Fails if only the first page of what is missing is read."""
        options = {"channels": {"heartbeat_s": 60, "page": 20}, "namespaces": LONG}
        one, two = [await start_replica(f"replica-{n}", **options) for n in (1, 2)]
        async with arrive(two, "bob") as bob:
            await subscribe(bob, "chat:1")
            mend = drop_what_comes(two)
            await publish(one, "chat:1", *range(90))
            await publish(one, "#bob", *range(90))
            await asyncio.sleep(0.1)
            mend()
            await publish(one, "chat:1", 90)
            assert await bob.messages(91) == list(range(91))
            await publish(one, "#bob", 90)
            assert await bob.messages(91) == list(range(91))
            await bob.nothing_more()

    @pytest.mark.alone  # it has seconds
    @pytest.mark.parametrize("count", [1, 30])
    async def test_a_lost_last_message(self, start_replica: StartReplica, count: int) -> None:
        """Fails if the last message is not repaired within 2 s although nothing comes after it."""
        one, two = [await start_replica(f"replica-{n}") for n in (1, 2)]
        async with arrive(two, "a") as a:
            await subscribe(a, "chat:1")
            mend = drop_what_comes(two)
            await publish(one, "chat:1", *range(count))
            sent_at = time.monotonic()
            await asyncio.sleep(0.05)
            mend()
            assert await a.messages(count) == list(range(count))
            assert time.monotonic() - sent_at < 2.3
            await a.nothing_more()

    async def test_what_was_published_while_the_bus_was_cut(
        self, own_redis: RedisServer, start_replica: StartReplica
    ) -> None:
        """Fails if a new subscription of the bus does not look for what it has missed, last message or not."""
        options = {"redis_url": own_redis.url, "channels": {"heartbeat_s": 60}}
        one, two = [await start_replica(f"replica-{n}", **options) for n in (1, 2)]
        async with arrive(two, "a") as a:
            await subscribe(a, "chat:1")
            for n in range(10):
                await eventually(lambda: one.replica.node.ready and two.replica.node.ready)  # there is one to kill
                kill_bus_connections(own_redis)
                await publish(one, "chat:1", n)
                await one.replica.manager.publish("#a", n)
                assert await a.messages(2) == [n, n]
            await a.nothing_more()

    async def test_a_new_epoch_is_said_to_everyone(self, own_redis: RedisServer, start_replica: StartReplica) -> None:
        """Redis without persistence restarts: each channel says recovered:false, and goes on."""
        own_redis.command("CONFIG", "SET", "appendonly", "no")
        one = await start_replica("replica-1", redis_url=own_redis.url, channels=QUICK, namespaces=LONG)
        async with arrive(one, "a") as a:
            before = position(await subscribe(a, "chat:1"))
            await publish(one, "chat:1", 1)
            await publish(one, "#a", 1)
            assert await a.messages(2) == [1, 1]
            own_redis.restart()
            for channel in ("chat:1", "#a"):
                told = await a.next("subscribed", channel=channel)
                assert told["recovered"] is False
            assert position(told).epoch != before.epoch
            await eventually(lambda: one.replica.node.ready)
            await publish(one, "chat:1", 2)
            await publish(one, "#a", 2)
            assert await a.messages(2) == [2, 2]

    async def test_what_a_new_epoch_has_brought_before_anybody_listened(
        self, own_redis: RedisServer, start_replica: StartReplica
    ) -> None:
        """Fails if a replica that hears the bus again later than others skips what has been published until then."""
        own_redis.command("CONFIG", "SET", "appendonly", "no")
        options = {"redis_url": own_redis.url, "namespaces": LONG, "channels": {"heartbeat_s": 60, "page": 20}}
        one, two = [await start_replica(f"replica-{n}", **options) for n in (1, 2)]
        async with arrive(two, "a") as a:
            await subscribe(a, "chat:1")
            await subscribe(a, "run:1")
            assert (await a.next("initial_state"))["progress"] == 0
            await publish(one, "chat:1", *range(100, 107))
            await publish(one, "#a", *range(100, 107))
            assert len(await a.messages(14)) == 14
            await two.replica.bus.stop_listening()
            own_redis.restart()
            await eventually(lambda: one.replica.bus.stats.resubscriptions > 0 and one.replica.node.ready)
            await publish(one, "chat:1", *range(90))
            await publish(one, "#a", *range(5))
            await publish(one, "run:1", {"state": "PROGRESS", "progress": 3})
            two.replica.bus.start_listening()
            for channel, count in (("#a", 5), ("chat:1", 90)):
                told = await a.next("subscribed", channel=channel)
                assert (told["recovered"], position(told).offset) == (False, 0)
                got = [await a.next("message", channel=channel) for _ in range(count)]
                assert [each["data"] for each in got] == list(range(count))
            assert (await a.next("initial_state"))["progress"] == 3
            await publish(one, "run:1", {"progress": 4})
            assert (await a.next("progress"))["progress"] == 4, "the state holds what came before it"
            await a.nothing_more()

    async def test_a_log_that_is_emptied_before_anybody_looked_at_it(
        self, own_redis: RedisServer, start_replica: StartReplica
    ) -> None:
        """Fails if a loss goes unnoticed where no heartbeat saw the log before it, and nothing is published after."""
        one = await start_replica("replica-1", redis_url=own_redis.url, channels={"heartbeat_s": 1})
        async with arrive(one, "a") as a:
            for channel in ("chat:1", "chat:2"):  # the second is new after a repair, as the first is not
                before = [position(await subscribe(a, channel))]
                for _ in range(2):
                    own_redis.command("FLUSHALL")
                    said = await a.next("subscribed", channel=channel, recovered=False)
                    assert position(said).epoch not in [each.epoch for each in before]
                    before.append(position(said))

    async def test_redis_down_and_back(self, own_redis: RedisServer, start_replica: StartReplica) -> None:
        """Fails if a refused subscription or publication leaves something behind that stands in the way later."""
        one = await start_replica("replica-1", redis_url=own_redis.url, channels=QUICK, namespaces=LONG)
        async with arrive(one, "a") as a:
            own_redis.stop()
            refused = await subscribe(a, "chat:1")
            assert (refused["type"], refused["code"]) == ("error", "unavailable")
            await a.say({"type": "publish", "channel": "chat:1", "data": "refused", "id": 1})
            assert (await a.next("error", id=1))["code"] == "unavailable"
            own_redis.start()

            async def works() -> bool:
                return bool((await subscribe(a, "chat:1"))["type"] == "subscribed")

            await eventually(works, within_s=10)
            await publish(one, "chat:1", "works")
            assert (await a.next("message", data="works"))["channel"] == "chat:1"

    async def test_who_came_while_redis_was_down_is_told_where_it_begins(
        self, own_redis: RedisServer, start_replica: StartReplica
    ) -> None:
        """Fails if a user who connected without Redis never gets what is kept."""
        one = await start_replica("replica-1", redis_url=own_redis.url, channels=QUICK, namespaces=LONG)
        own_redis.stop()
        async with arrive(one, "a") as a:
            assert a.connected["cursor"] == ""
            own_redis.start()
            assert (await a.next("subscribed", within_s=10))["channel"] == "#a"
            await eventually(lambda: one.replica.node.ready, within_s=10)
            await publish(one, "#a", "kept")
            assert await a.messages(1) == ["kept"]

    async def test_a_publication_out_of_nowhere_does_not_keep_the_repair_busy(
        self, start_replica: StartReplica
    ) -> None:
        """Fails if an offset that the log has never given makes the replica read it without end."""
        one = await start_replica("replica-1", channels={"heartbeat_s": 60})
        async with arrive(one, "a") as a:
            epoch = position(await subscribe(a, "chat:1")).epoch
            forged: dict[str, Any] = {"channel": "chat:1", "message": 0, "epoch": epoch, "offset": 1000}
            repair = one.replica.channels.joining._repair
            log, reads = repair._log, 0

            async def count(*arguments: Any) -> Any:
                nonlocal reads
                reads += 1
                return await log.read(*arguments)

            repair._log = Like(log, read=count)
            one.replica.manager.handle_pubsub_message(
                Envelope(**{**forged, "message": json.dumps("forged").encode()})
            )
            await asyncio.sleep(0.2)
            assert 1 <= reads <= 2
            await publish(one, "chat:1", "real")
            assert await a.messages(1) == ["real"]
            await a.nothing_more()


class TestFollowing:
    async def test_a_channel_is_left_some_time_after_its_last_subscriber(
        self, own_redis: RedisServer, start_replica: StartReplica, namespace: str
    ) -> None:
        """Fails if the replica listens to what nobody here wants, or leaves at once, or does not come back."""
        one = await start_replica(redis_url=own_redis.url, channels={"heartbeat_s": 0.1, "linger_s": 0.5})

        def followed() -> bool:
            return bool(own_redis.command("PUBSUB", "CHANNELS", f"{namespace}:events:chat:1"))

        for n in range(2):
            async with arrive(one, "a") as a:
                assert not followed()
                await subscribe(a, "chat:1")
                assert followed()
                await publish(one, "chat:1", n)
                assert await a.messages(1) == [n]
            await asyncio.sleep(0.2)
            assert followed(), "people come back"
            await eventually(lambda: not followed(), within_s=3)

    async def test_a_client_that_is_dropped_is_followed_no_more(
        self, own_redis: RedisServer, start_replica: StartReplica, namespace: str
    ) -> None:
        """Fails if a slow client that was closed leaves its channels behind."""
        one = await start_replica(redis_url=own_redis.url, channels=QUICK, limits={"outbox_bytes": 65_536})
        async with RawSocket(one.url, "/ws?user=slow", receive_buffer=4096) as raw:
            await raw.next("connected")
            await raw.say({"type": "subscribe", "channel": "chat:1"})
            await raw.next("subscribed")
            while one.replica.hub.connections:
                await publish(one, "chat:1", "x" * 30_000)
            await eventually(
                lambda: not own_redis.command("PUBSUB", "CHANNELS", f"{namespace}:events:chat:1"), within_s=3
            )
            assert one.replica.channels.following._followed == {}

    @pytest.mark.alone
    async def test_ten_thousand_channels_are_one_connection_and_no_task(
        self, own_redis: RedisServer, namespace: str
    ) -> None:
        """Fails if a channel costs a connection or a task."""
        async with Members(own_redis.url, namespace) as members:
            one = await members.start()
            device = await one.connect("a")
            tasks = len(asyncio.all_tasks())
            for begin in range(0, 10_000, 500):
                await asyncio.gather(
                    *(
                        one.replica.reading.subscribe(device.connection, f"chat:{n}")
                        for n in range(begin, begin + 500)
                    )
                )
            assert len(asyncio.all_tasks()) < tasks + 10, "others may run for a moment"
            assert len(own_redis.command("CLIENT", "LIST", "TYPE", "pubsub").splitlines()) == 1
            assert one.replica.hub.channels == 10_000
            for n in (0, 4_999, 9_999):
                await one.replica.manager.publish(f"chat:{n}", n)
            await eventually(lambda: sorted(device.got) == [0, 4_999, 9_999], within_s=60)
            kill_bus_connections(own_redis)
            for n in (1, 9_998):
                await one.replica.manager.publish(f"chat:{n}", n)
            await eventually(lambda: sorted(device.got) == [0, 1, 4_999, 9_998, 9_999], within_s=60)
            one.disconnect(device)
