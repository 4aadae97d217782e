"""What an acknowledgement promises in each mode of HELIOGRAPH_REDIS__ACK, against real servers and their replicas."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from heliograph import AsyncPublisher, Composite, Publisher
from heliograph.backends.redis import server as redis_backend
from heliograph.backends.redis.acknowledgement import IN_MEMORY, Acknowledgement
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.log import ConfirmedLog, RedisLog
from heliograph.backends.redis.probe import ConfirmationProbe
from heliograph.backends.redis.promotion import forebears
from heliograph.callbacks import await_callback
from heliograph.errors import BusUnavailable, PublishError
from heliograph.ports import AppendResult, Draft, Fault, LogReader, ReadRequest, ReadResult
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.position import Position
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_pair import RedisPair
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

ONE = Acknowledgement("replica", 1)
SURELY_LATER_S = 2.1  # a server does not say more exactly when it was started
LONG = Namespace(history_size=1000)


class TestTerms:
    """What needs no server."""

    def test_disk_needs_a_server_that_says_so(self) -> None:
        """Fails if a server that loses a second passes as one that loses nothing."""
        always = {"appendonly": "yes", "appendfsync": "always"}
        disk = Acknowledgement("disk")
        assert disk.refusal(always) is None
        for name, value in (("appendonly", "no"), ("appendfsync", "everysec")):
            refusal = disk.refusal({**always, name: value})
            assert refusal is not None
            assert f"{name} '{value}'" in refusal
        refusal = disk.refusal({})
        assert refusal is not None
        assert "+config|get" in refusal
        for other in (IN_MEMORY, ONE, Acknowledgement("managed")):
            assert other.refusal({}) is None

    def test_managed_is_believed_and_nothing_else_without_a_word(self) -> None:
        """Fails if a service that tells nothing counts as durable without being called so, or the other way round."""
        assert Acknowledgement("managed").is_certain({}, {})
        for other in (IN_MEMORY, ONE, Acknowledgement("disk")):
            assert not other.is_certain({}, {})


BEFORE, NOW = "a" * 16, "b" * 16
STREAM = "c" * 40
BEGAN_S, UPTIME_S = 1_000_000, 100
SERVER = {"server_time_usec": str((BEGAN_S + UPTIME_S) * 1_000_000), "uptime_in_seconds": str(UPTIME_S)}


def judge(
    facts: dict[bytes, bytes], *, server: dict[str, str] = SERVER, stream: str = STREAM
) -> tuple[str, dict[bytes, bytes]]:
    """What a server with these notes takes for its forebears, and its notes afterwards."""
    steps = forebears(Keys("k:", "events"), NOW, server, {"master_replid2": stream})
    notes = dict(facts)
    try:
        commands = next(steps)
        while True:
            answers: list[Any] = []
            for name, key, *words in commands:
                assert key == "k:server"
                fields = [str(word).encode() for word in words]
                if name == "HSET":
                    notes[fields[0]] = fields[1]
                    answers.append(1)
                else:
                    found = [notes.get(each) for each in fields]
                    answers.append(found[0] if name == "HGET" else found)
            commands = steps.send(answers)
    except StopIteration as done:
        return done.value, notes


class TestForebears:
    NOTES = {
        f"stream:{STREAM}".encode(): BEFORE.encode(),
        f"seen:{BEFORE}".encode(): str(BEGAN_S * 1000 + 1001).encode(),
    }

    def test_the_server_whose_stream_it_has_followed(self) -> None:
        """Fails if a replica that was promoted begins every log anew."""
        found, notes = judge(self.NOTES)
        assert found == BEFORE
        assert notes[f"forebears:{NOW}".encode()] == BEFORE.encode(), "for the next one that is promoted"

    def test_and_those_before_it(self) -> None:
        """Fails if logs that nobody has touched since the last failover but one begin anew."""
        earlier = " ".join(str(n) * 16 for n in range(9))
        found, _ = judge({**self.NOTES, f"forebears:{BEFORE}".encode(): earlier.encode()})
        assert found.split() == [BEFORE, *earlier.split()[:7]]

    @pytest.mark.parametrize(
        ("notes", "server", "stream"),
        [
            ({}, SERVER, STREAM),
            ({f"weak:{BEFORE}".encode(): b"1"}, SERVER, STREAM),
            ({f"weak:{STREAM}".encode(): b"1"}, SERVER, STREAM),
            ({f"seen:{BEFORE}".encode(): str(BEGAN_S * 1000 + 1000).encode()}, SERVER, STREAM),
            ({}, {**SERVER, "uptime_in_seconds": "1"}, STREAM),
            ({}, {}, STREAM),
            ({}, SERVER, "d" * 40),
            ({}, SERVER, "0" * 40),
        ],
        ids=[
            "",
            "another mode",
            "more replicas",
            "restarted since",
            "just begun",
            "tells nothing",
            "unknown",
            "none",
        ],
    )
    def test_nobody_else(
        self, notes: dict[bytes, bytes], server: dict[str, str], stream: str, request: pytest.FixtureRequest
    ) -> None:
        """Fails if a log goes on in silence on a server that may have lost what was acknowledged."""
        expected = BEFORE if request.node.callspec.id == "" else ""
        assert judge({**self.NOTES, **notes}, server=server, stream=stream)[0] == expected


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisPair]:
    """One master and one replica for all tests that leave them as they were."""
    started = RedisPair(tmp_path_factory.mktemp("pair")).start()
    yield started
    started.stop()


async def test_who_has_followed_may_be_promoted(redis_server: RedisServer, namespace: str) -> None:
    """Fails if a replica that is away is forgotten: it may be promoted, and others have confirmed meanwhile."""
    async with Writer(redis_server, namespace) as writer:

        async def is_weak_after(stream: str, *replicas: str) -> bool:
            await writer.server.scripts.run("promotion", [writer.keys.server], [stream, 2, *replicas])
            return await writer.client.hexists(writer.keys.server, f"weak:{stream}")

        assert not await is_weak_after("s1", "10.0.0.1:6379", "10.0.0.2:6379")
        assert not await is_weak_after("s1", "10.0.0.2:6379")
        assert not await is_weak_after("s2", "10.0.0.3:6379")
        assert await is_weak_after("s1", "10.0.0.2:6379", "10.0.0.21:6379")
        assert await is_weak_after("s1")


class Writer:
    """A program that keeps messages on a server, and reads them."""

    def __init__(self, server: RedisServer, namespace: str, ack: Acknowledgement = ONE) -> None:
        self.keys = Keys(f"{namespace}:", f"{namespace}:events")
        self.client = connect(server.url)
        self.server = redis_backend.RedisServer(self.client, self.keys, node_id="n", ack=ack)
        self.log = ConfirmedLog(self.server) if ack.confirms else RedisLog(self.server)
        self.probe = ConfirmationProbe(self.server)

    async def append(self, data: Any, channel: str = "c", key: str | None = None) -> AppendResult:
        draft = Draft(channel, msgspec.Raw(json.dumps(data).encode()), f"id-{data}", "now", idempotency_key=key)
        return await await_callback(lambda done: self.log.submit(draft, LONG, "", done))

    async def read(self, after: Position, channel: str = "c") -> ReadResult:
        [found] = await self.log.read([ReadRequest(channel, after=after)])
        return found

    async def __aenter__(self) -> "Writer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.close()


@pytest.fixture
async def writer(pair: RedisPair, namespace: str) -> AsyncIterator[Writer]:
    async with Writer(pair.master, namespace) as writer:
        yield writer


def kept(result: ReadResult) -> list[Any]:
    return [json.loads(bytes(each.data)) for each in result.publications]


class TestConfirmation:
    async def test_many_share_one_wait_and_keep_their_order(self, pair: RedisPair, writer: Writer) -> None:
        """Fails if each message waits for replicas by itself, or answers come to the wrong callers."""
        first = await writer.append(0)
        waits = pair.master.calls("wait")
        results = await asyncio.gather(*(writer.append(n) for n in range(1, 301)))
        assert [each.position.offset for each in results] == list(range(2, 302))
        assert pair.master.calls("wait") - waits <= 3
        assert kept(await writer.read(first.position)) == list(range(1, 301))

    async def test_messages_that_come_meanwhile_go_out_together(self, pair: RedisPair, writer: Writer) -> None:
        """Fails if a slow replica has a queue of WAITs pile up, one for each iteration of the event loop."""
        await writer.append("first")
        waits = pair.master.calls("wait")
        pair.replica.freeze()
        tasks = []
        for n in range(20):
            tasks.append(asyncio.create_task(writer.append(n)))
            await asyncio.sleep(0.01)
        pair.replica.thaw()
        results = await asyncio.gather(*tasks)
        assert [each.position.offset for each in results] == list(range(2, 22))
        assert pair.master.calls("wait") - waits < 10, "of twenty; one lasts a tenth of a second"

    async def test_no_answer_is_no_acknowledgement(self, pair: RedisPair, writer: Writer, namespace: str) -> None:
        """Fails if a message counts though a failover would lose it; a repetition too, over whichever connection."""
        first = await writer.append("first")
        async with Writer(pair.master, namespace) as other:
            await other.append("second")
            pair.replica.freeze()
            try:
                for each in (writer, other):
                    with pytest.raises(BusUnavailable, match="kept, but not confirmed") as caught:
                        await each.append("third", key="k")
                    assert caught.value.is_unsure
                failure = await writer.probe.probe()
                assert failure is not None
                assert failure.fault is Fault.UNCONFIRMED
            finally:
                pair.replica.thaw()
            again = await other.append("third", key="k")
            assert await writer.probe.probe() is None
        assert again.position.offset == 3
        assert kept(await writer.read(first.position)) == ["second", "third"]

    async def test_a_repetition_that_cannot_be_confirmed(self, pair: RedisPair, namespace: str) -> None:
        """Fails if WAIT counts though the write before it was refused: on Valkey it then speaks of no write."""
        options: dict[str, Any] = {"ack": "replica", "prefix": f"{namespace}:", "deadline_s": 0}
        pair.replica.freeze()
        try:
            async with AsyncPublisher(pair.master.url, **options) as first:
                with pytest.raises(PublishError, match="kept, but not confirmed"):
                    await first.publish("c", 1, "k")
            pair.master.command("CONFIG", "SET", "min-replicas-to-write", "2")
            async with AsyncPublisher(pair.master.url, **options) as waiting:
                with pytest.raises(PublishError, match="kept, but not confirmed"):
                    await waiting.publish("c", 1, "k")
            plain = Publisher(pair.master.url, **options)
            with plain, pytest.raises(PublishError, match="kept, but not confirmed"):
                await asyncio.to_thread(plain.publish, "c", 1, "k")
        finally:
            pair.master.command("CONFIG", "SET", "min-replicas-to-write", "0")
            pair.replica.thaw()
        async with AsyncPublisher(pair.master.url, **options) as again:
            assert (await again.publish("c", 1, "k")).offset == 1

    async def test_a_connection_that_ends_meanwhile(self, pair: RedisPair, writer: Writer) -> None:
        """Fails if a message counts because another connection was told that all is well."""
        await writer.append("first")
        pair.replica.freeze()
        try:
            waiting = asyncio.create_task(writer.append("second", key="k"))
            await eventually(lambda: "cmd=wait" in pair.master.command("CLIENT", "LIST"))
            killed = [
                line.split()[0].removeprefix("id=")
                for line in pair.master.command("CLIENT", "LIST").splitlines()
                if "cmd=wait" in line
            ]
            pair.master.command("CLIENT", "KILL", "ID", killed[0])
            with pytest.raises(BusUnavailable) as caught:
                await waiting
            assert caught.value.is_unsure
        finally:
            pair.replica.thaw()
        assert (await writer.append("second", key="k")).position.offset == 2

    async def test_closed_while_calls_wait(self, pair: RedisPair, namespace: str) -> None:
        """Fails if what waited for its turn opens a connection again when the program has closed them all."""
        async with Writer(pair.master, namespace) as writer:
            await writer.append("first")
            pair.replica.freeze()
            try:
                waiting = []
                for n in range(3):  # the first in a round of its own, the others behind it
                    waiting.append(asyncio.create_task(writer.append(n)))
                    await asyncio.sleep(0.02)
                await writer.server.close()
                answers = await asyncio.gather(*waiting, return_exceptions=True)
                await asyncio.sleep(0.1)
            finally:
                pair.replica.thaw()
            assert [type(each) for each in answers] == [BusUnavailable] * 3
            assert writer.client.kept.connections == 1

    async def test_scripts_that_are_forgotten_meanwhile(self, pair: RedisPair, writer: Writer) -> None:
        """Fails if a call that had to wait for its script is confirmed by a WAIT that came before it, or never."""
        first = await writer.append("first")
        for n in range(3):
            pair.master.command("SCRIPT", "FLUSH")
            results = await asyncio.gather(*(writer.append([n, m]) for m in range(50)))
            assert len({each.position.offset for each in results}) == 50
        assert kept(await writer.read(first.position)) == [[n, m] for n in range(3) for m in range(50)]

    async def test_nothing_holds_up_the_scripts(self, pair: RedisPair, namespace: str) -> None:
        """Fails if a new master, which nobody copies yet, learns the scripts only when nobody waits any more."""
        keys = Keys(f"{namespace}:", f"{namespace}:events")
        client = connect(pair.master.url)
        client.timeout_s = 60  # replicas may take long to confirm; the link's own patience stays short
        server = redis_backend.RedisServer(client, keys, node_id="n", ack=ONE)
        log = ConfirmedLog(server)

        async def append(data: bytes) -> AppendResult:
            draft = Draft("c", msgspec.Raw(data), "id", "now")
            return await await_callback(lambda done: log.submit(draft, LONG, "", done))

        try:
            await append(b"1")
            pair.replica.freeze()
            try:
                pair.master.command("SCRIPT", "FLUSH")
                appending = [asyncio.create_task(append(data)) for data in (b"2", b"3")]
                await eventually(lambda: pair.master.command("HGET", keys.meta("c"), "top") == "3")
                assert not any(task.done() for task in appending)
            finally:
                pair.replica.thaw()
            assert [each.position.offset for each in await asyncio.gather(*appending)] == [2, 3]
        finally:
            await server.close()

    async def test_publishers_wait_once_for_many(self, pair: RedisPair, namespace: str) -> None:
        """Fails if a publisher acknowledges in another mode than the cluster, or waits for each line."""
        lines = [(f"line {n}", "stdout") for n in range(200)]
        with Publisher(pair.master.url, ack="replica", prefix=f"{namespace}:", deadline_s=0.8) as plain:
            async with AsyncPublisher(
                pair.master.url, ack="replica", prefix=f"{namespace}:", deadline_s=0
            ) as waiting:
                await asyncio.to_thread(plain.log, 1, "first")
                await waiting.log(1, "second")
                waits = pair.master.calls("wait")
                published = await asyncio.to_thread(plain.log_many, 1, lines)
                assert [each.offset for each in published] == list(range(3, 203))
                assert len(await waiting.log_many(1, lines)) == 200
                assert pair.master.calls("wait") - waits <= 4
                pair.replica.freeze()
                try:
                    with pytest.raises(PublishError, match="kept, but not confirmed"):
                        await asyncio.to_thread(plain.log, 1, "lost?")
                    with pytest.raises(PublishError, match="kept, but not confirmed"):
                        await waiting.log(1, "lost?")
                finally:
                    pair.replica.thaw()

    async def test_a_publisher_repeats_until_it_is_confirmed(self, pair: RedisPair, namespace: str) -> None:
        """Fails if a replica that was away for a moment makes a publisher give up, or publish twice."""
        with Publisher(pair.master.url, ack="replica", prefix=f"{namespace}:") as plain:
            await asyncio.to_thread(plain.publish, "c", 1)
            pair.replica.freeze()
            waiting = asyncio.create_task(asyncio.to_thread(plain.publish, "c", 2))
            await asyncio.sleep(0.9)
            pair.replica.thaw()
            assert (await waiting).offset == 2
            assert (await asyncio.to_thread(plain.publish, "c", 3)).offset == 3

    async def test_what_is_stored_for_workers_too(
        self, pair: RedisPair, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if an entry counts as kept that only the master has."""
        monkeypatch.setenv("HELIOGRAPH_REDIS__ACK", "replica")
        async with Composite(pair.master.url, prefix=f"{namespace}:") as composite:
            assert (await composite.publish("k", 1)).id
            pair.replica.freeze()
            try:
                with pytest.raises(BusUnavailable, match="kept, but not confirmed"):
                    await composite.publish("k", 2)
            finally:
                pair.replica.thaw()

    @pytest.mark.parametrize("has_two", [False, True], ids=["one server", "two servers"])
    async def test_a_replica_of_heliograph_tells_its_clients(
        self, pair: RedisPair, redis_server: RedisServer, start_replica: StartReplica, has_two: bool
    ) -> None:
        """Fails if a client is told that its message is safe, or cannot repeat it, or readers get it twice."""
        redis = {"durable_url": pair.master.url} if has_two else {}
        url = redis_server.url if has_two else pair.master.url
        replica = await start_replica(redis_url=url, redis={"url": url, "ack": "replica", **redis})
        async with Client(replica.url, user="alice") as alice, Client(replica.url, user="bob") as bob:
            assert (await alice.send("bob", 1))["type"] == "ack"
            pair.replica.freeze()
            try:
                refused = await alice.send("bob", 2, idempotency_key="k")
                assert refused["code"] == "unavailable"
                assert "kept, but not confirmed" in refused["message"]
                assert "send it again with the same idempotency_key" in refused["message"]
                await eventually(lambda: replica.replica.node.reason == "redis_unconfirmed")
                assert replica.replica.node.ready, "whoever only listens is served"
                assert (await alice.send("bob", "ephemeral", ephemeral=True))["type"] == "ack"
            finally:
                pair.replica.thaw()
            assert (await alice.send("bob", 2, idempotency_key="k"))["type"] == "ack"
            assert (await alice.send("bob", 3))["type"] == "ack"
            assert sorted(map(str, await bob.messages(4))) == ["1", "2", "3", "ephemeral"]
            await eventually(lambda: replica.replica.node.reason == "")


