"""The WebSocket endpoint over real sockets: handshake, first frame, bad input, limits, what comes and goes."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from heliograph.codecs.plain.cursor import parse_cursor
from heliograph.transports.dispatch import MOST_UNDER_WAY
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.raw_socket import BINARY, CONTINUATION, PING, PONG, TEXT, RawSocket
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    """One replica without Redis."""
    return await start_replica(redis_url=None)


class TestHandshake:
    async def test_a_draining_replica_sends_the_client_elsewhere(self, one: RunningReplica) -> None:
        """Fails if a handshake is accepted (or refused with a code nginx does not pass on) while draining: 503."""
        one.replica.node._health.begin_draining()
        async with RawSocket(one.url, "/ws?user=alice") as raw:
            assert raw.status == 503
            assert b"shutting down" in await raw.body()
        assert one.replica.telemetry.connections_refused == 1
        assert one.replica.hub.connections == 0

    async def test_a_connection_that_was_accepted_just_before_is_closed_with_3001(self, one: RunningReplica) -> None:
        """Fails if a client that connects while the drain begins is registered and then forgotten by it."""
        async with Client(one.url) as client:
            one.replica.node._health.begin_draining()
            await client.say({"type": "connect", "user": "alice"})
            assert await client.close_code() == 3001
        assert one.replica.hub.connections == 0

    async def test_a_page_of_another_origin_is_refused(self, start_replica: StartReplica) -> None:
        """Fails if any page in a user's browser may open a socket in their name: 403."""
        one = await start_replica(redis_url=None, allowed_origins=("https://app.example.org",))
        host = one.url.removeprefix("http://")
        statuses = {}
        for origin in ("https://evil.test", "null", "http://[", f"http://{host}", "https://app.example.org", None):
            headers = {} if origin is None else {"Origin": origin}
            async with RawSocket(one.url, "/ws?user=alice", headers=headers) as raw:
                statuses[origin] = raw.status
        assert list(statuses.values()) == [403, 403, 403, 101, 101, 101]
        assert one.replica.telemetry.connections_refused == 3

    async def test_a_refusal_is_no_error_of_the_server(
        self, one: RunningReplica, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if each refused handshake is logged as a fault: a drain, or a bot, would bury the real ones."""
        async with RawSocket(one.url, "/ws?user=alice", headers={"Origin": "https://evil.test"}) as raw:
            assert raw.status == 403
        one.replica.node._health.begin_draining()
        async with RawSocket(one.url, "/ws?user=alice") as raw:
            assert raw.status == 503
            await raw.body()
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []

    async def test_other_paths_are_not_the_door(self, one: RunningReplica) -> None:
        """Fails if a socket can be opened anywhere, or plain HTTP on /ws breaks something."""
        for path in ("/ws/", "/ws/users", "/wss", "/", "/health"):
            async with RawSocket(one.url, path) as raw:
                assert raw.status in (403, 404), path
        async with http_client(one.url) as http:
            assert (await http.get("/ws")).status_code in (400, 404, 426)

    async def test_no_compression_is_agreed_on(self, one: RunningReplica) -> None:
        """Fails if permessage-deflate is on by default: it has a risk that one has to know."""
        headers = {"Sec-WebSocket-Extensions": "permessage-deflate"}
        async with RawSocket(one.url, "/ws?user=alice", headers=headers) as raw:
            assert raw.status == 101
            assert "permessage-deflate" not in raw.head


class TestFirstFrame:
    async def test_nobody_says_anything(self, start_replica: StartReplica) -> None:
        """Fails if a client that never says who it is keeps its socket: 3501 after connect_timeout."""
        one = await start_replica(redis_url=None, limits={"connect_timeout_s": 0.2})
        async with Client(one.url) as silent, Client(one.url) as pinging, Client(one.url, user="alice") as alice:

            async def keep_pinging() -> None:
                while True:
                    await pinging.say({"type": "ping"})
                    await asyncio.sleep(0.02)

            task = asyncio.create_task(keep_pinging())
            assert await silent.close_code() == 3501
            assert await pinging.close_code() == 3501, "pings do not put it off"
            task.cancel()
            await asyncio.wait([task])
            await alice.nothing_more()  # who is connected has all the time in the world

    async def test_something_else_first_is_an_error_and_3501(self, one: RunningReplica) -> None:
        """Fails if a stranger can send, or is closed without being told why."""
        async with Client(one.url) as client, Client(one.url, user="bob") as bob:
            await client.say({"type": "send", "to": "bob", "data": 1, "id": 3})
            error = await client.next("error")
            assert (error["code"], error["id"]) == ("bad_request", 3)
            assert await client.close_code() == 3501
            await bob.nothing_more()

    async def test_a_user_who_cannot_be_one_is_told_so(self, one: RunningReplica) -> None:
        """Fails if a bad id in the URL is accepted, changed into another, or ends in a fault of the server."""
        for user in ("", "%00", "x" * 300, "%FF%FE", "%ED%A0%80"):
            async with Client(one.url, path=f"/ws?user={user}") as client:
                error = await client.next("error")
                assert error["code"] == "bad_request"
                assert "user id" in error["message"]
                assert await client.close_code() == 3501
        assert one.replica.hub.connections == 0

    async def test_bytes_that_are_no_utf8_in_the_path_are_told_so(self, one: RunningReplica) -> None:
        """Fails if /ws/users/%FF becomes some other user (U+FFFD): two clients would share what neither asked for."""
        async with Client(one.url, path="/ws/users/%FF") as client:
            frame = await client.next("error", "connected")
            assert (frame["type"], frame.get("code")) == ("error", "bad_request")

    async def test_raw_bytes_in_the_url_break_nothing(
        self, one: RunningReplica, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a request line that is not ASCII makes the server log a fault of its own."""
        async with RawSocket(one.url, b"/ws?user=\xec\x95\x88") as raw:
            if raw.status == 101:
                code, _ = await raw.closed()
                assert code == 3501
            else:
                assert raw.status == 400
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    async def test_connecting_twice_is_an_error_and_nothing_else(self, one: RunningReplica) -> None:
        """Fails if a second connect changes who the client is, or ends the connection."""
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "connect", "user": "mallory", "id": 5})
            assert (await alice.next("error", id=5))["code"] == "bad_request"
            await alice.send("alice", 1)
            assert (await alice.next("message"))["from"] == "alice"

    async def test_ping_is_answered_before_and_after_connect(self, one: RunningReplica) -> None:
        """Fails if `pong` (S1.3) depends on being connected, or loses the id."""
        async with Client(one.url) as client:
            await client.say({"type": "ping"})
            assert await client.next("pong") == {"type": "pong"}
            await client.say({"type": "connect", "user": "alice"})
            connected = await client.next("connected")
            assert connected.pop("session")
            assert parse_cursor(connected.pop("cursor"))["#alice"].offset == 0
            assert connected == {"type": "connected", "user": "alice", "replica": "replica-1", "ping": 25}
            await client.say({"type": "ping", "id": "x"})
            assert await client.next("pong", id="x") == {"type": "pong", "id": "x"}


