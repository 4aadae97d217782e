"""The promises of `Log`, kept by every backend; then those that only Redis can break: restarts, memory, scripts."""

import asyncio
import dataclasses
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from heliograph.backends.memory.log import MemoryLog
from heliograph.backends.redis import server as redis_backend
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.log import RedisLog
from heliograph.backends.redis.opening import open_server
from heliograph.errors import BusUnavailable, OverBudget
from heliograph.ports import (
    CLIENT_META_TTL_S,
    IDEMPOTENCY_TTL_S,
    META_TTL_S,
    PAGE_BYTES,
    READ_TTL_S,
    AppendResult,
    Draft,
    Log,
    ReadRequest,
    ReadResult,
)
from heliograph.protocol.budget import WINDOW_S, Budget, Charge
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.events import Delivery
from heliograph.protocol.position import Position
from heliograph.protocol.run import TAIL_SIZE, RunState, RunUpdate
from tests.support.appending import append
from tests.support.redis_server import RedisServer
from tests.support.settling import believe_at_once
from tests.support.waiting import eventually

OPTIONS = Namespace()
LONG = Namespace(history_size=1000)
RUN = Namespace(run=True, history_size=1000, history_ttl_s=1000, final_ttl_s=50)
EPOCHS_KNOWN = 9  # that are over: `before` and `past` in lua/_epoch.lua
CHANNELS = [
    "chat:1",
    "run:20251105_1430_우주여행고양이",
    "{braces}",
    "a}b{c",
    "#bob",
    "#مريم 🚀",
    "a b\"'\\",
    "*?[x]",
]


@dataclass
class ManualClock:
    """A clock that goes when it is told to."""

    seconds: float = 1000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Bench:
    """A log, and a way to let time pass."""

    log: Log
    wait: Callable[[float], Awaitable[None]]

    async def append(
        self, channel: str, data: Any = None, options: Namespace = OPTIONS, lease: str = "", **fields: Any
    ) -> AppendResult:
        return await append(self.log, draft(channel, data, **fields), options, lease)

    async def read(self, channel: str, **fields: Any) -> ReadResult:
        [opened] = await self.log.read([ReadRequest(channel, **fields)])
        return opened

    async def kept(self, channel: str) -> list[Any]:
        return data_of(await self.read(channel, replay=True, limit=100_000))


def draft(channel: str, data: Any = None, **fields: Any) -> Draft:
    return Draft(
        channel,
        msgspec.Raw(msgspec.json.encode(data)),
        message_id=fields.pop("message_id", uuid.uuid4().hex),
        sent_at="2026-01-01T00:00:00Z",
        **fields,
    )


def moved(position: Position, offset: int) -> Position:
    """Another place in the same log."""
    return Position(position.epoch, offset)


async def epoch_of(bench: Bench, channel: str = "c") -> str:
    return (await bench.read(channel)).position.epoch


def data_of(opened: ReadResult) -> list[Any]:
    return [json.loads(bytes(each.data)) for each in opened.publications]


def offsets_of(opened: ReadResult) -> list[int]:
    return [each.position.offset for each in opened.publications if each.position is not None]


@pytest.fixture(params=["memory", "redis", "cluster"])
async def bench(request: pytest.FixtureRequest, redis_server: RedisServer, namespace: str) -> AsyncIterator[Bench]:
    if request.param == "memory":
        clock = ManualClock()

        async def pass_time(seconds: float) -> None:
            clock.seconds += seconds

        yield Bench(MemoryLog(clock), pass_time)
        return
    if request.param == "cluster":
        shard = open_server(
            request.getfixturevalue("redis_cluster").url, Keys(f"{namespace}:", f"{namespace}:events")
        )
        yield Bench(RedisLog(shard), lambda s: asyncio.sleep(s))
        await shard.close()
        return
    async with RedisBench(redis_server, namespace) as real:
        yield real


class RedisBench(Bench):
    """A log in Redis; time passes by itself, so tests use short ones."""

    def __init__(self, server: RedisServer, namespace: str) -> None:
        self.server = server
        self.keys = Keys(f"{namespace}:", f"{namespace}:events")
        self.channel = self.keys.bus_channel
        self.client = connect(server.url)
        super().__init__(RedisLog(self.asked_by("")), lambda s: asyncio.sleep(s))

    def asked_by(self, node_id: str) -> redis_backend.RedisServer:
        """The server, as one more replica has it."""
        return redis_backend.RedisServer(self.client, self.keys, node_id=node_id)

    async def __aenter__(self) -> "RedisBench":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def epoch(self, channel: str = "c") -> str:
        return (await self.read(channel)).position.epoch


@pytest.fixture
async def own(own_redis: RedisServer, namespace: str) -> AsyncIterator[RedisBench]:
    """A log in a Redis of this test's own (appendonly no)."""
    async with RedisBench(own_redis, namespace) as bench:
        yield bench