@pytest.fixture
def own_pair(tmp_path: Path) -> Iterator[RedisPair]:
    """A pair to be torn apart."""
    started = RedisPair(tmp_path).start()
    yield started
    started.stop()


class TestSeamless:
    """Where the logs go on when a replica of Redis is promoted."""

    async def test_reading_goes_on_without_a_word(self, own_pair: RedisPair, namespace: str) -> None:
        """Fails if a failover that has lost nothing is told as a loss, or one that may have is not."""
        pair = own_pair
        async with Writer(pair.master, namespace) as old, Writer(pair.master, f"{namespace}-m", IN_MEMORY) as plain:
            results = [await old.append(n) for n in range(1, 6)]
            others = [await plain.append(n) for n in range(1, 6)]
            await asyncio.sleep(SURELY_LATER_S)
            assert await old.probe.probe() is None
            pair.part()
            with pytest.raises(BusUnavailable, match="not confirmed"):
                await old.append("extra")
            top, seen = results[-1].position, Position(results[-1].position.epoch, 6)
            pair.promote()
        async with Writer(pair.master, namespace) as new, Writer(pair.master, f"{namespace}-m", IN_MEMORY) as plain:
            pair.replica.stop()
            pair.replica.start()
            pair.follow()
            found = await new.read(results[2].position)
            assert (found.complete, kept(found)) == (True, [4, 5])
            assert found.position.epoch != top.epoch, "whoever has seen the extra one counts on"
            following = await new.append("next")
            assert following.position.offset == 6
            for position in (top, seen):
                found = await new.read(position)
                assert (found.complete, kept(found), found.start.offset) == (True, ["next"], 5)
            assert not (await new.read(Position("unknown", 3))).complete
            lost = await plain.read(others[2].position)
            assert (lost.complete, kept(lost)) == (False, [4, 5])

    async def test_a_program_in_another_mode_is_noticed(self, own_pair: RedisPair, namespace: str) -> None:
        """Fails if what one program was promised less for is lost without a word because the others have more."""
        pair = own_pair
        async with Writer(pair.master, namespace) as old:
            first = await old.append(1)
            await asyncio.sleep(SURELY_LATER_S)
            assert await old.probe.probe() is None
            with Publisher(pair.master.url, prefix=f"{namespace}:", bus_channel=f"{namespace}:events") as weak:
                await asyncio.to_thread(weak.publish, "elsewhere", 1)
            await old.append(2)
            pair.promote()
        async with Writer(pair.master, namespace) as new:
            assert not (await new.read(first.position)).complete

    async def test_a_server_that_comes_back_with_an_old_file(self, tmp_path: Path, namespace: str) -> None:
        """Fails if a restart that has lost messages passes as a failover: both name a previous stream."""
        pair = RedisPair(tmp_path, options=("--dbfilename", "dump.rdb")).start()
        try:
            async with Writer(pair.master, namespace) as old:
                first = await old.append(1)
                assert await old.probe.probe() is None
                await eventually(lambda: pair.master.command("SAVE") == "OK")  # not while it saves for the replica
                second = await old.append(2)
            pair.master.restart()
            facts = pair.master.command("INFO", "replication")
            assert "master_replid2:" + "0" * 40 not in facts, "it must be able to be mistaken"
            async with Writer(pair.master, namespace) as reader:
                for position in (first.position, second.position):
                    assert not (await reader.read(position)).complete
        finally:
            pair.stop()

    async def test_a_master_that_is_one_again_has_lost_what_the_other_lacked(
        self, own_pair: RedisPair, namespace: str
    ) -> None:
        """Fails if a log that nobody touched in between goes on in the same epoch, and gives offsets twice."""
        pair = own_pair
        async with Writer(pair.master, namespace, IN_MEMORY) as first:
            await first.append(1)
            await first.append(1, channel="touched")
            await eventually(lambda: pair.replica.command("EXISTS", first.keys.meta("touched")) == "1")
            pair.part()
            lost = await first.append("lost")
        pair.promote()
        async with Writer(pair.master, namespace, IN_MEMORY) as second:
            await second.append(2, channel="touched")
            pair.follow()
        pair.promote()
        async with Writer(pair.master, namespace, IN_MEMORY) as third:
            after = await third.append("after")
            assert after.position.offset == lost.position.offset
            assert after.position.epoch != lost.position.epoch


