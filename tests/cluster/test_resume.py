"""Coming back while Redis fails: what a client asks to resume is kept until it succeeds, on every transport."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from heliograph.cluster.channels import Channels
from heliograph.codecs.plain.cursor import parse_cursor
from heliograph.errors import BusUnavailable
from heliograph.ports import ReadRequest, ReadResult
from tests.cluster.test_channels import LONG, QUICK, arrive, drop_what_comes, publish, subscribe
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.event_source import EventSource
from tests.support.like import Like
from tests.support.poller import Poller
from tests.support.raw_socket import RawSocket
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

FIVE = ["m1", "m2", "m3", "m4", "m5"]


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that loses nothing when it is restarted."""
    server = RedisServer(tmp_path, appendonly=True).start()
    yield server
    server.stop()


@contextlib.asynccontextmanager
async def hanging(redis: RedisServer) -> AsyncIterator[None]:
    """Redis answers nothing until the block ends."""
    redis.freeze()
    try:
        yield
    finally:
        redis.thaw()


async def away(replica: RunningReplica) -> str:
    """Bob reads one message of his own and one of chat:1, leaves, and misses five of each; returns his cursor."""
    async with arrive(replica, "bob") as bob:
        await subscribe(bob, "chat:1")
        await publish(replica, "#bob", "m0")
        own = (await bob.next("message"))["cursor"]
        await publish(replica, "chat:1", "m0")
        chat = (await bob.next("message"))["cursor"]
    await eventually(lambda: replica.replica.hub.count("bob") == 0)
    for channel in ("#bob", "chat:1"):
        await publish(replica, channel, *FIVE)
    return f"{own}&{chat}"


async def resumes(client: Client | EventSource, replica: RunningReplica) -> None:
    """Both channels are recovered, with what was missed, then what comes, each once and in order."""
    for channel in ("#bob", "chat:1"):
        assert (await client.next("subscribed", channel=channel, within_s=10))["recovered"] is True
        got = [(await client.next("message", channel=channel))["data"] for _ in FIVE]
        assert got == FIVE
    await eventually(lambda: replica.replica.node.ready, within_s=10)
    for channel in ("#bob", "chat:1"):
        await publish(replica, channel, "m6")
        assert (await client.next("message", channel=channel))["data"] == "m6"


def channels_of(replica: RunningReplica) -> Channels:
    return replica.replica.channels


