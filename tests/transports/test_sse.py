"""`/sse` over real HTTP: what the stream holds, who may have it, how it ends, and what goes wrong around it."""

import asyncio
import json
import socket
from collections.abc import MutableMapping
from typing import Any

import pytest
from httpx_sse import aconnect_sse

from heliograph.codecs.plain.cursor import format_cursor, parse_cursor
from heliograph.hub.outbox import Outbox
from heliograph.protocol.position import Position
from heliograph.transports.event_stream import PIECE_BYTES
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.event_source import EventSource
from tests.support.http import http_client
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, soon, token
from tests.support.waiting import eventually

SIGTERM = 15


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    """One replica without Redis."""
    return await start_replica(redis_url=None)


async def publish(replica: RunningReplica, channel: str, data: Any) -> None:
    await replica.replica.manager.publish(channel, data)


def at(events: EventSource, channel: str) -> Position:
    """Where the last id says that the client stands."""
    position = parse_cursor(events.last_event_id).position_in(channel)
    assert position is not None, channel
    return position


class TestStream:
    async def test_its_head_keeps_proxies_and_caches_out(self, one: RunningReplica) -> None:
        """Fails if the stream is no event stream to a browser, or a proxy may hold it back or keep it."""
        async with EventSource(one.url, user="alice") as events:
            assert events.response.status_code == 200
            assert events.response.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert events.response.headers["x-accel-buffering"] == "no"
            assert events.response.headers["cache-control"] == "no-store"
            await events.event()
            assert events.retry_ms == 1000

    async def test_events_are_those_of_the_socket(self, one: RunningReplica) -> None:
        """Fails if an event is anything but what a WebSocket frame holds (tests of the client rely on `type`)."""
        channels = "news,방:42,run:7"
        async with (
            EventSource(one.url, user="alice", channels=channels) as events,
            Client(one.url, path=f"/ws?user=alice&channels={channels}") as socket,
        ):
            by_stream = [await events.event() for _ in range(5)]
            by_socket = [await socket.next("connected", "subscribed", "initial_state") for _ in range(5)]
            for each in by_stream + by_socket:
                each.pop("session", None)
            assert by_stream == by_socket
            assert [each["type"] for each in by_stream] == [
                "connected", "subscribed", "subscribed", "subscribed", "initial_state",
            ]  # fmt: skip
            await publish(one, "방:42", {"text": "우주여행고양이 🚀"})
            await publish(one, "#alice", 1)
            await publish(one, "run:7", {"state": "RUNNING", "progress": 10, "message": "시작"})
            for kind in ("message", "message", "progress"):
                assert await events.event() == await socket.next(kind)

    async def test_each_id_is_the_whole_cursor(self, one: RunningReplica) -> None:
        """Fails if the id leaves out a channel, or runs ahead of or behind the event it stands with."""
        async with EventSource(one.url, user="alice", channels="news,run:7") as events:
            for _ in range(4):
                await events.event()
            channels = ("news", "#alice", "run:7")
            start = {channel: at(events, channel) for channel in channels}
            for number in range(1, 4):
                await publish(one, "news", number)
                await publish(one, "#alice", number)
                await publish(one, "run:7", {"progress": number})
            for number in range(1, 4):
                for index, channel in enumerate(channels):
                    await events.event()
                    for other_index, other in enumerate(channels):
                        expected = number if other_index <= index else number - 1
                        assert at(events, other).offset == start[other].offset + expected, (channel, other)

    async def test_a_run_counts_as_seen_only_with_its_state(self, one: RunningReplica) -> None:
        """Fails if a stream that is cut between `subscribed` and `initial_state` says that the run was seen."""
        await publish(one, "run:7", {"progress": 10})
        async with EventSource(one.url, user="alice", channels="run:7") as events:
            await events.event()
            assert (await events.event())["type"] == "subscribed"
            assert parse_cursor(events.last_event_id).position_in("run:7") is None
            assert (await events.event())["type"] == "initial_state"
            assert at(events, "run:7").offset == 1

    async def test_last_event_id_goes_on_and_wins(self, one: RunningReplica) -> None:
        """Fails if a browser that comes back misses or repeats something, or its URL's old cursor counts again."""
        async with EventSource(one.url, user="alice", channels="news") as events:
            await events.next("subscribed")
            old = events.last_event_id
            await publish(one, "news", 1)
            await events.next("message")
        await publish(one, "news", 2)
        await publish(one, "#alice", "mine")
        async with EventSource(
            one.url, user="alice", channels="news", cursor=old, last_event_id=events.last_event_id
        ) as again:
            got = [(await again.next("message"))["data"] for _ in range(2)]
            assert sorted(map(str, got)) == ["2", "mine"]
            assert [(await again.next("subscribed"))["recovered"] for _ in range(2)] == [True, True]
        async with EventSource(one.url, user="alice", channels="news", cursor=old) as from_url:
            assert [(await from_url.next("message"))["data"] for _ in range(3)] == ["mine", 1, 2]

    async def test_a_channel_that_is_not_asked_for_is_not_told(self, one: RunningReplica) -> None:
        """Fails if a cursor opens channels: what the URL names is what the stream holds."""
        async with EventSource(one.url, user="alice", channels="news,other") as events:
            for _ in range(2):
                await events.next("subscribed")
        async with EventSource(one.url, user="alice", last_event_id=events.last_event_id) as narrow:
            assert (await narrow.event())["type"] == "connected"
            assert (await narrow.event())["channel"] == "#alice"
            await publish(one, "news", 1)
            await publish(one, "#alice", 2)
            assert (await narrow.event())["data"] == 2
            assert parse_cursor(narrow.last_event_id).position_in("news") is None
            assert at(narrow, "#alice").offset == 1

    async def test_a_users_events_reach_that_user_only(self, start_replica: StartReplica) -> None:
        """S4.1: fails if an event for a user is heard by another, or only on the replica where it was raised."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with (
            EventSource(one.url, user="고양이") as here,
            EventSource(two.url, user="고양이") as there,
            EventSource(one.url, user="eve") as eve,
        ):
            for events in (here, there, eve):
                await events.next("connected")
            await two.replica.manager.publish("#고양이", "secret")
            for events in (here, there):
                assert (await events.next("message"))["data"] == "secret"
            await one.replica.manager.send_message("고양이", "whisper")
            for events in (here, there):
                assert (await events.next("message"))["data"] == "whisper"
            await one.replica.manager.publish("#eve", "yours")
            assert (await eve.event())["data"] == "yours"

    @pytest.mark.slow
    async def test_keep_alives(self, start_replica: StartReplica) -> None:
        """Fails if a quiet stream sends nothing: proxies would cut it."""
        one = await start_replica(redis_url=None, ping={"interval_s": 1})
        async with EventSource(one.url, user="alice") as events:
            await events.next("connected")
            reading = asyncio.create_task(events.event())
            await eventually(lambda: events.comments >= 2)
            reading.cancel()
            await asyncio.wait([reading])

    async def test_a_client_of_others_reads_it(self, start_replica: StartReplica) -> None:
        """Fails if the usual `json.loads(event.data)` of httpx-sse meets an event without data.

        As `retry` and each keep-alive were, when they were blocks of their own.
        """
        one = await start_replica(redis_url=None, ping={"interval_s": 1})
        async with (
            http_client(one.url, timeout=30) as http,
            aconnect_sse(http, "GET", "/sse", params={"user": "alice", "channel": "orders:1,2"}) as source,
        ):
            events = source.aiter_sse()
            first = await anext(events)
            assert first.retry == 1000
            kinds = [json.loads(first.data)["type"], json.loads((await anext(events)).data)["type"]]
            assert kinds == ["connected", "subscribed"]
            publishing = asyncio.create_task(self._publish_later(one, "orders:1,2"))
            message = await anext(events)  # behind two keep-alives
            assert json.loads(message.data)["data"] == "late"
            assert parse_cursor(message.id).position_in("orders:1,2") is not None
            await publishing

    async def _publish_later(self, replica: RunningReplica, channel: str) -> None:
        await asyncio.sleep(2.2)
        await publish(replica, channel, "late")

    async def test_an_id_does_not_grow_with_names(self, start_replica: StartReplica) -> None:
        """Fails if a small event of a stream with many channels carries all of their names."""
        one = await start_replica(redis_url=None)
        channels = [f"ns:{number}:{'x' * 300}" for number in range(98)]
        params = [("user", "alice"), *(("channel", channel) for channel in channels)]
        last_id = await self._told(one, params, len(channels))
        for channel in channels[::7]:
            await publish(one, channel, channel)
        await publish(one, "#alice", "mine")
        missed, recovered = [], 0
        async with (
            http_client(one.url, timeout=30, headers={"Last-Event-ID": last_id}) as http,
            aconnect_sse(http, "GET", "/sse", params=params) as source,
        ):
            async for event in source.aiter_sse():
                assert len(event.id) <= 1024
                frame = json.loads(event.data)
                if frame["type"] == "message":
                    missed.append(frame["data"])
                recovered += frame["type"] == "subscribed" and frame["recovered"]
                if len(missed) == len(channels[::7]) + 1 and recovered == len(channels) + 1:
                    break
        assert missed == ["mine", *channels[::7]]

    async def _told(self, replica: RunningReplica, params: list[tuple[str, str]], count: int) -> str:
        """The last id once all channels are subscribed to."""
        async with (
            http_client(replica.url, timeout=30) as http,
            aconnect_sse(http, "GET", "/sse", params=params) as source,
        ):
            async for event in source.aiter_sse():
                count -= json.loads(event.data)["type"] == "subscribed"
                if count == 0:
                    return event.id
        raise AssertionError("the stream has ended")

    async def test_old_ids_stay_good(self, one: RunningReplica) -> None:
        """Fails if a client that comes back with an id with names, as older replicas gave, misses something."""
        async with EventSource(one.url, user="alice", channels="news") as events:
            await events.next("subscribed")
            whole = format_cursor({channel: at(events, channel) for channel in ("#alice", "news")})
        await publish(one, "news", 1)
        async with EventSource(one.url, user="alice", channels="news", last_event_id=whole) as again:
            assert (await again.next("message"))["data"] == 1

    async def test_a_piece_has_its_size_with_the_ids(self, one: RunningReplica) -> None:
        """Fails if many small events are written at once with ids that nobody has counted."""
        sizes: list[int] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sizes.append(len(message.get("body", b"")))

        manager = one.replica.manager
        channels = [f"c{number}" for number in range(98)]
        query = "&".join(["user=alice", *(f"channel={channel}" for channel in channels)])
        scope = {"type": "http", "method": "GET", "path": "/sse", "query_string": query.encode(), "headers": []}

        async def receive() -> MutableMapping[str, Any]:
            await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        streaming = asyncio.create_task(one.replica.app(scope, receive, send))
        await eventually(lambda: one.replica.hub.channels == 99)
        [connection] = list(one.replica.hub)
        connection.outbox.pause()
        for number in range(3000):
            await manager.publish("c1", number)
        connection.outbox.resume()
        await eventually(lambda: sum(sizes) > 3000 * 800)
        assert max(sizes) < PIECE_BYTES + 2000
        streaming.cancel()
        await asyncio.wait([streaming])

    async def test_one_encoding_serves_all_streams(self, one: RunningReplica) -> None:
        """Fails if an event is encoded once for each stream."""
        async with (
            EventSource(one.url, user="alice", channels="news") as alice,
            EventSource(one.url, user="bob", channels="news") as bob,
        ):
            for events in (alice, bob):
                await events.next("subscribed")
            outboxes = [connection.outbox for connection in one.replica.hub]
            for outbox in outboxes:
                outbox.pause()
            await publish(one, "news", 1)
            frames = [outbox._frames[-1] for outbox in outboxes]
            assert frames[0] is frames[1]
            for outbox in outboxes:
                outbox.resume()
            for events in (alice, bob):
                assert (await events.next("message"))["data"] == 1

    async def test_two_thousand_that_were_missed_come_in_order(self, start_replica: StartReplica) -> None:
        """Fails if a long history is cut at a page or a piece, or the reader's pace is not waited for."""
        one = await start_replica(redis_url=None, channels={"page": 100})
        for number in range(2000):
            await publish(one, "logs:big", [number, "x" * 2000])
        async with EventSource(one.url, user="alice", channels="logs:big") as events:
            numbers = [(await events.next("message", within_s=20))["data"][0] for _ in range(2000)]
            assert numbers == list(range(2000))
        assert one.replica.telemetry.slow_closes == 0