class TestOrder:
    async def test_offsets_count_from_one_and_each_channel_for_itself(self, bench: Bench) -> None:
        """Fails if an offset is left out or given twice, or channels share a count."""
        for n in (1, 2, 3):
            assert (await bench.append("c", n)).position.offset == n
        first = await bench.append("d", "other")
        assert first.position.offset == 1
        opened = await bench.read("c", replay=True)
        assert (offsets_of(opened), data_of(opened)) == ([1, 2, 3], [1, 2, 3])
        assert opened.position == moved((await bench.append("c", 4)).position, 3)

    async def test_any_number_of_publishers_share_one_order(self, bench: Bench) -> None:
        """Fails if two publications at the same time get one place."""
        appended = await asyncio.gather(*(bench.append("c", n) for n in range(40)))
        assert sorted(each.position.offset for each in appended) == list(range(1, 41))
        by_offset = {each.position.offset: n for n, each in enumerate(appended)}
        assert await bench.kept("c") == [by_offset[offset] for offset in range(1, 41)]

    async def test_what_is_read_is_what_was_written(self, bench: Bench) -> None:
        """Fails if a field of a publication does not survive the log."""
        data = {"text": "안녕 👩‍👩‍👧‍👦 \u2028 \x00", "n": [1.5, None, True, 12345678901234567890]}
        author = ClientInfo("c1", "مريم", msgspec.Raw(b'{"n":1}'))
        fields: dict[str, Any] = {
            "message_id": "m1",
            "sender": "مريم",
            "origin": "replica-1",
            "node_id": "n",
            "author": author,
        }
        await bench.append("c", data, **fields)
        [publication] = (await bench.read("c", replay=True)).publications
        assert json.loads(bytes(publication.data)) == data
        assert (publication.channel, publication.message_id, publication.sender) == ("c", "m1", "مريم")
        assert (publication.origin, publication.sent_at) == ("replica-1", "2026-01-01T00:00:00Z")
        assert publication.author == author

    @pytest.mark.parametrize("channel", CHANNELS)
    async def test_a_channel_may_be_called_anything(self, bench: Bench, channel: str) -> None:
        """Fails if a name is changed on its way, or meets the keys of another."""
        await bench.append(channel, "mine")
        await bench.append(f"{channel}:meta", "other")
        [publication] = (await bench.read(channel, replay=True)).publications
        assert publication.channel == channel
        assert json.loads(bytes(publication.data)) == "mine"
        assert await bench.log.tops([channel]) == [publication.position]


