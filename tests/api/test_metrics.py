"""What Prometheus reads, compared with what clients did."""

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest
from starlette.routing import WebSocketRoute as Route

from heliograph.api.metrics import IS_COMPILED
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.peer import Peer
from heliograph.transports.websocket import WebSocketEndpoint
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.members import RecordingSink
from tests.support.metrics import Reading, families, read, scrape
from tests.support.raw_socket import RawSocket
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

BASE_UNITS = ("ratio", "seconds", "bytes", "info", "total", "fds")
LABELS = {
    "answered",
    "transport",
    "code",
    "kind",
    "limit",
    "reason",
    "le",
    "replica",
    "version",
    "python",
    "compiled",
}
PLAIN_GAUGES = {
    "ready",
    "degraded",
    "draining",
    "drain_connections_left",
    "connections",
    "users",
    "channels",
    "client_writes_blocked",
}


async def becomes(replica: RunningReplica, name: str, value: float, **labels: str) -> None:
    """Wait until a sample has this value, and has had nothing beyond it."""

    async def reached() -> bool:
        now = (await read(replica))(name, **labels) if await _there(replica, name, labels) else 0
        assert now <= value, f"{name}{labels} is {now}"
        return now == value

    await eventually(reached)


async def _there(replica: RunningReplica, name: str, labels: dict[str, str]) -> bool:
    try:
        (await read(replica))(name, **labels)
    except AssertionError:
        return False
    return True


class TestConventions:
    async def test_a_scrape_is_as_prometheus_wants_it(self, start_replica: StartReplica) -> None:
        """Fails if a family has no meaning or type, is there twice, or has a name that promtool would object to."""
        one = await start_replica()
        async with Client(one.url, user="alice") as alice:
            await alice.send("alice", 1)
        text = await scrape(one)
        helped = re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE)
        typed = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
        assert [name for name, _ in typed] == helped
        assert max(Counter(helped).values()) == 1
        samples = [line for line in text.splitlines() if not line.startswith("#")]
        assert max(Counter(line.rpartition(" ")[0] for line in samples).values()) == 1
        for name, kind in typed:
            assert re.fullmatch(r"(heliograph|process)_[a-z_]+", name)
            assert (kind == "counter") == name.endswith("_total"), name
            plain = name.removeprefix("heliograph_")
            assert name.endswith(BASE_UNITS) or plain in PLAIN_GAUGES, f"{name} has no base unit"
        for family in families(text):
            for sample in family.samples:
                assert set(sample.labels) <= LABELS

    async def test_histograms_add_up(self, start_replica: StartReplica) -> None:
        """Fails if buckets are not cumulative, or do not end in what was observed in all."""
        one = await start_replica()
        async with Client(one.url, user="alice") as alice:
            for number in range(5):
                await alice.send("alice", number)
        for family in families(await scrape(one)):
            if family.type == "histogram":
                buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
                assert buckets == sorted(buckets)
                [count] = [sample.value for sample in family.samples if sample.name.endswith("_count")]
                assert buckets[-1] == count
        reading = await read(one)
        assert reading("publish_seconds_count") == 5
        assert 0 < reading("publish_seconds_sum") < 5
        assert reading("publish_seconds_bucket", le="+Inf") == 5