class TestRefusals:
    async def test_what_cannot_be_is_said_before_the_stream(self, start_replica: StartReplica) -> None:
        """Fails if a bad request begins a stream, is a fault of the server, leaves a connection or says nothing."""
        one = await start_replica(
            redis_url=None,
            namespaces={"closed": {"client_subscribe": False}},
            limits={"channels_per_connection": 3},
        )
        bad: list[tuple[dict[str, Any], int, str]] = [
            ({}, 400, "bad_request"),
            ({"user": ""}, 400, "bad_request"),
            ({"user": "x" * 300}, 400, "bad_request"),
            ({"user": "a\nb"}, 400, "bad_request"),
            ({"user": "alice", "cursor": "nonsense"}, 400, "bad_request"),
            ({"user": "alice", "channels": "x" * 600}, 400, "bad_request"),
            ({"user": "alice", "channels": "news,#"}, 400, "bad_request"),
            ({"user": "alice", "channels": "news,,other"}, 400, "bad_request"),
            ({"user": "alice", "channel": ""}, 400, "bad_request"),
            ({"user": "alice", "cursor": "~nonsense"}, 400, "bad_request"),
            ({"user": "alice", "channels": "news,#bob"}, 403, "not_allowed"),
            ({"user": "alice", "channels": "closed:1"}, 403, "not_allowed"),
            ({"user": "alice", "channels": "a,b,c,d"}, 400, "channel_limit"),
        ]
        for params, status, code in bad:
            async with EventSource(one.url, **params) as events:
                assert events.response.status_code == status, params
                error = await events.error()
                assert error["code"] == code, params
                assert error["message"]
            assert one.replica.hub.connections == 0

    async def test_bytes_that_are_no_text(self, one: RunningReplica) -> None:
        """Fails if %FF in the URL becomes another user, or a fault of the server."""
        async with http_client(one.url) as http:
            for query in ("user=%FF", "user=alice&channels=%ED%A0%80", "user=alice&cursor=%FF%3D1"):
                answer = await http.get(f"/sse?{query}")
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request"), query

    async def test_only_so_many_connections_of_a_user(self, start_replica: StartReplica) -> None:
        """Fails if streams do not count as sockets do: 429, and room again once one has left."""
        one = await start_replica(redis_url=None, limits={"connections_per_user": 2})
        async with Client(one.url, user="alice"), EventSource(one.url, user="alice") as events:
            await events.next("connected")
            async with EventSource(one.url, user="alice") as third:
                assert third.response.status_code == 429
                assert (await third.error())["code"] == "connection_limit"
                assert "retry-after" in third.response.headers
        await eventually(lambda: one.replica.hub.connections == 0)
        async with EventSource(one.url, user="alice") as events:
            assert events.response.status_code == 200

    async def test_a_draining_replica_sends_it_elsewhere(self, one: RunningReplica) -> None:
        """Fails if a request that nginx could hand on is answered with anything but 503."""
        one.replica.node._health.begin_draining()
        async with EventSource(one.url, user="alice") as events:
            assert events.response.status_code == 503
            assert (await events.error())["code"] == "unavailable"

    async def test_other_methods(self, one: RunningReplica) -> None:
        """Fails if HEAD holds a stream open that nobody can read, or a POST begins one."""
        async with http_client(one.url) as http:
            for method in ("HEAD", "POST", "DELETE"):
                answer = await http.request(method, "/sse?user=alice")
                assert (answer.status_code, answer.headers["allow"]) == (405, "GET, OPTIONS")
        assert one.replica.hub.connections == 0