async def eventually_read(log: LogReader, after: Position) -> ReadResult:
    """Read a log as soon as its server is back."""
    async with asyncio.timeout(5):
        while True:
            try:
                return (await log.read([ReadRequest("c", after=after)]))[0]
            except BusUnavailable:
                await asyncio.sleep(0.02)


class TestDisk:
    async def test_a_server_that_does_not_keep_it_is_refused_until_it_does(
        self, tmp_path: Path, start_replica: StartReplica, namespace: str
    ) -> None:
        """Fails if a message is acknowledged that a power cut would lose, or the cure needs a restart of replicas."""
        redis = RedisServer(tmp_path, appendonly=True).start()
        redis.command("CONFIG", "SET", "appendfsync", "everysec")
        try:
            settings = {"url": redis.url, "ack": "disk"}
            replica = await start_replica(redis_url=redis.url, redis=settings, ready=False)
            node = replica.replica.node
            await eventually(lambda: node.reason == "redis_not_durable")
            assert not node.ready
            with Publisher(redis.url, ack="disk", prefix=f"{namespace}:", deadline_s=0) as plain:
                async with AsyncPublisher(redis.url, ack="disk", prefix=f"{namespace}:", deadline_s=0) as waiting:
                    with pytest.raises(PublishError, match="appendfsync 'everysec'"):
                        await asyncio.to_thread(plain.publish, "c", 1)
                    with pytest.raises(PublishError, match="appendfsync 'everysec'"):
                        await waiting.publish("c", 1)
                    with pytest.raises(BusUnavailable) as caught:
                        await replica.replica.manager.publish("c", 1)
                    assert not caught.value.is_unsure
                    redis.command("CONFIG", "SET", "appendfsync", "always")
                    await eventually(lambda: node.ready)
                    before = await replica.replica.manager.publish("c", 1)
                    assert before.position is not None
                    assert (await asyncio.to_thread(plain.publish, "c", 2)).offset == 2
                    assert (await waiting.publish("c", 3)).offset == 3
            redis.restart()  # killed
            found = await eventually_read(replica.replica.backends.log, before.position)
            assert (found.complete, kept(found)) == (True, [2, 3])
            redis.command("CONFIG", "SET", "appendfsync", "everysec")
            await eventually(lambda: node.reason == "redis_not_durable")
            with pytest.raises(BusUnavailable):
                await replica.replica.manager.publish("c", 4)
        finally:
            redis.stop()


class TestManaged:
    async def test_the_epoch_stays_though_the_server_tells_nothing(self, own_pair: RedisPair, namespace: str) -> None:
        """Fails if a failover of a service that is durable is told as a loss."""
        pair, managed = own_pair, Acknowledgement("managed")
        for each in (pair.master, pair.replica):
            each.command("ACL", "SETUSER", "default", "-info", "-config|get")
        async with Writer(pair.master, namespace, managed) as old:
            first = await old.append(1)
            await old.append(2)
            await eventually(lambda: pair.replica.command("HGET", old.keys.meta("c"), "top") == "2")
        pair.promote()
        async with Writer(pair.master, namespace, managed) as new:
            found = await new.read(first.position)
            assert (found.complete, kept(found), found.position.epoch) == (True, [2], first.position.epoch)
            assert (await new.append(3)).position.offset == 3