class TestReading:
    async def test_after_a_position(self, bench: Bench) -> None:
        """Fails if what stands at the position is read again, or what follows is left out."""
        for n in range(1, 8):
            await bench.append("c", n)
        epoch = (await bench.read("c")).position.epoch
        opened = await bench.read("c", after=Position(epoch, 3))
        assert (opened.complete, offsets_of(opened), opened.position.offset) == (True, [4, 5, 6, 7], 7)
        page = await bench.read("c", after=Position(epoch, 3), limit=2)
        assert (page.complete, offsets_of(page), page.position.offset) == (True, [4, 5], 7)
        at_the_end = await bench.read("c", after=Position(epoch, 7))
        assert (at_the_end.complete, offsets_of(at_the_end)) == (True, [])

    async def test_a_page_has_its_bytes_and_the_next_follows(self, bench: Bench) -> None:
        """Fails if large publications make a page grow without end, or what did not fit is left out or is lost."""
        block = "x" * 40_000
        for n in range(12):
            client = "bob" if n % 3 == 0 else None
            await bench.append("c", [n, block], client=client)
        after, found, pages = Position(await epoch_of(bench), 0), [], 0
        while after.offset < 12:
            page = await bench.read("c", after=after)
            assert page.complete
            assert 0 < sum(len(each.data) for each in page.publications) <= PAGE_BYTES
            found += offsets_of(page)
            after, pages = moved(after, found[-1]), pages + 1
        assert (found, pages) == (list(range(1, 13)), 4)
        assert offsets_of(await bench.read("c", replay=True)) == [1, 2, 3]

    async def test_one_publication_larger_than_a_page_is_read_alone(self, bench: Bench) -> None:
        """Fails if what does not fit stands in the way of everything after it."""
        for n, size in enumerate((2 * PAGE_BYTES, 10)):
            await bench.append("c", [n, "x" * size])
        epoch = await epoch_of(bench)
        assert offsets_of(await bench.read("c", after=Position(epoch, 0))) == [1]
        assert offsets_of(await bench.read("c", after=Position(epoch, 1))) == [2]

    async def test_small_ones_fill_a_page_to_its_limit(self, bench: Bench) -> None:
        """Fails if reading in chunks leaves one out, repeats one, or ends too early."""
        for n in range(300):
            await bench.append("c", n, LONG)
        epoch = await epoch_of(bench)
        assert offsets_of(await bench.read("c", after=Position(epoch, 3), limit=250)) == list(range(4, 254))
        assert offsets_of(await bench.read("c", replay=True, limit=1000)) == list(range(1, 301))

    async def test_nothing_everything_and_a_limit(self, bench: Bench) -> None:
        """Fails if an opening reads what it was not asked to."""
        for n in range(1, 6):
            await bench.append("c", n)
        assert offsets_of(await bench.read("c")) == []
        assert offsets_of(await bench.read("c", replay=True)) == [1, 2, 3, 4, 5]
        assert offsets_of(await bench.read("c", replay=True, limit=2)) == [1, 2]

    async def test_a_position_of_another_log_or_ahead_of_this_one_is_not_complete(self, bench: Bench) -> None:
        """Fails if a client whose cursor says nothing here is told that nothing is missing."""
        position = (await bench.append("c", 1)).position
        assert not (await bench.read("c", after=Position("other", 1))).complete
        assert not (await bench.read("c", after=moved(position, 2))).complete
        assert not (await bench.read("c", after=moved(position, 10**300))).complete

    async def test_after_a_position_of_another_log_all_of_this_one_is_read(self, bench: Bench) -> None:
        """Fails if what is kept is withheld from a reader that cannot have seen it."""
        elsewhere = Position("other", 10**300)
        assert (await bench.read("c", after=elsewhere)).start.offset == 0
        for n in range(1, 6):
            await bench.append("c", n)
        opened = await bench.read("c", after=elsewhere, limit=3)
        assert (opened.complete, offsets_of(opened), opened.start.offset) == (False, [1, 2, 3], 0)
        assert (await bench.read("c", after=moved(opened.position, 3))).complete

    async def test_a_position_before_what_is_kept_is_not_complete(self, bench: Bench) -> None:
        """Fails if a gap between a cursor and the oldest kept publication is not reported."""
        small = replace_options(history_size=1)
        for n in range(1, 400):
            await bench.append("c", n, options=small)
        opened = await bench.read("c", replay=True, limit=1000)
        oldest = offsets_of(opened)[0]
        assert oldest > 1
        before = moved(opened.position, oldest - 1)
        assert (await bench.read("c", after=before)).complete
        trimmed = await bench.read("c", after=moved(before, oldest - 2), limit=1000)
        assert not trimmed.complete
        assert (offsets_of(trimmed), trimmed.start) == (offsets_of(opened), before), (
            "what is kept is read all the same"
        )

    async def test_an_empty_channel_has_an_epoch_from_the_first_look_on(self, bench: Bench) -> None:
        """Fails if who subscribes first stands in another epoch than what is published then."""
        opened = await bench.read("c")
        assert opened.position.offset == 0
        assert (await bench.append("c", 1)).position == moved(opened.position, 1)
        assert (await bench.read("c", after=opened.position)).complete

    async def test_many_at_once(self, bench: Bench) -> None:
        """Fails if the answers of one round trip are mixed up."""
        for n in range(1, 6):
            for _ in range(n):
                await bench.append(f"c{n}", n)
        opened = await bench.log.read([ReadRequest(f"c{n}", replay=True) for n in range(1, 6)])
        assert [data_of(each) for each in opened] == [[n] * n for n in range(1, 6)]
        tops = await bench.log.tops(["c5", "unknown", "c1"])
        assert [None if top is None else top.offset for top in tops] == [5, None, 1]
        assert await bench.log.read([]) == []
        assert await bench.log.tops([]) == []

    async def test_positions_of_many_among_pages(self, bench: Bench) -> None:
        """Fails if positions that are read without publications come to other channels, or end in the middle."""
        for n in (1, 2, 3):
            for _ in range(n):
                await bench.append(f"c{n}", n)
        bare = [ReadRequest(f"new{n}") for n in range(140)]
        opened = await bench.log.read([ReadRequest("c2"), ReadRequest("c3", replay=True), *bare, ReadRequest("c1")])
        assert [each.position.offset for each in opened] == [2, 3, *[0] * len(bare), 1]
        assert [len(each.publications) for each in opened] == [0, 3, *[0] * len(bare), 0]
        assert all(each.complete for each in opened)
        for before, request in zip(opened[2:-1], bare, strict=True):
            assert before.position == (await bench.read(request.channel)).position

    async def test_tops_touch_nothing(self, bench: Bench) -> None:
        """Fails if looking at a channel makes one."""
        await bench.log.tops(["c"])
        assert await bench.log.tops(["c"]) == [None]


class TestKeeping:
    async def test_at_least_the_history_size_is_kept(self, bench: Bench) -> None:
        """Fails if the newest are trimmed, or the log grows without end."""
        options = replace_options(history_size=50)
        for n in range(1, 501):
            await bench.append("c", n, options=options)
        kept = await bench.kept("c")
        assert kept[-50:] == list(range(451, 501))
        assert len(kept) <= 50 + 100  # Redis trims whole nodes of 100

    async def test_clients_displace_nothing_that_a_server_has_published(self, bench: Bench) -> None:
        """Fails if a client's flood costs a user what servers have kept, or is kept without end itself."""
        options = replace_options(history_size=50)
        for n in range(5):
            await bench.append("#bob", f"invoice {n}", options=options)
        start = (await bench.read("#bob")).position
        for n in range(400):
            await bench.append("#bob", n, options=options, client="mallory")
        await bench.append("#bob", "invoice 5", options=options)
        kept = await bench.kept("#bob")
        assert kept[:5] == [f"invoice {n}" for n in range(5)]
        assert kept[-51:] == [*range(350, 400), "invoice 5"]
        assert len(kept) <= 6 + 50 + 100  # Redis trims whole nodes of 100
        for after, limit in ((0, 500), (2, 500), (5, 500), (0, 6), (4, 3)):
            opened = await bench.read("#bob", after=moved(start, after), limit=limit)
            assert not opened.complete, "a gap is said, wherever in the page it is"
            assert data_of(opened) == kept[after:][:limit], "and the rest is read"
        before_it = await bench.read("#bob", after=moved(start, 1), limit=3)
        assert (before_it.complete, offsets_of(before_it)) == (True, [2, 3, 4])
        behind_it = await bench.read("#bob", after=moved(start, start.offset + 400 - 50))
        assert (behind_it.complete, data_of(behind_it)) == (True, kept[-51:])

    async def test_servers_displace_nothing_that_clients_have_sent(self, bench: Bench) -> None:
        """Fails if the two share one history after all."""
        options = replace_options(history_size=1)
        await bench.append("c", "client's", options=options, client="alice")
        for n in range(300):
            await bench.append("c", n, options=options)
        kept = await bench.kept("c")
        assert (kept[0], kept[-1], len(kept) < 200) == ("client's", 299, True)

    async def test_what_a_client_has_sent_is_gone_in_time(self, bench: Bench) -> None:
        """Fails if the one stream gets no end of its own because the other was written to in the same second."""
        options = replace_options(history_ttl_s=0.2)
        for client in (None, "alice", None):
            await bench.append("c", "x", options=options, client=client)
        await bench.wait(0.4)
        assert await bench.kept("c") == []

    async def test_what_has_outlived_its_time_is_gone_and_offsets_go_on(self, bench: Bench) -> None:
        """Fails if the history stays for ever, or its end gives an offset twice."""
        options = replace_options(history_ttl_s=0.2)
        old = await bench.append("c", "old", options=options)
        await bench.wait(0.1)
        await bench.append("c", "newer", options=options)
        await bench.wait(0.15)
        assert await bench.kept("c") == ["old", "newer"], "each publication begins the time anew"
        await bench.wait(0.3)
        assert await bench.kept("c") == []
        assert (await bench.append("c", "new", options=options)).position == moved(old.position, 3)
        assert not (await bench.read("c", after=old.position)).complete