class TestToken:
    async def test_in_jwt_mode_the_token_says_who_it_is(self, start_replica: StartReplica) -> None:
        """Fails if a stream is opened without a good token, or for whom the client names."""
        one = await start_replica(redis_url=None, auth=JWT)
        for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Basic {token()}"}):
            async with EventSource(one.url, user="alice", headers=headers) as events:
                assert events.response.status_code == 401
                assert (await events.error())["code"] == "invalid_token"
                assert events.response.headers["www-authenticate"] == "Bearer"
        async with EventSource(one.url, user="eve", headers={"Authorization": f"Bearer {token('alice')}"}) as events:
            assert (await events.next("connected"))["user"] == "alice"

    async def test_the_stream_ends_when_the_token_does(self, start_replica: StartReplica) -> None:
        """Fails if a stream outlives its token, or ends without saying why."""
        one = await start_replica(redis_url=None, auth=JWT)
        headers = {"Authorization": f"Bearer {token('alice', expires_in=soon())}"}
        async with EventSource(one.url, headers=headers) as events:
            assert (await events.ended())[-1] == {
                "type": "disconnect",
                "code": 3005,
                "reason": "the token has expired",
            }
        await eventually(lambda: one.replica.hub.connections == 0)


class TestOrigins:
    ALLOWED = "https://app.example.org"

    async def test_pages_of_other_origins_are_refused(self, start_replica: StartReplica) -> None:
        """Fails if a page from anywhere may read a user's events, or an allowed one may not."""
        one = await start_replica(redis_url=None, allowed_origins=(self.ALLOWED,))
        own = one.url
        for origin, status, told in (
            ("https://evil.test", 403, None),
            ("null", 403, None),
            (own, 200, None),
            (self.ALLOWED, 200, self.ALLOWED),
            ("https://app.example.org.evil.test", 403, None),
        ):
            async with EventSource(one.url, user="alice", headers={"Origin": origin}) as events:
                assert events.response.status_code == status, origin
                assert events.response.headers.get("access-control-allow-origin") == told
                assert events.response.headers["vary"] == "Origin"

    async def test_preflights(self, start_replica: StartReplica) -> None:
        """Fails if a page of an allowed origin cannot send its token in a header, or any other can."""
        one = await start_replica(redis_url=None, allowed_origins=(self.ALLOWED,))
        asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
        async with http_client(one.url) as http:
            for path in ("/sse", "/api/poll", "/api/runs/42"):
                answer = await http.options(path, headers={"Origin": self.ALLOWED, **asked})
                assert answer.status_code == 204
                assert answer.headers["access-control-allow-origin"] == self.ALLOWED
                assert "authorization" in answer.headers["access-control-allow-headers"].lower()
                assert answer.headers["access-control-allow-methods"] == "GET"
                refused = await http.options(path, headers={"Origin": "https://evil.test", **asked})
                assert refused.status_code == 403
                assert "access-control-allow-origin" not in refused.headers


