"""Centrifuge clients without a WebSocket: streams, posted commands, and clients that only listen."""

import asyncio
import json
import logging
from typing import Any

import pytest
from websockets.asyncio.client import connect

from heliograph.cluster.admission import Admission
from heliograph.cluster.presence import Presence
from heliograph.codecs.centrifuge.messages import REPLY
from heliograph.codecs.centrifuge.wire import delimited
from heliograph.codecs.varint import read_varint
from heliograph.hub.connection import Connection
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.emulated import EmulatedClient
from tests.support.http import http_client
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, token
from tests.support.waiting import eventually

PATHS = ["http_stream", "sse"]


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    return await start_replica(redis_url=None, namespaces={"cursors": {"ephemeral": True}})


class TestStreams:
    @pytest.mark.parametrize("path", PATHS)
    async def test_commands_and_publications(self, one: RunningReplica, path: str) -> None:
        """Fails if a client without a WebSocket cannot do what one with it can."""
        async with EmulatedClient(one.url, path, user="alice") as alice, Client(one.url, user="bob") as bob:
            assert alice.connected["subs"].keys() == {"#alice"}
            assert alice.connected["node"] == one.replica.bus.node_id
            subscribed = await alice.call("subscribe", channel="news")
            assert subscribed["recoverable"]
            await alice.call("publish", channel="news", data={"글": "안녕\n🚀"})
            assert await alice.publications("news", 1) == [{"글": "안녕\n🚀"}]
            await bob.send("alice", "hello")
            assert await alice.publications("#alice", 1) == ["hello"]
            history = await alice.call("history", channel="news", limit=10)
            assert [each["data"] for each in history["publications"]] == [{"글": "안녕\n🚀"}]
            await alice.call("unsubscribe", channel="news")
        await eventually(lambda: not one.replica.hub.count("alice"))

    async def test_several_commands_in_one_post(self, one: RunningReplica) -> None:
        """Fails if the commands of one post are not carried out in order."""
        async with EmulatedClient(one.url, user="alice") as alice:
            commands = [{"id": 90, "subscribe": {"channel": "news"}}]
            commands += [{"id": 100 + n, "publish": {"channel": "news", "data": n}} for n in range(20)]
            assert await alice.post("\n".join(map(json.dumps, commands))) == 204
            assert await alice.publications("news", 20) == list(range(20))

    async def test_the_session_is_a_secret_of_its_client(self, one: RunningReplica) -> None:
        """Fails if a name that others are told lets them send for a client, or a wrong one is taken."""
        async with EmulatedClient(one.url, user="alice") as alice:
            assert alice.connected["session"] != alice.connected["client"]
            frame = json.dumps({"id": 5, "publish": {"channel": "#bob", "data": 1}})
            assert await alice.post(frame, session=alice.connected["client"]) == 404
            assert await alice.post(frame, node="0123456789abcdef") == 404
            assert await alice.post(frame, session="") == 400
            assert await alice.post("") == 400

    async def test_it_ends_when_the_client_goes(self, one: RunningReplica) -> None:
        """Fails if the session outlives its stream."""
        async with EmulatedClient(one.url, user="alice") as alice:
            session, node = alice.connected["session"], alice.connected["node"]
        await eventually(lambda: not one.replica.hub.count("alice"))
        async with http_client(one.url) as http:
            body = {"session": session, "node": node, "data": "{}"}
            answer = await http.post("/emulation", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert not one.replica.forwarding._takers


async def publish(replica: RunningReplica, channel: str, *values: Any) -> None:
    for value in values:
        await replica.replica.manager.publish(channel, value)


class TestTheEnd:
    @pytest.mark.parametrize(("code", "reconnects"), [(3503, False), (3001, True), (4700, False)])
    async def test_a_stream_says_why_it_ends(self, one: RunningReplica, code: int, reconnects: bool) -> None:
        """Fails if a client is not told whether to come back, or the stream does not end."""
        path = "sse" if reconnects else "http_stream"
        async with EmulatedClient(one.url, path, user="alice") as alice:
            await one.replica.user_commands.disconnect_user("alice", code=code, reason="그만")
            push = await alice.push("disconnect")
            assert (push["code"], push["reason"], push.get("reconnect", False)) == (code, "그만", reconnects)
            await alice.ended()
            assert await alice.post("{}") == 404

    async def test_a_client_that_answers_no_ping(self, start_replica: StartReplica) -> None:
        """Fails if a stream whose client has gone silently stays, or answers that are posted do not count."""
        one = await start_replica(redis_url=None, ping={"interval_s": 1, "timeout_s": 1})
        async with (
            EmulatedClient(one.url, user="alice") as alice,
            EmulatedClient(one.url, user="bob", pongs=False) as bob,
        ):
            assert (await bob.push("disconnect"))["code"] == 3012
            await alice.call("subscribe", channel="news")

    async def test_a_draining_replica(self, start_replica: StartReplica) -> None:
        """Fails if the client is not sent elsewhere, or a new one is let in."""
        one = await start_replica(redis_url=None, drain={"grace_s": 0, "window_s": 0})
        async with EmulatedClient(one.url, user="alice") as alice:
            stopping = asyncio.create_task(one.stop())
            assert (await alice.push("disconnect"))["code"] == 3001
            await alice.ended()
            await stopping

    async def test_a_client_that_posts_without_awaiting_answers(
        self, one: RunningReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if posts that wait for a slow command are kept without end, or answered as if they were taken."""
        until = asyncio.Event()
        real = Presence.clients

        async def slow(self: Presence, channel: str) -> Any:
            await until.wait()
            return await real(self, channel)

        monkeypatch.setattr(Presence, "clients", slow)
        async with EmulatedClient(one.url, user="alice") as alice:
            frames = [json.dumps({"id": 100, "presence": {"channel": "chat:1"}})]
            frames += [json.dumps({"id": 200 + n, "publish": {"channel": "news", "data": n}}) for n in range(90)]
            posts = [asyncio.create_task(alice.post(frame)) for frame in frames]
            assert (await alice.push("disconnect"))["code"] == 3509
            until.set()
            assert 404 in await asyncio.gather(*posts)


class TestOnAnotherReplica:
    async def test_posts_reach_the_session_in_order(self, start_replica: StartReplica) -> None:
        """Fails if a command is lost, doubled or changes places because it was posted to another replica."""
        one, two, three = await asyncio.gather(*(start_replica(f"replica-{number}") for number in (1, 2, 3)))
        async with EmulatedClient(one.url, user="alice", posts_to=two.url) as alice:
            await alice.call("subscribe", channel="news")
            for number in range(30):
                await alice.call("publish", channel="news", data=number)
            frames = [json.dumps({"id": 500 + n, "publish": {"channel": "news", "data": 30 + n}}) for n in range(60)]
            async with http_client(three.url) as elsewhere:
                mine = alice.posts
                for number, frame in enumerate(frames):
                    alice.posts = (mine, elsewhere)[number % 2]
                    assert await alice.post(frame) == 204
                alice.posts = mine
            assert await alice.publications("news", 90) == list(range(90))
            await one.stop()
            await alice.ended()
            assert await alice.post("{}") == 404


class TestRequests:
    async def test_what_is_no_request(self, one: RunningReplica) -> None:
        """Fails if a mistake is answered with a stream that never says so, or breaks the server."""
        async with http_client(one.url) as http:
            for method, path, status in (
                ("GET", "/connection/http_stream", 405),
                ("POST", "/connection/sse", 405),
                ("GET", "/emulation", 405),
            ):
                assert (await http.request(method, path)).status_code == status, path
            large = "x" * 70_000
            assert (await http.post("/connection/http_stream", content=large)).status_code == 413
            assert (await http.post("/emulation", content=large * 2)).status_code == 413
            body = {"session": "s", "node": "n", "data": large}
            assert (await http.post("/emulation", json=body)).status_code == 413
            for content in (b"", b"[]", b"{", b"\xff", b'{"session":"s","node":"n","data":5}'):
                answer = await http.post("/emulation", content=content)
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request"), content
            for content in (b"", b"{", b'{"id":1,"subscribe":{"channel":"news"}}'):
                answer = await http.post("/connection/http_stream", content=content)
                last = json.loads(answer.text.splitlines()[-1])
                assert last["push"]["disconnect"]["code"] == 3501, content

    async def test_a_client_that_leaves_in_the_middle_of_its_body(
        self, one: RunningReplica, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if anybody can fill the log with errors by leaving."""
        host, port = one.url.removeprefix("http://").split(":")
        for path in ("/emulation", "/connection/http_stream"):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\n{{".encode())
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()
            await writer.wait_closed()
        await asyncio.sleep(0.1)
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_what_a_refused_request_brings_is_not_carried_out(
        self, start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if a client is let in, for a moment, by a request that was refused because of its URL."""
        one = await start_replica(redis_url=None, auth=JWT)
        seen: list[str] = []
        connect = Admission.connect

        async def noted(self: Admission, connection: Connection) -> None:
            seen.append(connection.user)
            await connect(self, connection)

        monkeypatch.setattr(Admission, "connect", noted)
        async with EmulatedClient(one.url, query="?token=secret", token=token("alice")) as alice:
            assert alice.connected["push"]["disconnect"]["code"] == 3500
            await alice.ended()
        assert seen == []

    async def test_pages_of_other_origins(self, start_replica: StartReplica) -> None:
        """Fails if a page may post for a user whose origin is not allowed, or one that is allowed may not."""
        one = await start_replica(redis_url=None, allowed_origins=["https://app.example"])
        async with http_client(one.url) as http:
            for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
                headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
                preflight = await http.options("/emulation", headers=headers)
                assert ("access-control-allow-origin" in preflight.headers) == allowed
                if allowed:
                    assert "Content-Type" in preflight.headers["access-control-allow-headers"]
                answer = await http.post("/connection/http_stream", content=b"{", headers={"Origin": origin})
                assert answer.status_code == (200 if allowed else 403)

    async def test_tokens(self, start_replica: StartReplica) -> None:
        """Fails if a stream is open to anybody where tokens are needed."""
        one = await start_replica(redis_url=None, auth=JWT)
        async with EmulatedClient(one.url, token=token("alice")) as alice:
            assert alice.connected["subs"].keys() == {"#alice"}
        async with EmulatedClient(one.url, user="alice") as nobody:
            assert nobody.connected["push"]["disconnect"]["code"] == 3500

    async def test_protobuf(self, one: RunningReplica) -> None:
        """Fails if a client with the binary format gets another, or its posts are not read."""
        async with http_client(one.url, timeout=5) as http:
            headers = {"Content-Type": "application/octet-stream"}
            request = delimited(b"\x08\x01" + b"\x22" + delimited(b"\x12" + delimited(b'{"user":"bob"}')))
            async with http.stream("POST", "/connection/http_stream", content=request, headers=headers) as stream:
                assert stream.headers["content-type"] == "application/octet-stream"
                parts = stream.aiter_raw()
                data = await anext(parts)
                size, begin = read_varint(data, 0, len(data))
                connected = REPLY.decode(data, begin, begin + size).connect
                publish = b"\x0a" + delimited(b"#bob") + b"\x12" + delimited(b"[7]")
                command = delimited(b"\x08\x02" + b"\x3a" + delimited(publish))
                node, session = connected.node.encode(), connected.session.encode()
                post = b"\x0a" + delimited(node) + b"\x12" + delimited(session) + b"\x1a" + delimited(command)
                answer = await http.post("/emulation", content=post, headers=headers)
                assert answer.status_code == 204
                assert b"[7]" in await anext(parts)
                assert (await http.post("/emulation", content=b"\x0a\x05", headers=headers)).status_code == 400


class TestOnlyListening:
    @pytest.mark.parametrize("path", ["uni_http_stream", "uni_sse"])
    async def test_streams(self, one: RunningReplica, path: str) -> None:
        """Fails if a client that only listens gets anything but pushes, or not what it may have."""
        await publish(one, "news", 1)
        async with EmulatedClient(one.url, path, user="alice", query="?channels=news") as alice:
            assert alice.connected["subs"].keys() == {"#alice", "news"}
            assert "pong" not in alice.connected
            await publish(one, "news", 2)
            await publish(one, "#alice", {"글": "안녕\n"})
            assert await alice.publications("news", 1) == [2]
            assert await alice.publications("#alice", 1) == [{"글": "안녕\n"}]
            await one.replica.user_commands.disconnect_user("alice")
            assert (await alice.push("disconnect"))["code"] == 3503
            await alice.ended()

    @pytest.mark.parametrize(("method", "path"), [("POST", "uni_http_stream"), ("GET", "uni_sse")])
    async def test_the_request_may_be_missing(self, one: RunningReplica, method: str, path: str) -> None:
        """Fails if the URL alone cannot say who a client is and what it wants, as `curl -N` and `EventSource` ask."""
        async with (
            http_client(one.url) as http,
            http.stream(method, f"/connection/{path}?user=alice&channels=news") as answer,
            asyncio.timeout(5),
        ):
            line = await anext(line async for line in answer.aiter_lines() if "{" in line)
            connected = json.loads(line.removeprefix("data: "))
            assert connected["connect"]["subs"].keys() == {"#alice", "news"}

    async def test_it_continues_where_it_was(self, one: RunningReplica) -> None:
        """Fails if a client that comes back misses what was published meanwhile."""
        await publish(one, "#alice", 1)
        async with EmulatedClient(one.url, "uni_http_stream", user="alice") as alice:
            position = alice.connected["subs"]["#alice"]
        await publish(one, "#alice", 2, 3)
        since = {"#alice": {"recover": True, "epoch": position["epoch"], "offset": position["offset"]}}
        async with EmulatedClient(one.url, "uni_http_stream", user="alice", subs=since) as alice:
            assert alice.connected["subs"]["#alice"]["recovered"]
            assert await alice.publications("#alice", 2) == [2, 3]

    async def test_a_socket(self, one: RunningReplica) -> None:
        """Fails if a socket that only listens is closed because it answers no ping, or for what it sends."""
        url = one.url.replace("http", "ws", 1)
        async with connect(f"{url}/connection/uni_websocket", proxy=None) as socket:
            await socket.send('{"data":{"user":"alice"}}')
            assert json.loads(await socket.recv())["connect"]["subs"].keys() == {"#alice"}
            await socket.send('{"data":{"user":"bob"}}')
            await publish(one, "#alice", 1)
            assert json.loads(await socket.recv()) == {"channel": "#alice", "pub": {"data": 1, "offset": 1}}
        async with connect(f"{url}/connection/uni_websocket?cf_protocol=protobuf", proxy=None) as socket:
            await socket.send('{"data":{"user":"alice"}}')
            assert json.loads(await socket.recv())["connect"]["subs"].keys() == {"#alice"}, "there is no other format"
        async with connect(f"{url}/connection/uni_websocket", proxy=None) as socket:
            await socket.send("[")
            await socket.wait_closed()
            assert socket.close_code == 3501

    async def test_pings(self, start_replica: StartReplica) -> None:
        """Fails if a client that only listens is not pinged, or is expected to answer."""
        one = await start_replica(redis_url=None, ping={"interval_s": 1, "timeout_s": 1})
        async with EmulatedClient(one.url, "uni_sse", user="alice") as alice:
            for _ in range(3):
                await alice._next(lambda each: each == {})
            await publish(one, "#alice", 1)
            assert await alice.publications("#alice", 1) == [1]