class TestRemoving:
    async def test_nothing_is_kept_and_offsets_go_on(self, bench: Bench) -> None:
        """Fails if a publication or a run's state stays, or an offset is given twice."""
        first = await bench.append("c", 1)
        await bench.append("c", 2, client="alice")
        await bench.append("run:1", options=RUN, update=RunUpdate("RUNNING", 5, "line"))
        for channel in ("c", "run:1", "unknown"):
            await bench.log.remove(channel)
        assert await bench.kept("c") == await bench.kept("run:1") == []
        assert (await bench.read("run:1", with_state=True)).state is None
        assert (await bench.append("c", 3)).position == moved(first.position, 3)
        assert not (await bench.read("c", after=first.position)).complete
        end = await bench.read("c", after=moved(first.position, 2))
        assert (end.complete, data_of(end)) == (True, [3])

    async def test_the_next_publication_has_its_time_to_live(self, redis_server: RedisServer, namespace: str) -> None:
        """Fails if what is published in the second of the removal is kept for ever."""
        async with RedisBench(redis_server, namespace) as bench:
            for _ in range(3):
                await bench.append("c", 1)
                await bench.log.remove("c")
            await bench.append("c", 2)
            assert await bench.client.pttl(bench.keys.stream("c")) > 0


class TestIdempotency:
    async def test_a_repetition_is_answered_the_same_and_kept_once(self, bench: Bench) -> None:
        """Fails if a retry doubles a publication, or its publisher learns of another place."""
        first = await bench.append("c", "one", idempotency_key="k", message_id="m1")
        again = await bench.append("c", "two", idempotency_key="k", message_id="m2")
        assert msgspec.structs.replace(again, data=first.data) == first
        assert again.message_id == "m1"
        assert await bench.kept("c") == ["one"]

    async def test_repetitions_at_the_same_time(self, bench: Bench) -> None:
        """Fails if two tries that race are both kept."""
        appended = await asyncio.gather(*(bench.append("c", 1, idempotency_key="k") for _ in range(10)))
        assert len({each.position for each in appended}) == 1
        assert await bench.kept("c") == [1]

    async def test_another_key_or_channel_is_another_publication(self, bench: Bench) -> None:
        """Fails if keys of one channel count for another, or all keys for one."""
        for channel, key in (("c", "k"), ("c", "l"), ("d", "k"), ("c", None), ("c", None), ("c", "키 {x}")):
            await bench.append(channel, key, idempotency_key=key)
        assert await bench.kept("c") == ["k", "l", None, None, "키 {x}"]
        assert await bench.kept("d") == ["k"]

    async def test_each_owner_has_keys_of_its_own(self, bench: Bench) -> None:
        """Fails if a client's key counts for another user's or a server's, whatever the names are made of."""
        for key, owner in (("k", "alice"), ("k", "bob"), ("k", None), ("b:k", "a"), ("k", "a:b"), ("k", "alice")):
            await bench.append("c", [key, owner], idempotency_key=key, client=owner)
        assert await bench.kept("c") == [["k", "alice"], ["k", "bob"], ["k", None], ["b:k", "a"], ["k", "a:b"]]

    async def test_memory_forgets_keys(self) -> None:
        """Fails if a key is remembered for ever, or not for as long as promised."""
        clock = ManualClock()
        log = MemoryLog(clock)

        async def offset() -> int:
            appended = await append(log, draft("c", 1, idempotency_key="k"), replace_options(history_ttl_s=1e6), "")
            return appended.position.offset

        assert await offset() == 1
        clock.seconds += IDEMPOTENCY_TTL_S - 1
        assert await offset() == 1
        clock.seconds += 2
        await append(log, draft("c", 1, idempotency_key="another"), replace_options(history_ttl_s=1e6), "")
        assert list(log._channels["c"].answers) == [("another", None)], "what ran out takes no memory"
        assert await offset() == 3

    async def test_redis_forgets_keys(self, redis_server: RedisServer, namespace: str) -> None:
        async with RedisBench(redis_server, namespace) as bench:
            await bench.append("c", 1, idempotency_key="k")
            assert 290_000 < await bench.client.pttl(bench.keys.idempotency("c", "k")) <= IDEMPOTENCY_TTL_S * 1000