class TestEnd:
    async def test_a_drain_sends_it_on_and_nothing_is_missed(self, start_replica: StartReplica) -> None:
        """Fails if a stream is cut without `reconnect` and a clean end, or coming back loses something."""
        one = await start_replica("replica-1", drain={"grace_s": 0.3, "window_s": 0})
        two = await start_replica("replica-2")
        async with EventSource(one.url, user="alice", channels="news") as events:
            await events.next("subscribed")
            await publish(two, "news", 1)
            one.server.handle_exit(SIGTERM, None)
            told = await events.ended()
            assert [each["type"] for each in told] == ["message", "reconnect", "disconnect"]
            whole = parse_cursor(told[1]["cursor"])
            assert whole == {channel: at(events, channel) for channel in ("#alice", "news")}
            assert told[2]["code"] == 3001
        await one.task
        await publish(two, "news", 2)
        async with EventSource(two.url, user="alice", channels="news", last_event_id=events.last_event_id) as again:
            assert (await again.next("message"))["data"] == 2

    async def test_a_client_that_leaves_is_forgotten_at_once(self, one: RunningReplica) -> None:
        """Fails if a closed tab stays connected, or leaves a task behind."""
        before = asyncio.all_tasks()
        async with EventSource(one.url, user="alice", channels="news") as events:
            await events.next("subscribed")
            assert one.replica.hub.connections == 1
        await eventually(lambda: one.replica.hub.connections == 0, within_s=3)
        await eventually(
            lambda: not [task for task in asyncio.all_tasks() - before if task.get_name().startswith("stream-")]
        )
        assert one.replica.hub.channels == 0

    async def test_one_that_leaves_in_the_middle_of_its_history(self, start_replica: StartReplica) -> None:
        """Fails if the catching up goes on for nobody, or leaves the channel followed for ever."""
        one = await start_replica(redis_url=None, channels={"page": 20})
        for number in range(300):
            await publish(one, "logs:big", [number, "x" * 20_000])
        async with EventSource(one.url, user="alice", channels="logs:big") as events:
            await events.next("message")
        await eventually(lambda: one.replica.hub.connections == 0, within_s=3)
        assert one.replica.channels.joining._pending == {}

    async def test_one_that_does_not_read_is_ended_and_the_others_go_on(self, start_replica: StartReplica) -> None:
        """Fails if a stalled reader holds memory without end, or its neighbours, or its TCP connection stays."""
        one = await start_replica(redis_url=None, limits={"outbox_bytes": 65_536})
        stalled = await stalled_stream(one, "alice")
        async with EventSource(one.url, user="bob", channels="news") as bob:
            await bob.next("subscribed")
            await eventually(lambda: len(one.replica.hub.subscribers("news")) == 2)
            for number in range(400):
                await publish(one, "news", [number, "x" * 50_000])
                assert (await bob.next("message"))["data"][0] == number
                if one.replica.hub.count("alice") == 0:
                    break
            assert one.replica.hub.count("alice") == 0
            assert one.replica.telemetry.slow_closes == 1
            assert one.replica.hub.count("bob") == 1
            await eventually(lambda: len(one.server.server_state.connections) == 1)  # bob's: the other one is cut
        stalled.close()

    async def test_one_that_reads_again_in_time_is_told_why(self, one: RunningReplica) -> None:
        """Fails if a slow reader that can be told is not told: 3008, and its id says from where to go on."""
        async with EventSource(one.url, user="alice", channels="news") as events:
            await events.next("subscribed")
            [connection] = list(one.replica.hub)
            overfill(connection.outbox)
            await publish(one, "news", 1)
            told = await events.ended()
            assert told[-1]["type"] == "disconnect"
            assert told[-1]["code"] == 3008
            assert all(each["type"] != "message" for each in told)
        async with EventSource(one.url, user="alice", channels="news", last_event_id=events.last_event_id) as again:
            assert (await again.next("message"))["data"] == 1


