"""What one client can read: how much at once, how often, and what it leaves behind."""

import asyncio
import time
from urllib.parse import urlencode

import pytest

from heliograph.ports import PAGE_BYTES, READ_TTL_S
from heliograph.telemetry import Telemetry
from heliograph.transports.requests import MOST_KEYS, RequestRate, TooManyRequests
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.poller import Poller
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

BLOCK = "x" * 60_000


class TestHistory:
    async def test_it_comes_in_pages(self, start_replica: StartReplica) -> None:
        """Fails if one answer holds megabytes, or a client that asks on misses or repeats something."""
        one = await start_replica()
        for number in range(100):
            await one.replica.manager.publish("news", [number, BLOCK])
        async with Client(one.url, user="alice") as alice:
            numbers: list[int] = []
            cursor = None
            while len(numbers) < 100:
                await alice.say({"type": "history", "channel": "news", "limit": 1000, "cursor": cursor})
                page = await alice.next("history")
                found = [message["data"][0] for message in page["publications"]]
                assert 0 < len(found) * len(BLOCK) <= PAGE_BYTES
                numbers += found
                cursor = page["cursor"]
                assert page.get("more", False) is (len(numbers) < 100)
            assert numbers == list(range(100))

    async def test_who_reads_much_waits_and_is_not_refused(self, start_replica: StartReplica) -> None:
        """Fails if one connection reads as fast as the line allows, or is refused what it asks for."""
        one = await start_replica(redis_url=None, limits={"read_bytes_per_second": 500_000})
        for number in range(20):
            await one.replica.manager.publish("news", [number, BLOCK])
        async with Client(one.url, user="alice") as alice:
            began_at = time.monotonic()
            for number in range(10):  # 1.2 MB: 0.5 MB at once, and the last is not waited for
                await alice.say({"type": "history", "channel": "news", "id": number})
            for number in range(10):
                assert (await alice.next("history", "error", within_s=10))["id"] == number
            assert 0.8 < time.monotonic() - began_at < 5

    async def test_who_leaves_while_it_waits_is_forgotten_at_once(self, start_replica: StartReplica) -> None:
        """Fails if a connection that has read much outlives its socket."""
        one = await start_replica(redis_url=None, limits={"read_bytes_per_second": 1000})
        await one.replica.manager.publish("news", BLOCK)
        async with Client(one.url, user="alice") as alice:
            for number in range(2):
                await alice.say({"type": "history", "channel": "news", "id": number})
            await alice.next("history")
        await eventually(lambda: one.replica.hub.connections == 0, within_s=3)

    @pytest.mark.slow
    @pytest.mark.alone
    async def test_readers_do_not_keep_senders_waiting(
        self, start_replica: StartReplica, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Fails if nineteen clients that read 6 MB again and again make a message wait for their answers.

        All of them share this process with the replica, so the figures are worse than they are to others. What counts
        is the work that is done before the message's answer, not what other processes did meanwhile.
        """
        one = await start_replica()
        for number in range(100):
            await one.replica.manager.publish("news", [number, BLOCK])
        enough = asyncio.Event()

        async def read() -> None:
            async with Client(one.url, user="mallory") as client:
                while not enough.is_set():
                    await client.say({"type": "history", "channel": "news", "limit": 100})
                    await client.next("history", within_s=30)

        readers = [asyncio.create_task(read()) for _ in range(19)]
        took = []
        try:
            async with Client(one.url, user="alice") as alice:
                for number in range(60):
                    began_at = time.process_time()
                    await alice.say({"type": "send", "to": "bob", "data": number})
                    assert (await alice.next("ack", "error", within_s=30))["type"] == "ack"
                    took.append(time.process_time() - began_at)
                    await asyncio.sleep(0.03)
        finally:
            enough.set()
            await asyncio.gather(*readers)
        took.sort()
        with capsys.disabled():
            print(f"\nsend beside readers: median {took[30] * 1000:.1f} ms, longest {took[-1] * 1000:.1f} ms")
        assert took[30] < 0.1


class TestPresence:
    async def test_a_crowd_is_charged_by_its_size(
        self, start_replica: StartReplica, redis_server: RedisServer
    ) -> None:
        """Fails if ten thousand members can be asked for as often as a ping."""
        one = await start_replica(limits={"read_bytes_per_second": 300_000})
        key = one.redis.keys.presence("chat:1")
        redis_server.command("HSET", key, *(text for n in range(10_000) for text in (f"user-{n}", "1")))
        async with Client(one.url, user="alice") as alice:
            began_at = time.monotonic()
            for number in range(4):
                await alice.say({"type": "presence", "channel": "chat:1", "id": number})
            for number in range(4):
                assert len((await alice.next("presence", id=number, within_s=10))["users"]) == 10_000
            assert time.monotonic() - began_at > 0.5
        redis_server.command("DEL", key)


class TestUnknownChannels:
    async def test_polls_leave_nothing_for_long(self, start_replica: StartReplica, redis_server: RedisServer) -> None:
        """Fails if whoever polls channels that nobody knows fills Redis for a day."""
        one = await start_replica(poll={"linger_s": 0.1}, limits={"requests_per_second": 0})
        async with http_client(one.url, timeout=30) as http:
            for poll in range(8):
                channels = ",".join(f"unknown:{poll}:{n}" for n in range(100))
                assert (await http.get("/api/poll", params={"user": "eve", "channels": channels})).status_code == 200
        prefix = one.redis.keys.prefix
        keys = [
            key for key in redis_server.command("KEYS", f"{prefix}*").splitlines() if "unknown" in key or "eve" in key
        ]
        assert len(keys) >= 800
        left = [int(redis_server.command("PTTL", key)) for key in keys[:50]]
        assert all(0 <= each <= READ_TTL_S * 1000 for each in left)

    async def test_who_listens_keeps_the_place(self, start_replica: StartReplica, redis_server: RedisServer) -> None:
        """Fails if a channel on which nothing is published is forgotten under those who listen to it."""
        one = await start_replica()
        channels = one.replica.channels
        async with Client(one.url, path="/ws?user=alice&channels=quiet") as alice:
            await alice.next("subscribed")
            meta = one.redis.keys.meta("quiet")
            redis_server.command("PEXPIRE", meta, "5000")
            channels._watch._listen_at = 0.0
            await eventually(lambda: int(redis_server.command("PTTL", meta)) > 50_000)
            for followed in channels.following._followed.values():
                followed.since -= 3600  # as if it had listened for an hour
            channels._watch._listen_at = 0.0
            await eventually(lambda: int(redis_server.command("PTTL", meta)) > 3_500_000)


class TestRequests:
    async def test_one_user_asks_so_often(self, start_replica: StartReplica) -> None:
        """Fails if one user opens channels without end, another has to suffer for it, or nobody says why."""
        one = await start_replica(redis_url=None, limits={"requests_per_second": 4, "connections_per_user": 0})
        channels = ",".join(f"unknown:{n}" for n in range(100))
        async with http_client(one.url) as http:
            answers = [
                await http.get(f"/api/poll?{urlencode({'user': 'eve', 'channels': channels})}") for _ in range(6)
            ]
            statuses = [answer.status_code for answer in answers]
            assert statuses[0] == 200
            assert statuses[-1] == 429
            assert answers[-1].json()["error"]["code"] == "rate_limited"
            assert "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND" in answers[-1].json()["error"]["message"]
            assert "retry-after" in answers[-1].headers
            for path in ("/sse?user=eve", "/api/ticket?user=eve"):
                method = "POST" if "ticket" in path else "GET"
                assert (await http.request(method, path)).status_code == 429
            assert (await http.get("/api/poll?user=bob")).status_code == 200
            assert (await http.get("/health")).status_code == 200
            assert one.replica.telemetry.requests_refused >= 3

    async def test_polls_that_go_on_cost_little(self, start_replica: StartReplica) -> None:
        """Fails if a client on a busy channel, which polls after each event, is refused."""
        one = await start_replica(redis_url=None, limits={"requests_per_second": 4})
        async with Poller(one.url, user="alice", channels="news") as poller:
            await poller.poll()
            for number in range(60):
                await one.replica.manager.publish("news", number)
                assert [event["data"] for event in await poller.poll()] == [number]

    async def test_one_address_asks_so_often(self, start_replica: StartReplica) -> None:
        """Fails if whoever takes another name for each request has no limit."""
        one = await start_replica(redis_url=None, limits={"requests_per_second_per_address": 2})
        async with http_client(one.url) as http, http_client(one.url, source="127.0.1.1") as other:
            statuses = [(await http.get(f"/api/runs/{number}")).status_code for number in range(15)]
            assert statuses[:10] == [404] * 10
            assert 429 in statuses
            assert (await other.get("/api/runs/1")).status_code == 404

    def test_keys_without_end(self) -> None:
        """Fails if memory grows with every user that ever came, or the latest ones are forgotten."""
        rate = RequestRate(1, "user", "REQUESTS_PER_SECOND", Telemetry())
        for number in range(MOST_KEYS + 100):
            rate.take(f"user-{number}")
        assert len(rate._buckets) == MOST_KEYS
        for _ in range(4):
            rate.take("user-10000")
        with pytest.raises(TooManyRequests):
            rate.take("user-10000")