class TestBadFrames:
    async def test_each_is_answered_and_none_ends_the_connection(self, one: RunningReplica) -> None:
        """Fails if a bad frame costs the client its connection, is not answered, or is answered out of order."""
        frames = {
            "nonsense": "bad_json",
            "[1]": "bad_request",
            '{"type":"teleport"}': "unknown_type",
            '{"type":"send"}': "bad_request",
            '{"type":"send","to":"bob","data":NaN}': "bad_json",
            '{"type":"send","to":"bob","data":1e999}': "bad_request",
            '{"type":"send","to":"bob","data":"\\ud800"}': "bad_json",
            '{"type":"send","to":"bob","data":' + "[" * 33 + "]" * 33 + "}": "too_deep",
            "[" * 60_000: "too_deep",
            '{"type":"send","to":"","data":1}': "bad_request",
            json.dumps({"type": "send", "to": "x" * 300, "data": 1}): "bad_request",
            '{"type":"send","to":"a\\u0000b","data":1}': "bad_request",
        }
        async with Client(one.url, user="alice") as alice:
            for frame in frames:
                await alice.say(frame)
            errors = [await alice.next("error") for _ in frames]
            assert [error["code"] for error in errors] == list(frames.values())
            assert all(error["timestamp"].endswith("Z") and error["message"] for error in errors)
            assert (await alice.send("alice", "fine"))["delivery"] == "local"
        assert +Counter(one.replica.telemetry.frames_refused) == Counter(frames.values())

    async def test_no_depth_is_a_fault_of_the_server(
        self, one: RunningReplica, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a client can make the server fail (1011) with a frame that is nested just as deep as it goes."""
        async with Client(one.url, user="alice") as alice:
            for levels in range(850, 1010):
                await alice.say('{"type":"send","to":"bob","data":' + "[" * levels + "]" * levels + "}")
                assert (await alice.next("error"))["code"] == "too_deep"

    async def test_a_frame_that_is_too_large_is_1009(self, one: RunningReplica) -> None:
        """Fails if the limit on frames is not the setting's, or ends in another code."""
        async with Client(one.url, user="alice") as alice:
            frame = '{"type":"send","to":"alice","data":"%s"}'
            await alice.say(frame % ("x" * (65_536 - len(frame) + 2)))
            assert len((await alice.next("message"))["data"]) > 65_000
            await alice.say(frame % ("x" * (65_536 - len(frame) + 3)))
            await eventually(lambda: one.replica.hub.connections == 0, within_s=3)
            assert await alice.close_code(within_s=8) == 1009

    async def test_a_client_that_sent_too_much_is_let_go_soon(self, one: RunningReplica) -> None:
        """Fails if the TCP connection stays open until it is cut (5 s): `onclose` comes when it ends."""
        async with Client(one.url, user="alice") as alice:
            await alice.say("x" * 70_000)
            assert await alice.close_code(within_s=2) == 1009

    async def test_a_binary_frame_is_1003(self, one: RunningReplica) -> None:
        """Fails if bytes are taken for text, or crash the reader."""
        async with Client(one.url, user="alice") as alice:
            await alice.socket.send(b'{"type":"ping"}')
            assert await alice.close_code() == 1003
        await eventually(lambda: one.replica.hub.connections == 0)

    async def test_text_that_is_no_utf8_ends_the_connection(self, one: RunningReplica) -> None:
        """Fails if broken UTF-8 in a text frame gets anywhere (RFC 6455: 1007)."""
        async with RawSocket(one.url, "/ws?user=alice") as raw:
            await raw.send(TEXT, b'{"type":"ping","id":"\xff"}')
            assert (await raw.closed())[0] == 1007
        await eventually(lambda: one.replica.hub.connections == 0)

    async def test_too_many_frames_are_dropped_and_said_to_be(self, start_replica: StartReplica) -> None:
        """Fails if one connection may ask for any amount, or a refusal costs it the connection."""
        one = await start_replica(redis_url=None, limits={"messages_per_second": 5})
        async with Client(one.url, user="alice") as alice, Client(one.url, user="bob") as bob:
            for number in range(20):
                await alice.say({"type": "send", "to": "bob", "data": number})
            answers = [(await alice.next("ack", "error")) for _ in range(20)]
            errors = [answer for answer in answers if answer["type"] == "error"]
            assert {error["code"] for error in errors} == {"rate_limited"}
            passed = 20 - len(errors)
            assert 5 <= passed <= 7, "a burst of one second's worth, and what came back meanwhile"
            assert (await bob.messages(passed))[:5] == list(range(5)), "the first ones pass, in order"
            assert (await bob.send("alice", "others are not limited"))["type"] == "ack"

    async def test_a_frame_that_was_dropped_is_answered_with_its_id(self, start_replica: StartReplica) -> None:
        """Fails if a client cannot tell which of its frames was dropped (docs/protocol.md says it can)."""
        one = await start_replica(redis_url=None, limits={"messages_per_second": 1})
        async with Client(one.url, user="alice") as alice:
            for number in range(3):
                await alice.say({"type": "ping", "id": number})
            assert (await alice.next("pong"))["id"] == 0
            errors = [await alice.next("error") for _ in range(2)]
            assert [(error["code"], error.get("id")) for error in errors] == [
                ("rate_limited", 1),
                ("rate_limited", 2),
            ]


class TestMessages:
    async def test_users_on_different_replicas_in_both_directions(self, start_replica: StartReplica) -> None:
        """Fails if a socket of one replica does not reach a socket of another one, with its path written in it."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with (
            Client(one.url, user="alice") as alice,
            Client(two.url, user="bob") as phone,
            Client(one.url, user="bob") as laptop,
        ):
            assert (await alice.send("bob", {"text": "안녕"}))["delivery"] == "remote"
            for device in (phone, laptop):
                message = await device.next("message")
                assert message["data"] == {"text": "안녕"}
                assert (message["from"], message["origin"], message["channel"]) == ("alice", "replica-1", "#bob")
                await device.nothing_more()
            assert (await phone.send("alice", "잘 가"))["delivery"] == "remote"
            assert await alice.messages(1) == ["잘 가"]
            await alice.nothing_more()
            assert (await alice.send("nobody", 1))["delivery"] == "stored"

    async def test_each_socket_once_from_each_of_three_replicas(self, start_replica: StartReplica) -> None:
        """Fails if a socket is missed or written to twice, whichever replica a message is sent on."""
        names = ("replica-1", "replica-2", "replica-3")
        replicas = await asyncio.gather(*(start_replica(name) for name in names))
        clients = [Client(replica.url, user="bob") for replica in replicas]
        for client in clients:
            await client.__aenter__()
        try:
            for number, client in enumerate(clients):
                await client.send("bob", number)
            for client in clients:
                assert sorted(await client.messages(3)) == [0, 1, 2]
                await client.nothing_more()
        finally:
            await asyncio.gather(*(client.socket.close() for client in clients))

    async def test_what_is_sent_before_the_greeting_comes_after_it(
        self, start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if the endpoint does not hold a connection back until it is greeted, or a message passes it by."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        hold, may_go_on = one.replica.directory.hold, asyncio.Event()

        async def slow_hold(user_id: str) -> int | None:
            total = await hold(user_id)
            await may_go_on.wait()
            return total

        async with Client(one.url, user="alice") as alice, Client(two.url, user="carol") as carol:
            monkeypatch.setattr(one.replica.directory, "hold", slow_hold)
            async with RawSocket(one.url, "/ws?user=bob") as bob:
                await eventually(lambda: one.replica.hub.count("bob") == 1)
                assert (await alice.send("bob", "local", ephemeral=True))["delivery"] == "local"
                received = one.replica.bus.stats.received
                assert (await carol.send("bob", "remote", ephemeral=True))["delivery"] == "remote"
                await eventually(lambda: one.replica.bus.stats.received > received)
                may_go_on.set()
                frames = [json.loads((await bob.frame())[1]) for _ in range(3)]
                assert [frame.get("data", frame["type"]) for frame in frames] == ["connected", "local", "remote"]

    async def test_a_message_in_fragments_is_one_message(self, one: RunningReplica) -> None:
        """Fails if continuation frames are taken for messages, or a ping between them breaks the message."""

        def pieces() -> Iterator[str]:
            text = json.dumps({"type": "send", "to": "alice", "data": "안" * 100}, ensure_ascii=False)
            yield from (text[at : at + 7] for at in range(0, len(text), 7))

        async def async_pieces() -> AsyncIterator[str]:
            for piece in pieces():
                yield piece

        async with Client(one.url, user="alice") as alice:
            await alice.socket.send(async_pieces())
            assert await alice.messages(1) == ["안" * 100]
        async with RawSocket(one.url, "/ws?user=alice") as raw:
            payload = '{"type":"send","to":"alice","data":"한"}'.encode()
            await raw.send(TEXT, payload[:37], fin=False)  # within a character
            await raw.send(PING, b"between")
            await raw.send(CONTINUATION, payload[37:])
            await raw.next("connected")
            assert await raw.frame() == (PONG, b"between")
            assert (await raw.next("message"))["data"] == "한"

    async def test_fragments_together_may_not_be_larger_than_a_frame(self, one: RunningReplica) -> None:
        """Fails if the limit can be passed piece by piece."""
        async with RawSocket(one.url, "/ws?user=alice") as raw:
            await raw.send(TEXT, b"x" * 40_000, fin=False)
            await raw.send(CONTINUATION, b"x" * 40_000)
            assert (await raw.closed())[0] == 1009

    async def test_a_protocol_ping_of_the_client_is_answered(self, one: RunningReplica) -> None:
        """Fails if a WebSocket ping (not the JSON one) is not answered with its payload."""
        async with RawSocket(one.url, "/ws?user=alice") as raw:
            await raw.next("connected")
            await raw.send(PING, b"payload")
            assert await raw.frame() == (PONG, b"payload")

    async def test_a_large_burst_arrives_whole_and_in_order(self, one: RunningReplica) -> None:
        """Fails if frames of different sizes are joined wrongly, lost or put out of order."""
        sizes = [0, 1, 50, 125, 126, 200, 5_000, 60_000] * 12
        async with Client(one.url, user="alice") as alice, Client(one.url, user="bob") as bob:
            for number, size in enumerate(sizes):
                await alice.say({"type": "send", "to": "bob", "data": [number, "x" * size]})
            assert await bob.messages(len(sizes)) == [[number, "x" * size] for number, size in enumerate(sizes)]
            for _ in sizes:
                await alice.next("ack")


class TestFaults:
    async def test_redis_absent_is_unavailable_and_heals(
        self, start_replica: StartReplica, own_redis: RedisServer
    ) -> None:
        """Fails if a message to nobody here is acknowledged without Redis, or clients must connect anew."""
        one = await start_replica("replica-1", redis_url=own_redis.url)
        two = await start_replica("replica-2", redis_url=own_redis.url)
        async with Client(one.url, user="alice") as alice, Client(two.url, user="bob") as bob:
            own_redis.stop()
            error = await alice.send("bob", "lost")
            assert (error["type"], error["code"]) == ("error", "unavailable")
            async with Client(one.url, user="alice") as phone:
                assert (await phone.send("alice", "local", ephemeral=True))["delivery"] == "local"
                assert await alice.messages(1) == ["local"]
            own_redis.start()

            async def heard() -> bool:
                return (await alice.send("bob", "back")).get("delivery") == "remote"

            await eventually(heard)
            await eventually(lambda: one.replica.node.ready and two.replica.node.ready)
            await alice.send("bob", "the end")
            got: list[Any] = []
            while got[-1:] != ["the end"]:
                got += await bob.messages(1)
            assert "lost" not in got

    @pytest.mark.usefixtures("short_timeout")
    async def test_what_was_perhaps_sent_is_repeated_with_its_key(
        self, start_replica: StartReplica, own_redis: RedisServer
    ) -> None:
        """Fails if a client that is told `unavailable` while Redis is frozen, and sends again, is heard twice."""
        one = await start_replica(redis_url=own_redis.url, directory={"lease_ttl_s": 10})
        async with Client(one.url, user="alice") as alice, Client(one.url, user="bob") as bob:
            await alice.send("bob", "before")
            own_redis.freeze()
            answers = [await alice.send("bob", number, idempotency_key=f"k{number}") for number in range(3)]
            assert [each["code"] for each in answers] == ["unavailable"] * 3
            # What was written to a Redis that says nothing may have been taken; what was not written was not.
            assert "perhaps delivered" in answers[0]["message"]
            assert "idempotency_key" in answers[0]["message"]
            assert all(
                "perhaps delivered" in text or text.startswith("not delivered")
                for text in (each["message"] for each in answers)
            )
            own_redis.thaw()

            async def again(number: int) -> bool:
                return bool((await alice.send("bob", number, idempotency_key=f"k{number}"))["type"] == "ack")

            for number in range(3):
                await eventually(lambda: again(number))  # noqa: B023 - called within this iteration
            await alice.send("bob", "the end")
            assert await bob.messages(5) == ["before", 0, 1, 2, "the end"]

    async def test_a_key_is_its_users_own(self, one: RunningReplica) -> None:
        """Fails if one user can learn of another's messages, or swallow them, by naming the same key; or if a
        client's key is taken for one of a program's."""
        manager = one.replica.manager
        async with Client(one.url, user="alice") as alice, Client(one.url, user="eve") as eve:
            kept = await manager.publish("#bob", "from the server", idempotency_key="k")
            acks = [await each.send("bob", 1, idempotency_key="k") for each in (alice, eve, alice)]
            assert acks[0]["message_id"] == acks[2]["message_id"] != acks[1]["message_id"]
            assert kept.message_id not in {each["message_id"] for each in acks}
            await alice.say({"type": "publish", "channel": "news", "data": 1, "idempotency_key": "k", "id": "a"})
            await alice.say({"type": "publish", "channel": "news", "data": 1, "idempotency_key": "k", "id": "b"})
            first, second = await alice.next("ack", id="a"), await alice.next("ack", id="b")
            assert (first["message_id"], first["cursor"]) == (second["message_id"], second["cursor"])
            for bad in ("", "k" * 129, 1):
                assert (await alice.send("bob", 1, idempotency_key=bad))["code"] == "bad_request"

    async def test_a_fault_of_the_router_ends_that_connection_alone(
        self, one: RunningReplica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if an unforeseen error leaves a socket half alive, hurts others, or is swallowed without a word."""

        def failing() -> str:
            raise ZeroDivisionError("boom")

        async with Client(one.url, user="alice") as alice, Client(one.url, user="bob") as bob:
            with monkeypatch.context() as patch:
                patch.setattr(one.replica.manager._stamp, "_timestamp", failing)
                await alice.say({"type": "send", "to": "bob", "data": 1})
                assert await alice.close_code() == 1011
            await eventually(lambda: one.replica.hub.count("alice") == 0)
            assert "ZeroDivisionError" in caplog.text
            assert (await bob.send("bob", 1))["type"] == "ack"

    async def test_a_fault_behind_the_answer_of_redis_ends_that_connection_alone(
        self, start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if an unforeseen error in a callback leaves a client without an answer, and its socket half alive."""
        one = await start_replica()
        stats = one.replica.bus.stats

        class Failing:
            """Counts everything but what has been published."""

            def __getattr__(self, name: str) -> Any:
                if name == "published":
                    raise ZeroDivisionError("boom")
                return getattr(stats, name)

        async with Client(one.url, user="alice") as alice, Client(one.url, user="bob") as bob:
            with monkeypatch.context() as patch:
                patch.setattr(one.replica.bus, "stats", Failing())
                await alice.say({"type": "send", "to": "bob", "data": 1})
                assert await alice.close_code() == 1011
            assert "ZeroDivisionError" in caplog.text
            assert (await bob.send("bob", 1))["type"] == "ack"

    async def test_no_client_has_any_number_of_messages_under_way(
        self, start_replica: StartReplica, own_redis: RedisServer
    ) -> None:
        """Fails if one client that sends without waiting fills what all share, or if the limit costs it a message."""
        one = await start_replica(redis_url=own_redis.url)
        async with Client(one.url, user="alice") as alice, Client(one.url, user="bob") as bob:
            own_redis.freeze()
            for number in range(3 * MOST_UNDER_WAY):
                await alice.say({"type": "send", "to": "bob", "data": number, "id": number})
            await asyncio.sleep(0.3)
            assert len(one.redis.client.link._outstanding) < 2 * MOST_UNDER_WAY
            own_redis.thaw()
            assert await bob.messages(3 * MOST_UNDER_WAY, within_s=10) == list(range(3 * MOST_UNDER_WAY))

    async def test_a_socket_whose_write_fails_is_dropped_alone(
        self, start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if a broken socket stays in the hub or the directory, or costs the user's other device a message."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with Client(one.url, user="bob") as phone, Client(one.url, user="bob") as laptop:

            def failing(frames: list[bytes]) -> None:
                raise OSError("no route to host")

            monkeypatch.setattr(next(iter(one.replica.hub)).outbox, "_write", failing)
            async with Client(two.url, user="alice") as alice:
                await alice.send("bob", "hi")
                await eventually(lambda: one.replica.hub.count("bob") == 1)
                await alice.send("bob", "again")
                codes = []
                for device in (phone, laptop):
                    try:
                        assert await device.messages(2) == ["hi", "again"]
                    except Exception:  # noqa: BLE001 - whatever the client raises for a closed socket
                        codes.append(await device.close_code())
                assert codes == [1011]

    async def test_limits_on_connections_say_come_back_later(self, start_replica: StartReplica) -> None:
        """Fails if a user may have any number of sockets over the replicas, or a refused one counts."""
        limits = {"connections_per_user": 2, "connections": 3}
        one, two = await start_replica("replica-1", limits=limits), await start_replica("replica-2", limits=limits)
        async with Client(one.url, user="bob") as first, Client(two.url, user="bob"):
            for replica in (one, two):
                async with Client(replica.url, path="/ws?user=bob") as refused:
                    assert await refused.close_code() == 3010
                    assert refused.socket.close_reason == "a user may have 2 connections"
            a, b, refused = Client(one.url, user="a"), Client(one.url, user="b"), Client(one.url, path="/ws?user=c")
            async with a, b, refused:
                assert await refused.close_code() == 3010
            await first.nothing_more()
            assert one.replica.telemetry.connections_refused == 2
        await eventually(lambda: one.replica.hub.connections == two.replica.hub.connections == 0)
        async with Client(two.url, user="bob"), Client(one.url, user="bob"):
            pass

    async def test_a_client_that_closes_is_forgotten_at_once(self, start_replica: StartReplica) -> None:
        """Fails if a closed connection is still counted, here or in the directory."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with Client(one.url, user="bob"):
            pass
        await eventually(lambda: one.replica.hub.connections == 0, within_s=3)
        async with Client(two.url, user="alice") as alice:

            async def offline() -> bool:
                return bool((await alice.send("bob", "?"))["delivery"] == "stored")

            await eventually(offline, within_s=3)

    async def test_binary_never_reaches_the_codec(self, one: RunningReplica) -> None:
        """Fails if a binary frame before connect is treated as anything but 1003."""
        async with RawSocket(one.url, "/ws") as raw:
            await raw.send(BINARY, b"\x00\x01")
            assert (await raw.closed())[0] == 1003