class TestRedisHangsJustAsAUserComesBack:
    @pytest.fixture
    async def one(self, own_redis: RedisServer, start_replica: StartReplica, short_timeout: None) -> RunningReplica:
        return await start_replica(redis_url=own_redis.url, channels=QUICK, namespaces=LONG)

    async def test_a_socket(self, own_redis: RedisServer, one: RunningReplica) -> None:
        """Fails if the user listens at the live position instead, or is told of a loss although nothing is lost."""
        cursor = await away(one)
        async with hanging(own_redis), contextlib.AsyncExitStack() as stack:
            bob = await stack.enter_async_context(arrive(one, "bob", cursor=cursor))
            assert parse_cursor(bob.connected["cursor"]) == parse_cursor(cursor)
            for channel in ("#bob", "chat:1"):
                error = await bob.next("error")
                assert (error["code"], channel in error["message"]) == ("unavailable", True)
            assert await bob.only("subscribed") == []
            kept = stack.pop_all()
        async with kept:
            await resumes(bob, one)
            await bob.nothing_more()

    async def test_a_stream(self, own_redis: RedisServer, one: RunningReplica) -> None:
        """Fails if server-sent events lose what a socket does not."""
        cursor = await away(one)
        async with hanging(own_redis), contextlib.AsyncExitStack() as stack:
            events = EventSource(one.url, user="bob", channels="chat:1", last_event_id=cursor)
            bob = await stack.enter_async_context(events)
            for _ in range(2):
                assert (await bob.next("error"))["code"] == "unavailable"
            kept = stack.pop_all()
        async with kept:
            await resumes(bob, one)

    async def test_a_poll(self, own_redis: RedisServer, one: RunningReplica) -> None:
        """Fails if a poll is answered without what was missed: its cursor would say that it was told."""
        cursor = await away(one)
        async with Poller(one.url, user="bob", channels="chat:1", cursor=cursor) as bob:
            async with hanging(own_redis):
                assert (await bob.ask()).status_code == 503
            await eventually(lambda: one.replica.node.ready, within_s=10)
            got: dict[str, list[str]] = {"#bob": [], "chat:1": []}
            while sum(map(len, got.values())) < 10:
                for event in await bob.poll():
                    assert event["type"] == "message"
                    got[event["channel"]].append(event["data"])
            assert got == {"#bob": FIVE, "chat:1": FIVE}

    async def test_who_drains_says_where_the_client_stands(self, own_redis: RedisServer, one: RunningReplica) -> None:
        """Fails if `reconnect` names the live position, or leaves out the channels that wait: they would be lost."""
        cursor = await away(one)
        async with hanging(own_redis), arrive(one, "bob", cursor=cursor) as bob:
            await bob.next("error")
            await bob.next("error")
            draining = asyncio.create_task(one.replica.node.drain())
            told = await bob.next("reconnect", within_s=10)
            assert parse_cursor(told["cursor"]) == parse_cursor(cursor)
            await bob.socket.close()
            await draining

    async def test_who_leaves_meanwhile_is_forgotten(self, own_redis: RedisServer, one: RunningReplica) -> None:
        """Fails if a client that is gone is subscribed when Redis is back, or one is that has left the channel."""
        cursor = await away(one)
        async with hanging(own_redis), contextlib.AsyncExitStack() as stack:
            bob = await stack.enter_async_context(arrive(one, "bob", cursor=cursor))
            await bob.next("error")
            await bob.next("error")
            assert len(channels_of(one).joining._retries) == 2
            await bob.say({"type": "subscribe", "channel": "chat:1", "id": 1})
            assert (await bob.next("error", id=1))["code"] == "bad_request"  # it will be
            await bob.say({"type": "unsubscribe", "channel": "chat:1", "id": 2})
            await bob.next("unsubscribed", id=2)
            await eventually(lambda: len(channels_of(one).joining._retries) == 1, within_s=1)
            kept = stack.pop_all()
        async with kept:
            await bob.next("subscribed", channel="#bob", within_s=10)
            assert await bob.messages(5) == FIVE
            await publish(one, "chat:1", "unheard")
            await bob.nothing_more()
            assert await bob.only("subscribed", "unsubscribed") == []
        async with hanging(own_redis):
            async with arrive(one, "bob", cursor=cursor) as bob:
                await bob.next("error")
                await bob.next("error")
            await eventually(lambda: not channels_of(one).joining._retries, within_s=2)
            assert channels_of(one).joining._pending == {}
        await eventually(lambda: channels_of(one).following._followed == {}, within_s=10)
        assert one.replica.hub.subscriptions == 0

    async def test_who_is_taken_off_meanwhile_is_told(self, own_redis: RedisServer, one: RunningReplica) -> None:
        """Fails if the server takes a client off a channel that waits, and nobody says so, or it comes on later."""
        cursor = await away(one)
        async with hanging(own_redis), contextlib.AsyncExitStack() as stack:
            bob = await stack.enter_async_context(arrive(one, "bob", cursor=cursor))
            await bob.next("error")
            await bob.next("error")
            with contextlib.suppress(BusUnavailable):
                await one.replica.user_commands.unsubscribe_user("bob", "chat:1")
            await bob.next("unsubscribed", channel="chat:1", within_s=3)
            kept = stack.pop_all()
        async with kept:
            await bob.next("subscribed", channel="#bob", within_s=10)
            await publish(one, "chat:1", "unheard")
            assert await bob.messages(5) == FIVE
            await bob.nothing_more()
            assert await bob.only("subscribed", "unsubscribed") == []

    async def test_who_comes_for_the_first_time_misses_nothing_from_then_on(
        self, own_redis: RedisServer, start_replica: StartReplica, short_timeout: None
    ) -> None:
        """Fails if what is sent after `connected` is passed over, as nobody could say where the channel stands."""
        options: dict[str, Any] = {"redis_url": own_redis.url, "bus": {"canary_timeout_s": 30}}
        here, there = [await start_replica(f"replica-{n}", **options) for n in (1, 2)]
        async with hanging(own_redis), contextlib.AsyncExitStack() as stack:
            ann = await stack.enter_async_context(arrive(here, "ann"))
            assert ann.connected["cursor"] == ""
            kept = stack.pop_all()
        async with kept:

            async def is_published() -> bool:
                with contextlib.suppress(BusUnavailable):
                    await there.replica.manager.publish("#ann", "first", idempotency_key="k")
                    return True
                return False

            await eventually(is_published, within_s=10)
            assert await ann.messages(1) == ["first"]
            assert (await ann.next("subscribed", channel="#ann"))["recovered"] is False
            await there.replica.manager.publish("#ann", "second")
            assert await ann.messages(1) == ["second"]
            await ann.nothing_more()