class TestRuns:
    @staticmethod
    async def update(bench: Bench, **fields: Any) -> AppendResult:
        return await bench.append("run:1", options=RUN, update=RunUpdate(**fields))

    async def test_the_state_is_the_latest_of_each(self, bench: Bench) -> None:
        """Fails if an update wipes out what it does not mention."""
        assert (await bench.read("run:1", with_state=True)).state is None
        await self.update(bench, message='첫 줄 "x"')
        await self.update(bench, state="RUNNING", progress=12.5)
        await self.update(bench, progress=40)
        await self.update(bench, message="second")
        opened = await bench.read("run:1", with_state=True, replay=True)
        assert opened.state == RunState("RUNNING", 40.0, ['첫 줄 "x"', "second"])
        assert data_of(opened) == [
            {"state": None, "progress": 0, "message": '첫 줄 "x"'},
            {"state": "RUNNING", "progress": 12.5, "message": None},
            {"state": "RUNNING", "progress": 40, "message": None},
            {"state": "RUNNING", "progress": 40, "message": "second"},
        ]

    async def test_the_tail_is_bounded(self, bench: Bench) -> None:
        """Fails if a talkative run fills the memory, or its newest lines are dropped."""
        for n in range(TAIL_SIZE + 20):
            await self.update(bench, message=str(n))
        run = (await bench.read("run:1", with_state=True)).state
        assert run is not None
        assert run.logs == [str(n) for n in range(20, TAIL_SIZE + 20)]

    async def test_a_repetition_does_not_count_twice(self, bench: Bench) -> None:
        """Fails if a retried update adds its line again."""
        for _ in range(2):
            await self.update_with_key(bench)
        run = (await bench.read("run:1", with_state=True)).state
        assert run == RunState("RUNNING", 1.0, ["line"])

    @staticmethod
    async def update_with_key(bench: Bench) -> None:
        update = RunUpdate(state="RUNNING", progress=1, message="line")
        await bench.append("run:1", options=RUN, update=update, idempotency_key="k")

    @pytest.mark.parametrize("state", ["END", "FAILED"])
    async def test_after_its_end_it_is_kept_for_a_while(self, bench: Bench, state: str) -> None:
        """Fails if a run that is over stays as long as one that goes on, or goes at once."""
        options = Namespace(run=True, history_ttl_s=1000, final_ttl_s=0.3)
        update = RunUpdate(state=state, progress=100, message="done")
        await bench.append("run:1", options=options, update=update)
        assert (await bench.read("run:1", with_state=True)).state == RunState(state, 100.0, ["done"])
        await bench.wait(0.5)
        opened = await bench.read("run:1", with_state=True, replay=True)
        assert (opened.state, opened.publications, opened.position.offset) == (None, [], 1)

    async def test_a_run_that_begins_again_is_kept_longer(self, bench: Bench) -> None:
        """Fails if what was set for the end of a run holds for its next start."""
        options = Namespace(run=True, history_ttl_s=1000, final_ttl_s=0.2)
        await bench.append("run:1", options=options, update=RunUpdate(state="FAILED"))
        await bench.append("run:1", options=options, update=RunUpdate(state="RUNNING"))
        await bench.wait(0.4)
        run = (await bench.read("run:1", with_state=True)).state
        assert run is not None
        assert run.state == "RUNNING"


class TestDelivery:
    async def test_nobody_holds_the_user(self, bench: Bench) -> None:
        assert (await bench.append("#bob", 1, lease="me")).delivery is Delivery.STORED

    async def test_another_replica_holds_the_user(self, own: RedisBench) -> None:
        """Fails if a user elsewhere is not told of (also one who is here as well)."""
        await own.client.hset(own.keys.holders("bob"), "other", 1)
        appended = await own.append("#bob", 1, lease="me")
        assert (appended.delivery, appended.published) == (Delivery.REMOTE, True)
        await own.client.hset(own.keys.holders("bob"), "me", 1)
        appended = await own.append("#bob", 1, lease="me")
        assert (appended.delivery, appended.published) == (Delivery.REMOTE, True)

    async def test_the_sole_holder_costs_no_publish(self, own: RedisBench) -> None:
        """Fails if a message to a user of this replica alone goes over the bus."""
        await own.client.hset(own.keys.holders("bob"), "me", 1)
        await own.log.tops(["c"])
        await believe_at_once(own.client, own.keys)
        before = own.server.calls("publish")
        first = await own.append("#bob", 1, lease="me", idempotency_key="k")
        assert (first.delivery, first.published) == (Delivery.LOCAL, False)
        assert (await own.append("#bob", 1, lease="me", idempotency_key="k")).published is False
        assert own.server.calls("publish") == before
        assert (await own.log.bus_sequences()).shared == 0
        assert await own.kept("#bob") == [1]

    async def test_nobody_else_is_not_believed_after_a_loss(self, own: RedisBench) -> None:
        """Fails if, right after Redis came back empty, a replica that has not said yet whom it holds is left out."""
        await own.client.hset(own.keys.holders("bob"), "me", 1)
        assert (await own.append("#bob", 1, lease="me")).published

    async def test_what_goes_out_is_what_is_kept(self, own: RedisBench) -> None:
        """Fails if the bus and the log disagree, or the bus sequence leaves out a number."""
        async with own.client.pubsub() as pubsub:
            await pubsub.subscribe(own.channel, f"{own.channel}:c{{}}우")
            for channel in ("#bob", "c{}우", "#eve"):
                await own.append(channel, {"to": channel}, sender="al")
            heard: list[dict[str, Any]] = []
            while len(heard) < 3:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=2)
                if message is not None:
                    heard.append(json.loads(message["data"]))
        assert [each["offset"] for each in heard] == [1, 1, 1]
        assert [each.get("seq") for each in heard] == [1, None, 2]
        assert (await own.log.bus_sequences()).shared == 2
        assert [each["message"] for each in heard] == [{"to": each} for each in ("#bob", "c{}우", "#eve")]
        assert heard[0]["epoch"] == await own.epoch("#bob")