class TestClients:
    async def test_messages_and_connections(self, start_replica: StartReplica) -> None:
        """Fails if what comes in, what goes out or who is there is not counted, or counted for another transport."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with Client(one.url, user="alice") as alice, Client(one.url, user="alice") as phone:
            await alice.send("alice", 1)
            await phone.messages(1)
            async with Client(two.url, user="bob") as bob:
                await bob.send("alice", 2)
                await phone.messages(1)
            await alice.say({"type": "subscribe", "channel": "talk:1"})
            await alice.next("subscribed")
            reading = await read(one)
            assert reading("messages_in_total", transport="websocket") == 2, "one send, one subscribe"
            assert reading("messages_out_total", transport="websocket") == 4, "two messages to two devices"
            assert reading("connections", transport="websocket") == 2
            assert (reading("users"), reading("channels"), reading("ready")) == (1, 2, 1)
            for transport in ("sse", "poll", "api"):
                for name in ("messages_in_total", "messages_out_total", "connections"):
                    assert reading(name, transport=transport) == 0
            other = await read(two)
            assert other("messages_in_total", transport="websocket") == 1
            assert other("messages_out_total", transport="websocket") == 0
            assert other("publish_seconds_count") == other("bus_published_total") == 1
        await becomes(one, "connections", 0, transport="websocket")

    async def test_streams_and_polls_have_counters_of_their_own(self, start_replica: StartReplica) -> None:
        """Fails if what goes out by server-sent events or by polls is counted for sockets, or not at all."""
        one = await start_replica()
        async with (
            Client(one.url, user="alice") as alice,
            http_client(one.url) as http,
        ):
            async with http.stream("GET", "/sse?user=bob") as stream:
                lines = stream.aiter_lines()
                assert [line async for line in _until(lines, "connected")]
                await alice.send("bob", "hi")
                assert [line async for line in _until(lines, '"message"')]
                reading = await read(one)
                assert reading("connections", transport="sse") == 1
                assert reading("messages_out_total", transport="sse") == 1
            await becomes_gone(one, "sse")
            cursor = (await http.get("/api/poll?user=carol")).json()["cursor"]
            await alice.send("carol", "hi")
            answer = await http.get("/api/poll", params={"user": "carol", "cursor": cursor, "wait": 5})
            assert [event["type"] for event in answer.json()["events"]] == ["message"]
            reading = await read(one)
            assert reading("connections", transport="poll") == 1
            assert reading("messages_out_total", transport="poll") == 1
            assert reading("messages_out_total", transport="websocket") == 0

    async def test_what_a_client_had_missed_goes_out_too(self, start_replica: StartReplica) -> None:
        """Fails if messages that are read from the log for one client are not counted."""
        one = await start_replica()
        async with Client(one.url, user="alice") as alice:
            for number in range(3):
                await alice.say({"type": "publish", "channel": "talk:1", "data": number})
                await alice.next("ack")
            await alice.say({"type": "subscribe", "channel": "talk:1", "replay": True})
            assert await alice.messages(3) == [0, 1, 2]
        assert (await read(one))("messages_out_total", transport="websocket") == 3

    async def test_refused_frames_by_code(self, start_replica: StartReplica) -> None:
        """Fails if a frame that is answered with an error is not counted, or under another code."""
        one = await start_replica(redis_url=None, limits={"messages_per_second": 3})
        async with Client(one.url, user="alice") as alice:
            await alice.say("nonsense")
            await alice.next("error", code="bad_json")
            await alice.say({"type": "subscribe", "channel": "#bob"})
            await alice.next("error", code="not_allowed")
            limited = 0
            while not limited:
                await alice.say({"type": "ping"})
                limited = (await alice.next("pong", "error"))["type"] == "error"
            reading = await read(one)
        counted = {code: reading("frames_refused_total", code=code) for code in ("bad_json", "not_allowed")}
        assert counted == {"bad_json": 1, "not_allowed": 1}
        assert reading("frames_refused_total", code="rate_limited") == 1
        assert reading("frames_refused_total", code="unavailable") == 0

    async def test_closes_by_code_whoever_closed(self, start_replica: StartReplica) -> None:
        """Fails if a close is missed or counted twice, or a client can make up any number of labels."""
        one = await start_replica(redis_url=None)
        async with Client(one.url) as nobody:
            await nobody.say({"type": "ping"})
            await nobody.next("pong")
            await nobody.say({"type": "send", "to": "bob", "data": 1})
            assert await nobody.close_code() == 3501
        async with Client(one.url, user="alice"):
            pass
        async with Client(one.url, user="alice") as alice:
            await alice.socket.close(4321)
        async with Client(one.url, user="alice") as alice:
            await alice.say("x" * 70_000)
            assert await alice.close_code() == 1009
        async with RawSocket(one.url, "/ws?user=bob"):
            pass  # gone without a word
        for code in ("3501", "1000", "1009", "1006", "other"):
            await becomes(one, "closes_total", 1, code=code)
        text = await scrape(one)
        assert 'code="4321"' not in text

    async def test_an_end_that_is_said_twice_is_one(self, start_replica: StartReplica) -> None:
        """Fails if a transport that tidies up in two places counts twice, or takes the last word for the first."""
        one = await start_replica(redis_url=None)
        [endpoint] = [
            route.app for route in one.replica.app.routes if isinstance(route, Route) and route.path == "/ws"
        ]
        assert isinstance(endpoint, WebSocketEndpoint)
        outbox = Outbox(RecordingSink(), FlushScheduler(Mock()), 1)
        driver = endpoint.drivers.new(endpoint.formats[0].frames, outbox, peer=Peer("session-1", "websocket"))
        driver.connection.close(CloseCode.SLOW, "")
        driver.end()
        driver.end(1000)
        assert one.replica.telemetry.closes == {3008: 1}

    async def test_a_slow_client(self, start_replica: StartReplica) -> None:
        """Fails if a connection that was closed as it did not read is not counted as what it is."""
        one = await start_replica(redis_url=None, limits={"outbox_bytes": 65_536})
        async with (
            RawSocket(one.url, "/ws?user=bob", receive_buffer=4096) as slow,
            Client(one.url, user="alice") as alice,
        ):
            while one.replica.hub.count("bob"):
                assert (await alice.send("bob", "x" * 50_000))["type"] == "ack"
            assert (await read(one))("slow_closes_total") == 1
            assert (await slow.closed())[0] == 3008
            await becomes(one, "closes_total", 1, code="3008")

    async def test_a_drain(self, start_replica: StartReplica) -> None:
        """Fails if one cannot see that a replica drains, and how many are left."""
        one = await start_replica(redis_url=None)
        async with Client(one.url, user="alice"):
            reading = await read(one)
            assert (reading("draining"), reading("drain_connections_left")) == (0, 0)
            one.replica.node._health.begin_draining()
            reading = await read(one)
            assert (reading("ready"), reading("draining"), reading("drain_connections_left")) == (0, 1, 1)
            refused = RawSocket(one.url, "/ws?user=bob")
            async with refused:
                assert refused.status == 503
            assert (await read(one))("connections_refused_total") == 1


class TestTheBus:
    async def test_a_gap_that_was_repaired(self, start_replica: StartReplica, own_redis: RedisServer) -> None:
        """Fails if a loss on the bus, the repair that follows it, or a gap that stays cannot be seen."""
        one = await start_replica("replica-1", redis_url=own_redis.url)
        two = await start_replica("replica-2", redis_url=own_redis.url)
        async with Client(one.url, user="alice") as alice, Client(two.url, user="bob") as bob:
            await bob.say({"type": "subscribe", "channel": "talk:1"})
            await bob.next("subscribed")
            lost = 0
            while not (await read(two))("repairs_total"):
                own_redis.command("CLIENT", "KILL", "TYPE", "pubsub")
                await alice.say({"type": "publish", "channel": "talk:1", "data": lost})
                lost += 1
                assert await bob.messages(1, within_s=10) == [lost - 1]
            reading = await read(two)
            assert reading("bus_connection_losses_total") >= 1
            assert reading("unfilled_gaps_total") == 0
            own_redis.command("FLUSHALL")
            await alice.say({"type": "publish", "channel": "talk:1", "data": "after the end of the world"})
            await bob.next("subscribed", recovered=False, within_s=10)
            assert (await read(two))("unfilled_gaps_total") >= 1

    @pytest.mark.usefixtures("short_timeout")
    async def test_what_redis_refuses_and_what_it_does_not_answer(
        self, start_replica: StartReplica, own_redis: RedisServer
    ) -> None:
        """Fails if an error of Redis is not counted, or a time-out looks like a refusal."""
        limits = {"client_memory_percent": 0}
        one = await start_replica(redis_url=own_redis.url, bus={"canary_timeout_s": 60}, limits=limits)
        async with Client(one.url, user="alice") as alice:
            assert (await alice.send("alice", 1))["type"] == "ack"
            before = await read(one)
            own_redis.command("CONFIG", "SET", "maxmemory", "1")
            assert (await alice.send("alice", 2))["type"] == "error"
            during = await read(one)
            own_redis.command("CONFIG", "SET", "maxmemory", "0")
            assert _grown(before, during, "redis_errors_total", kind="refused") >= 1
            assert _grown(before, during, "redis_errors_total", kind="timeout") == 0
            assert _grown(before, during, "bus_publish_errors_total") == 1
            assert _grown(before, during, "frames_refused_total", code="unavailable") == 1
            own_redis.freeze()
            assert (await alice.send("alice", 3))["type"] == "error"
            after = await read(one)
            own_redis.thaw()
            assert _grown(during, after, "redis_errors_total", kind="timeout") >= 1

    async def test_lag_is_what_a_message_waits(self, start_replica: StartReplica, own_redis: RedisServer) -> None:
        """Fails if the lag is not measured, or looks fine while nothing arrives."""
        one = await start_replica(redis_url=own_redis.url, bus={"canary_interval_s": 0.05, "canary_timeout_s": 60})
        await eventually(lambda: sum(one.replica.bus.stats.lag.counts) > 2)
        reading = await read(one)
        assert 0 < reading("bus_lag_seconds") < 1
        assert reading("bus_canary_seconds_count") >= 3
        assert reading("bus_canary_age_seconds") < 2
        own_redis.freeze()
        await eventually(lambda: one.replica.bus.lag_s > 0.4)
        assert (await read(one))("bus_lag_seconds") > 0.4, "while it lasts"
        own_redis.thaw()
        heard = one.replica.bus.stats.lag.counts[-4:]
        await eventually(lambda: one.replica.bus.stats.lag.counts[-4:] != heard)
        assert one.replica.bus.stats.lag.total_s > 0.3, "the canary that waited says how long"

    async def test_a_replica_without_a_bus_says_nothing_of_one(self, start_replica: StartReplica) -> None:
        """Fails if an alert on the bus rings for a replica that has none."""
        one = await start_replica(redis_url=None)
        assert "heliograph_bus_" not in await scrape(one)

    async def test_a_canary_that_never_came(self, start_replica: StartReplica, own_redis: RedisServer) -> None:
        """Fails if a replica that has never heard itself seems to have a canary."""
        own_redis.stop()
        one = await start_replica(redis_url=own_redis.url, ready=False)
        reading = await read(one)
        assert reading("bus_canary_age_seconds") == reading("bus_lag_seconds") == float("inf")
        assert reading("ready") == 0


class TestTheProcess:
    async def test_memory_processor_and_build(self, start_replica: StartReplica) -> None:
        """Fails if one cannot see what a replica costs, or which version it is."""
        one = await start_replica("replica-7", redis_url=None)
        samples = {sample.name: sample for family in families(await scrape(one)) for sample in family.samples}
        assert samples["process_resident_memory_bytes"].value > 10_000_000
        assert samples["process_cpu_seconds_total"].value > 0
        assert 3 < samples["process_open_fds"].value <= len(os.listdir("/proc/self/fd")) + 5
        build = samples["heliograph_build_info"].labels
        assert build["replica"] == "replica-7"
        assert build["compiled"] == ("yes" if IS_COMPILED else "no")

    async def test_a_loop_that_is_held_up(self, start_replica: StartReplica) -> None:
        """Fails if what blocks the event loop does not show."""
        one = await start_replica(redis_url=None)
        lag = one.replica.telemetry.loop_lag
        await eventually(lambda: sum(lag.counts))
        before = sum(lag.counts[-3:])
        deadline = asyncio.get_running_loop().time() + 0.7
        while asyncio.get_running_loop().time() < deadline:
            pass
        await eventually(lambda: sum(lag.counts[-3:]) > before)
        assert (await read(one))("event_loop_lag_seconds_sum") > 0.5

    async def test_the_cluster_page_gets_rates_and_lag(self, start_replica: StartReplica) -> None:
        """Fails if other replicas are not told how much a replica does, and how late its bus is."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with Client(one.url, user="alice") as alice, Client(one.url, user="alice"):

            async def told() -> bool:
                await alice.send("alice", 1)
                info = {each.name: each for each in await two.replica.directory.replicas()}["replica-1"]
                return info.messages_in_per_second > 0 and info.messages_out_per_second > info.messages_in_per_second

            await eventually(told)
        info = one.replica.node.describe()
        assert info.bus_lag_ms is not None
        assert 0 < info.bus_lag_ms < 1000
        assert info.canary_age_ms is not None
        assert 0 <= info.canary_age_ms < 3000

    async def test_without_a_bus_there_is_no_lag(self, start_replica: StartReplica) -> None:
        """Fails if infinity gets into JSON."""
        one = await start_replica(redis_url=None)
        info = one.replica.node.describe()
        assert (info.bus_lag_ms, info.canary_age_ms) == (None, None)


async def becomes_gone(replica: RunningReplica, transport: str) -> None:
    await eventually(lambda: replica.replica.telemetry.traffic[transport].connections == 0)


async def _until(lines: AsyncIterator[str], what: str) -> AsyncIterator[str]:
    """The lines up to the first that holds `what`."""
    async for line in lines:
        yield line
        if what in line:
            return


def _grown(before: Reading, after: Reading, name: str, **labels: str) -> float:
    return after(name, **labels) - before(name, **labels)