class TestWithoutRedis:
    async def test_a_stream_stays_open_and_goes_on(self, start_replica: StartReplica, own_redis: RedisServer) -> None:
        """Fails if Redis takes the streams with it, or what was published after its return does not arrive."""
        one = await start_replica(redis_url=own_redis.url)
        async with EventSource(one.url, user="alice", channels="news") as events:
            await events.next("subscribed")
            own_redis.restart()
            await eventually(lambda: not one.replica.node.ready, within_s=10)
            await eventually(lambda: one.replica.node.ready, within_s=10)
            await publish(one, "news", "after")
            kinds = [await events.next("message", "subscribed", within_s=10)]
            while kinds[-1]["type"] != "message":
                assert kinds[-1]["recovered"] is False, "the log was lost, and that is said"
                kinds.append(await events.next("message", "subscribed", within_s=10))
            assert kinds[-1]["data"] == "after"

    @pytest.mark.usefixtures("short_timeout")
    async def test_one_that_begins_without_redis_joins_later(
        self, start_replica: StartReplica, own_redis: RedisServer
    ) -> None:
        """Fails if an EventSource, which cannot ask again, never gets its channel."""
        one = await start_replica(redis_url=own_redis.url)
        two = await start_replica("replica-2", redis_url=own_redis.url)
        async with EventSource(one.url, user="alice", channels="news") as events:
            await events.next("subscribed")
            cursor = events.last_event_id
        await publish(one, "news", 1)
        own_redis.freeze()
        try:
            await eventually(lambda: not one.replica.node.ready, within_s=10)
            opening = EventSource(one.url, user="alice", channels="news", last_event_id=cursor)
            async with opening as events:
                assert (await events.next("connected", within_s=10))["user"] == "alice"
                for channel in ("#alice", "news"):
                    error = await events.next("error", within_s=10)
                    assert error["code"] == "unavailable"
                    assert repr(channel) in error["message"]
                own_redis.thaw()
                assert (await events.next("message", within_s=15))["data"] == 1
                await eventually(lambda: two.replica.node.ready, within_s=10)
                await publish(two, "news", 2)
                assert (await events.next("message", within_s=15))["data"] == 2
        finally:
            own_redis.thaw()


async def stalled_stream(replica: RunningReplica, user: str) -> socket.socket:
    """A client that asks for the stream and never reads it."""
    host, port = replica.url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (host, int(port)))
    await loop.sock_sendall(client, f"GET /sse?user={user}&channels=news HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return client


def overfill(outbox: Outbox[Any]) -> None:
    """As if the client had not read for long: the next frame is one too many."""
    outbox.pause()
    outbox._bytes = outbox._limit_bytes