class TestBudget:
    """What Redis counts, over all replicas."""

    @staticmethod
    def log(bench: RedisBench, budget: Budget) -> RedisLog:
        """As one more replica has it."""
        return RedisLog(bench.asked_by(""), budget=budget)

    @pytest.mark.parametrize(
        ("budget", "channel", "allowed", "excess"),
        [
            (Budget(6, 0, 0), "#bob", 6, "user_messages"),
            (Budget(0, 800, 0), "chat:1", 8, "user_bytes"),
            (Budget(0, 0, 4), "#bob", 4, "recipient_messages"),
            (Budget(2**20, 2**30, 2**20), "#bob", 20, None),
        ],
    )
    async def test_each_limit_holds_over_all_replicas(
        self, redis_server: RedisServer, namespace: str, budget: Budget, channel: str, allowed: int, excess: str
    ) -> None:
        """Fails if a limit refuses too early or too late, in any batch, or what it refuses is kept."""
        async with RedisBench(redis_server, namespace) as bench:
            logs = [self.log(bench, budget) for _ in range(3)]
            one = Charge(1, 100, 1 if channel == "#bob" else 0)
            drafts = [draft(channel, n, client="مريم", charge=one) for n in range(20)]
            found: list[Any] = []
            for n in range(0, 20, 4):
                tasks = (append(logs[n % 3], each, OPTIONS, "") for each in drafts[n : n + 4])
                found += await asyncio.gather(*tasks, return_exceptions=True)
            refused = [getattr(each, "excess", None) for each in found]
            assert refused == [None] * allowed + [excess] * (20 - allowed)
            assert await bench.kept(channel) == list(range(allowed))
            other = draft(channel, "other's", client="bob", charge=one)
            assert (await append(logs[0], other, OPTIONS, "")).position.offset == allowed + 1
            plain = draft(channel, "not charged", client="مريم")
            assert (await append(logs[0], plain, OPTIONS, "")).position.offset == allowed + 2

    async def test_it_ends_with_the_window(self, redis_server: RedisServer, namespace: str) -> None:
        """Fails if a budget has no end, or the refusal does not say when that is."""
        async with RedisBench(redis_server, namespace) as bench:
            log, charge = self.log(bench, Budget(1, 0, 0)), Charge(1, 5, 0)
            await append(log, draft("#bob", 1, client="al", charge=charge), OPTIONS, "")
            key = bench.keys.budget("al")
            with pytest.raises(OverBudget) as caught:
                await append(log, draft("#bob", 1, client="al", charge=charge), OPTIONS, "")
            assert WINDOW_S - 2 < caught.value.retry_s <= WINDOW_S
            assert 0 < await bench.client.pttl(key) <= WINDOW_S * 1000
            await bench.client.delete(key)
            appended = await append(log, draft("#bob", 1, client="al", charge=charge), OPTIONS, "")
            assert appended.position.offset == 2

    async def test_a_repetition_is_no_way_around_it(self, redis_server: RedisServer, namespace: str) -> None:
        """Fails if a charge that comes with a repetition is lost, or a refusal is remembered as the answer."""
        async with RedisBench(redis_server, namespace) as bench:
            log, charge = self.log(bench, Budget(2, 0, 0)), Charge(1, 5, 0)

            async def send(key: str) -> int:
                each = draft("#bob", 1, client="al", idempotency_key=key, charge=charge)
                return (await append(log, each, OPTIONS, "")).position.offset

            assert [await send("k"), await send("k")] == [1, 1]
            for key in ("k", "l"):
                with pytest.raises(OverBudget):
                    await send(key)
            await bench.client.delete(bench.keys.budget("al"))
            assert [await send("k"), await send("l")] == [1, 2]

    async def test_a_client_may_write_on_a_run(self, redis_server: RedisServer, namespace: str) -> None:
        """Fails if a run's keys and arguments and a client's get in each other's way."""
        async with RedisBench(redis_server, namespace) as bench:
            log, charge = self.log(bench, Budget(1, 0, 0)), Charge(1, 5, 0)
            update = RunUpdate(state="RUNNING", progress=1, message="line")
            await append(log, draft("run:1", client="al", update=update), RUN, "")
            await append(log, draft("run:1", client="al", update=update, charge=charge), RUN, "")
            with pytest.raises(OverBudget):
                await append(log, draft("run:1", client="al", update=update, charge=charge), RUN, "")
            opened = await bench.read("run:1", with_state=True, replay=True)
            assert opened.state == RunState("RUNNING", 1.0, ["line", "line"])
            assert offsets_of(opened) == [1, 2]