class TestRedisIsDownJustAsAUserComesBack:
    @pytest.mark.parametrize("transport", ["socket", "stream"])
    async def test_nothing_is_lost_nor_said_to_be(
        self, durable_redis: RedisServer, start_replica: StartReplica, transport: str
    ) -> None:
        """Fails if a client is told `recovered: false` although the log has all that it missed."""
        one = await start_replica(redis_url=durable_redis.url, channels=QUICK, namespaces=LONG)
        cursor = await away(one)
        durable_redis.stop()
        arrival: Any = arrive(one, "bob", cursor=cursor)
        if transport == "stream":
            arrival = EventSource(one.url, user="bob", channels="chat:1", last_event_id=cursor)
        async with arrival as bob:
            assert (await bob.next("error"))["code"] == "unavailable"
            await asyncio.to_thread(durable_redis.start)
            await resumes(bob, one)


class FailingLog:
    """`read` of a log, which fails while it is told to."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.pages = -1  # so many more are read (-1: any number)

    async def read(self, requests: list[ReadRequest]) -> list[ReadResult]:
        if self.pages == 0:
            raise BusUnavailable("no more for now")
        self.pages -= self.pages > 0
        return list(await self._log.read(requests))


class TestTheLogFailsInTheMiddle:
    @pytest.mark.parametrize("pages", [1, 2, 3])
    async def test_of_catching_up(self, start_replica: StartReplica, pages: int) -> None:
        """Fails if a client that was told `subscribed` is told an error then, or stands still, or misses the rest."""
        one = await start_replica(channels={"heartbeat_s": 0.1, "page": 20}, namespaces=LONG)
        async with arrive(one, "bob") as bob:
            cursor = (await subscribe(bob, "chat:1"))["cursor"]
        await publish(one, "chat:1", *range(90))
        channels = channels_of(one)
        log = channels._reads._log
        failing = FailingLog(log)
        channels._reads._log = Like(log, read=failing.read)
        async with arrive(one, "bob") as bob:
            failing.pages = pages
            assert (await subscribe(bob, "chat:1", cursor=cursor))["recovered"] is True
            assert await bob.messages(20 * pages) == list(range(20 * pages))
            await bob.nothing_more()  # and other frames are answered
            await publish(one, "chat:1", 90)
            failing.pages = -1
            assert await bob.messages(91 - 20 * pages) == list(range(20 * pages, 91))
            await bob.nothing_more()
            assert await bob.only("subscribed", "error") == []

    async def test_of_subscribing(self, start_replica: StartReplica) -> None:
        """Fails if an error is the answer and the client is put on the channel all the same, at another place."""
        one = await start_replica(channels=QUICK, namespaces=LONG)
        async with arrive(one, "bob") as bob:
            cursor = (await subscribe(bob, "chat:1"))["cursor"]
        await publish(one, "chat:1", *FIVE)
        channels = channels_of(one)
        log = channels._reads._log
        failing = FailingLog(log)
        channels._reads._log = Like(log, read=failing.read)
        async with arrive(one, "bob") as bob:
            failing.pages = 0
            refused = await subscribe(bob, "chat:1", cursor=cursor)
            assert (refused["type"], refused["code"]) == ("error", "unavailable")
            failing.pages = -1
            await publish(one, "chat:1", "m6")
            await asyncio.sleep(0.3)  # some heartbeats
            await bob.nothing_more()
            assert (await subscribe(bob, "chat:1", cursor=cursor))["recovered"] is True
            assert await bob.messages(6) == [*FIVE, "m6"]


class TestALargeRepair:
    PUBLICATIONS, BYTES = 500, 8000  # four times what may wait for a client

    async def test_readers_are_not_slow_because_much_was_missing(self, start_replica: StartReplica) -> None:
        """Fails if a repair hands out what it has read at once: whoever reads is closed with 3008."""
        one = await start_replica(channels=QUICK, namespaces=LONG)
        async with contextlib.AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(arrive(one, f"u{n}")) for n in range(12)]
            for reader in readers:
                await subscribe(reader, "chat:1")
            # One of them does not read, and holds nobody up.
            stalled = await stack.enter_async_context(RawSocket(one.url, "/ws?user=stalled", receive_buffer=4096))
            await stalled.next("connected")
            await stalled.say({"type": "subscribe", "channel": "chat:1"})
            await stalled.next("subscribed")
            await self._lose(one)
            await publish(one, "chat:1", "live")
            began_at = time.monotonic()
            for reader in readers:
                for number in range(self.PUBLICATIONS):
                    assert (await reader.next("message"))["data"][0] == number
                assert await reader.messages(1) == ["live"]
                await reader.nothing_more()
            assert time.monotonic() - began_at < 5
            assert max(each.outbox._bytes for each in one.replica.hub) < 200_000
            await publish(one, "chat:1", "later")
            for reader in readers:
                assert await reader.messages(1) == ["later"]
            for number in range(self.PUBLICATIONS):
                assert (await stalled.next("message"))["data"][0] == number
            for data in ("live", "later"):
                assert (await stalled.next("message"))["data"] == data
            assert one.replica.telemetry.slow_closes == 0

    async def _lose(self, one: RunningReplica) -> None:
        mend = drop_what_comes(one)
        for begin in range(0, self.PUBLICATIONS, 50):
            numbers = range(begin, begin + 50)
            await asyncio.gather(*(publish(one, "chat:1", [n, "x" * self.BYTES]) for n in numbers))
        await asyncio.sleep(0.1)
        mend()

    async def test_who_was_set_aside_leaves_as_everybody_else(self, start_replica: StartReplica) -> None:
        """Fails if a client that fell behind in a repair stays on the channel's list, or in its presence."""
        chat = {"chat": {"history_size": 100_000, "presence": True}}
        one = await start_replica(channels=QUICK, namespaces=chat, presence={"grace_s": 0})
        async with RawSocket(one.url, "/ws?user=stalled", receive_buffer=4096) as stalled:
            await stalled.next("connected")
            await stalled.say({"type": "subscribe", "channel": "chat:1"})
            await stalled.next("subscribed")
            await self._lose(one)
            await eventually(lambda: channels_of(one).joining._pending)
            assert not one.replica.hub.subscribers("chat:1")
            assert (await one.replica.reading.presence("chat:1")).users == {"stalled": 1}
            [connection] = one.replica.hub
            at = channels_of(one).joining.positions_of(connection)["chat:1"].offset
            assert 0 < at < self.PUBLICATIONS
            stalled.abort()

            async def is_gone() -> bool:
                return (await one.replica.reading.presence("chat:1")).users == {}

            await eventually(is_gone)
        assert channels_of(one).joining._pending == {}
        await eventually(lambda: not channels_of(one).joining._retries)