@dataclass
class Restarts:
    """Redis servers with persistence of one kind or the other, stopped when the test ends."""

    directory: Path
    running: list[RedisServer] = field(default_factory=list)

    def start(self, *, appendonly: bool, appendfsync: str = "always") -> RedisServer:
        server = RedisServer(self.directory, appendonly=appendonly, options=("--appendfsync", appendfsync))
        self.running.append(server)
        return server.start()


@pytest.fixture
def restarts(tmp_path: Path) -> Any:
    restarts = Restarts(tmp_path)
    yield restarts
    for server in restarts.running:
        server.stop()


class TestRestarts:
    @pytest.mark.parametrize("gently", [True, False])
    async def test_a_redis_that_loses_nothing_keeps_the_epoch(
        self, restarts: Restarts, namespace: str, gently: bool
    ) -> None:
        """Fails if clients are told of a loss that did not happen."""
        server = restarts.start(appendonly=True)
        async with RedisBench(server, namespace) as bench:
            before = (await bench.append("c", "before")).position
            server.restart(gently=gently)
            assert await again(bench.log.tops, ["c"]) == [before]
            assert (await bench.append("c", "after")).position == moved(before, 2)
            assert (await bench.read("c", after=before)).complete
            assert await bench.kept("c") == ["before", "after"]

    async def test_a_redis_without_persistence_begins_a_new_epoch(self, own: RedisBench) -> None:
        """Fails if a cursor of what is gone fits what has begun anew."""
        before = (await own.append("c", "before")).position
        own.server.restart()
        assert await again(own.log.tops, ["c"]) == [None]
        opened = await own.read("c", after=before)
        assert not opened.complete
        after = (await own.append("c", "after")).position
        assert (after.epoch == opened.position.epoch, after.offset) == (True, 1)
        assert after.epoch != before.epoch

    @pytest.mark.parametrize("after_restart", ["everysec", "always"])
    async def test_a_redis_that_may_have_lost_the_last_second_begins_a_new_epoch(
        self, restarts: Restarts, namespace: str, after_restart: str
    ) -> None:
        """Fails if offsets may be given twice: what counts is how the log was written before the restart."""
        server = restarts.start(appendonly=True)
        server.command("CONFIG", "SET", "appendfsync", "everysec")
        async with RedisBench(server, namespace) as bench:
            before = (await bench.append("c", "before")).position
            server.restart(gently=True)
            server.command("CONFIG", "SET", "appendfsync", after_restart)
            assert await again(bench.log.tops, ["c"]) == [None]
            after = (await bench.append("c", "after")).position
            assert after.epoch != before.epoch
            assert after.offset == 2, "what is kept stays readable, so its offsets are not given again"
            assert await bench.log.tops(["c"]) == [after]
            for offset, unseen in ((0, [1, 2]), (1, [2]), (9, [2])):
                opened = await bench.read("c", after=moved(before, offset))
                assert (opened.complete, offsets_of(opened)) == (False, unseen), "no more than what is new is certain"
            assert offsets_of(await bench.read("c", after=Position("other", 0))) == [2], "nor of an epoch before that"

    async def test_what_is_kept_of_epochs_that_are_over_comes_to_those_who_were_in_one(
        self, restarts: Restarts, namespace: str
    ) -> None:
        """Fails if who was away over two restarts of Redis misses what is still in the log: epochs in the middle."""
        server = restarts.start(appendonly=True, appendfsync="everysec")
        async with RedisBench(server, namespace) as bench:
            seen = [await bench.append("c", n) for n in (1, 2)]
            for n in range(3, 3 + EPOCHS_KNOWN):
                server.restart(gently=True)
                seen.append(await again(bench.append, "c", n))
            top = len(seen)
            epochs = [each.position.epoch for each in seen[1:]]
            assert len(set(epochs)) == len(epochs) == EPOCHS_KNOWN + 1
            for number, each in enumerate(seen[:-1], 1):
                opened = await bench.read("c", after=each.position)
                assert (opened.complete, offsets_of(opened)) == (False, list(range(number + 1, top + 1)))
            ahead = Position(epochs[1], 9)  # of what Redis has lost by the restart; the epoch ended with 3
            assert offsets_of(await bench.read("c", after=ahead)) == list(range(4, top + 1))
            server.restart(gently=True)
            await again(bench.append, "c", "one more")
            assert offsets_of(await bench.read("c", after=seen[1].position)) == [top + 1], "that is too long ago"
            assert offsets_of(await bench.read("c", after=seen[2].position)) == list(range(4, top + 2))

    async def test_a_flush_of_the_scripts_changes_nothing(self, own: RedisBench) -> None:
        before = (await own.append("c", 1)).position
        own.server.command("SCRIPT", "FLUSH")
        assert (await own.append("c", 2)).position == moved(before, 2)
        own.server.command("SCRIPT", "FLUSH")
        assert (await own.read("c", after=before)).complete
        own.server.command("SCRIPT", "FLUSH")
        assert [top and top.offset for top in await own.log.tops(["c"])] == [2]

    async def test_a_flush_of_everything_is_a_new_epoch(self, own: RedisBench) -> None:
        before = (await own.append("c", 1)).position
        own.server.command("FLUSHALL")
        assert (await own.append("c", 2)).position.epoch != before.epoch

    async def test_entries_without_their_meta_do_not_block_the_channel(self, own: RedisBench) -> None:
        """Fails if a log whose meta was lost refuses publications until it has counted up to its old top."""
        for n in range(5):
            await own.append("c", n, client="alice" if n % 2 else None)
        own.server.command("DEL", own.keys.meta("c"))
        assert (await own.append("c", "new")).position.offset == 1
        assert await own.kept("c") == ["new"]

    async def test_memory_full_nothing_is_kept_and_nothing_published(self, own: RedisBench) -> None:
        """Fails if a publisher gets an error and somebody the message, or the offset is used up."""
        position = (await own.append("c", "before")).position
        await own.append("#bob", "before")
        async with own.client.pubsub() as pubsub:
            await pubsub.subscribe(own.channel, f"{own.channel}:c")
            own.server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
            own.server.command("CONFIG", "SET", "maxmemory", "1")
            for channel in ("c", "#bob", "new"):
                with pytest.raises(BusUnavailable):
                    await own.append(channel, "refused", idempotency_key="k")
            with pytest.raises(BusUnavailable):
                await own.append("run:1", options=RUN, update=RunUpdate(state="END"))
            assert offsets_of(await own.read("c", after=position)) == [], "reading goes on"
            own.server.command("CONFIG", "SET", "maxmemory", "0")
            after = await own.append("c", "after", idempotency_key="k")
            assert after.position == moved(position, 2)
            heard: list[Any] = []
            while not heard:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=2)
                if message is not None:
                    heard.append(json.loads(message["data"])["message"])
        assert heard == ["after"]
        assert (await own.read("run:1", with_state=True)).state is None
        assert (await own.log.bus_sequences()).shared == 1

    @pytest.mark.usefixtures("short_timeout")
    async def test_a_frozen_redis_is_unavailable_in_time(self, own: RedisBench) -> None:
        """Fails if a publisher waits for ever."""
        await own.append("c", 1)
        own.server.freeze()
        try:
            with pytest.raises(BusUnavailable):
                await asyncio.wait_for(own.append("c", 2), 4)
        finally:
            own.server.thaw()
        await eventually(lambda: own.server.command("PING") == "PONG")

    async def test_both_streams_have_an_end(self, own: RedisBench) -> None:
        """Fails if the times to live, begun anew once a second, leave out the stream that was not there yet."""
        log = RedisLog(own.asked_by("node"))
        for client in (None, "alice", None, "alice"):
            await append(log, draft("c", 1, client=client), OPTIONS, "")
        for key in (own.keys.stream("c"), own.keys.client_stream("c")):
            assert 290_000 < await own.client.pttl(key) <= 301_000

    async def test_meta_outlives_the_history(self, own: RedisBench) -> None:
        """Fails if offsets are forgotten together with what stood under them."""
        await own.append("c", 1)
        assert await own.client.pttl(own.keys.meta("c")) > META_TTL_S * 1000
        assert await own.client.pttl(own.keys.stream("c")) <= 300_000
        for _ in range(2):
            await own.append("clients", 1, client="al")
            left_ms = await own.client.pttl(own.keys.meta("clients"))
            assert CLIENT_META_TTL_S * 1000 < left_ms < META_TTL_S * 1000, (
                "made-up recipients cost no memory for a day"
            )
        await own.append("c", 2, client="al")
        assert await own.client.pttl(own.keys.meta("c")) > META_TTL_S * 1000
        await own.read("untouched")
        left = await own.client.pttl(own.keys.meta("untouched"))
        assert 0 < left <= READ_TTL_S * 1000, "a look alone must not leave a key for long"
        await own.log.listen({"untouched": 100, "c": 100, "unknown": 100})
        assert 90_000 < await own.client.pttl(own.keys.meta("untouched")) <= 100_000
        await own.log.listen({"untouched": 60})
        assert await own.client.pttl(own.keys.meta("untouched")) > 90_000, "it is kept longer, never shorter"
        assert await own.client.pttl(own.keys.meta("c")) > META_TTL_S * 1000
        assert await own.client.exists(own.keys.meta("unknown")) == 0

    async def test_large_answers_come_over_a_connection_of_their_own(self, own: RedisBench) -> None:
        """Fails if publishing waits behind what somebody reads."""
        await own.append("c", 1)
        made = own.client.link.connections
        own.client.link._wire.fail(OSError("gone"))  # type: ignore[union-attr]
        assert data_of(await own.read("c", replay=True)) == [1]
        assert own.client.link.connections == made


def replace_options(**options: Any) -> Namespace:
    return dataclasses.replace(OPTIONS, **options)


async def again(call: Any, *arguments: Any) -> Any:
    """Call once more what fails because its connection is of the time before a restart."""
    for _ in range(50):
        try:
            return await call(*arguments)
        except BusUnavailable:
            await asyncio.sleep(0.02)
    return await call(*arguments)
