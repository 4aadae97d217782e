"""The user's backend decides: the driver awaits it, the client's later frames wait, and everybody else goes on."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from starlette.responses import Response
from websockets.asyncio.client import connect

import heliograph
from tests.conftest import StartReplica
from tests.support.centrifuge import CentrifugeClient
from tests.support.client import Client
from tests.support.event_source import EventSource
from tests.support.http import http_client
from tests.support.lifecycle import short, told
from tests.support.replicas import RunningReplica
from tests.support.site import Site
from tests.support.tokens import JWT, token
from tests.support.waiting import eventually


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as site:
        yield site


Start = Callable[..., Awaitable[RunningReplica]]
DECIDES = ("subscribe", "publish", "rpc")


@pytest.fixture
def start(start_replica: StartReplica, site: Site) -> Start:
    """Start a replica in open mode whose site is asked about `asked:*` and about messages to users."""

    async def start(*hooks: str, timeout_s: float = 5, **options: Any) -> RunningReplica:
        free = {"subscribe_hook": False, "publish_hook": False}
        settings: dict[str, Any] = {
            "hooks": {**site.urls(*(hooks or DECIDES)), "timeout_s": timeout_s},
            "redis_url": None,
            **options,
        }
        if not hooks:
            asked = {"asked": {"presence": True}, "free": free, "#": {"publish_hook": True}}
            settings.setdefault("namespaces", asked)
        return await start_replica(**settings)

    return start


def deny(_: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": 1004, "message": "the backend says no"}}


class TestOrder:
    async def test_later_frames_of_that_client_wait(self, start: Start, site: Site) -> None:
        """Fails if a frame overtakes one whose hook has not answered, or is lost behind it."""
        one = await start()
        async with Client(one.url, user="alice") as alice:
            site.open.clear()
            await alice.say({"type": "publish", "channel": "asked:1", "data": 1, "id": 1})
            await alice.say({"type": "publish", "channel": "free:1", "data": 2, "id": 2})
            await alice.say({"type": "send", "to": "bob", "data": 3, "id": 3})
            await alice.say({"type": "subscribe", "channel": "asked:2", "id": 4})
            await alice.say({"type": "unsubscribe", "channel": "asked:2", "id": 5})
            await alice.say({"type": "rpc", "method": "price", "data": 6, "id": 6})
            await alice.say({"type": "ping", "id": 7})
            await eventually(lambda: site.under_way == 1)
            with pytest.raises(TimeoutError):
                await alice.next("ack", "error", "pong", within_s=0.1)
            assert [each["channel"] for _, each in site.asked] == ["asked:1"], "one at a time"
            site.open.set()
            kinds = ("ack", "error", "pong", "subscribed", "unsubscribed", "rpc")
            frames = [await alice.next(*kinds) for _ in range(7)]
        assert [(frame["type"], frame["id"]) for frame in frames] == [
            ("ack", 1),
            ("ack", 2),
            ("ack", 3),
            ("subscribed", 4),
            ("unsubscribed", 5),
            ("rpc", 6),
            ("pong", 7),
        ]
        assert frames[5]["data"] == {"method": "price", "got": 6}
        client = alice.connected["session"]
        about = {
            "client": client,
            "transport": "websocket",
            "protocol": "json",
            "encoding": "json",
            "user": "alice",
        }
        assert site.asked == [
            ("publish", {**about, "channel": "asked:1", "data": 1}),
            ("publish", {**about, "channel": "#bob", "data": 3}),
            ("subscribe", {**about, "channel": "asked:2"}),
            ("rpc", {**about, "method": "price", "data": 6}),
        ]

    async def test_nobody_else_waits(self, start: Start, site: Site) -> None:
        """Fails if one client's hook holds up another client, or what others send to the first."""
        one = await start(namespaces={})
        async with Client(one.url, user="alice") as alice, Client(one.url, user="bob") as bob:
            site.open.clear()
            await alice.say({"type": "publish", "channel": "asked:1", "data": 1, "id": 1})
            await eventually(lambda: site.under_way == 1)
            began = time.monotonic()
            for number in range(50):
                assert (await bob.send("alice", number))["type"] == "ack"
            assert await alice.messages(50) == list(range(50))
            assert time.monotonic() - began < 1
            site.open.set()
            await alice.next("ack", id=1)

    async def test_who_is_let_in_too_late_is_sent_on(self, start: Start, site: Site) -> None:
        """Fails if a hook that takes long lets a client in that a drain has not seen, and then waits for."""
        one = await start()
        site.open.clear()
        async with connect(f"{one.url.replace('http', 'ws', 1)}/ws?user=alice&channels=asked:1", proxy=None) as late:
            await eventually(lambda: site.under_way == 1)
            one.replica.node._health.begin_draining()
            site.open.set()
            await asyncio.wait_for(late.wait_closed(), 5)
            assert late.close_code == 3001

    @pytest.mark.parametrize("hook", ["subscribe", "publish", "rpc"])
    async def test_a_client_that_leaves_meanwhile_is_gone_at_once(self, start: Start, site: Site, hook: str) -> None:
        """Fails if a user stays online until a slow backend has answered a client that has left; or if what the
        client has published before is not delivered, or it is subscribed after its end."""
        one = await start(hook, timeout_s=30, namespaces={"asked": {}, "free": {"subscribe_hook": False}})
        channel = "asked:1" if hook == "subscribe" else "free:1"
        async with Client(one.url, user="bob") as bob:
            if hook != "subscribe":
                await bob.say({"type": "subscribe", "channel": channel})
                await bob.next("subscribed")
            site.open.clear()
            async with Client(one.url, user="alice") as alice:
                await alice.say({"type": hook, "channel": channel, "method": "x", "data": 1})
                await eventually(lambda: site.under_way == 1)
            await eventually(lambda: one.replica.hub.count("alice") == 0)
            assert (one.replica.hub.connections, site.under_way) == (1, 1)
            site.open.set()
            await eventually(lambda: site.under_way == 0)
            if hook == "publish":
                assert await bob.messages(1) == [1]
            await bob.nothing_more()
            await eventually(lambda: len(one.replica.hub.subscribers(channel)) == int(hook != "subscribe"))
            assert one.replica.hub.connections == 1

    async def test_a_client_that_leaves_meanwhile_leaves_nothing(self, start: Start, site: Site) -> None:
        """Fails if who has gone is put on the channel, or its connection is held for the hook's sake for ever."""
        one = await start()
        async with Client(one.url, user="alice") as alice:
            site.open.clear()
            await alice.say({"type": "subscribe", "channel": "asked:1"})
            await eventually(lambda: site.under_way == 1)
        site.open.set()
        await eventually(lambda: one.replica.hub.connections == 0)
        assert one.replica.hub.subscriptions == 0


async def test_the_python_client_needs_no_name(start: Start) -> None:
    """Fails if a client that says nothing of itself is not asked about, and waits until it is closed."""
    one = await start("connect", auth={"mode": "hook"})
    async with heliograph.connect(one.url) as alice:
        assert alice.state.user == "alice"


async def test_the_python_client_calls(start: Start, site: Site) -> None:
    """Fails if a call's result, or the backend's own code, does not reach the program."""
    one = await start("rpc")
    async with heliograph.connect(one.url, user="alice") as alice:
        assert await alice.rpc("price", {"id": 7}) == {"method": "price", "got": {"id": 7}}
        site.answers["rpc"] = deny
        with pytest.raises(heliograph.RequestRefused, match="the backend says no") as refused:
            await alice.rpc("price")
        assert refused.value.number == 1004


class TestVerdicts:
    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            ({"type": "publish", "channel": "asked:1", "data": 1}, "not_allowed"),
            ({"type": "send", "to": "bob", "data": 1}, "not_allowed"),
            ({"type": "subscribe", "channel": "asked:1"}, "not_allowed"),
            ({"type": "history", "channel": "asked:1"}, "not_allowed"),
            ({"type": "presence", "channel": "asked:1"}, "not_allowed"),
            ({"type": "rpc", "method": "price", "data": 1}, "not_allowed"),
        ],
        ids=lambda value: value["type"] if isinstance(value, dict) else value,
    )
    async def test_no_is_an_error_and_the_connection_goes_on(
        self, start: Start, site: Site, frame: dict[str, Any], code: str
    ) -> None:
        """Fails if one of the operations is not asked about, or is carried out although the hook says no."""
        one = await start()
        site.answers.update(dict.fromkeys(DECIDES, deny))
        async with Client(one.url, user="alice") as alice:
            await alice.say({**frame, "id": 1})
            error = await alice.next("error", id=1)
            assert (error["code"], error["message"]) == (code, "the backend says no")
            assert error["number"] == 1004
            await alice.nothing_more()
        assert len(site.asked) == 1

    async def test_the_backend_may_say_something_else(self, start: Start, site: Site) -> None:
        """Fails if subscribers get what the backend has replaced, or what it does not want kept is kept."""
        one = await start()
        site.answers["publish"] = lambda request: {
            "result": {"data": {"checked": request["data"]}, "b64data": None, "skip_history": request["data"] == 2}
        }
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "subscribe", "channel": "asked:1"})
            await alice.next("subscribed")
            for number in (1, 2):
                await alice.say({"type": "publish", "channel": "asked:1", "data": number})
            first, second = [await alice.next("message") for _ in range(2)]
            assert [first["data"], second["data"]] == [{"checked": 1}, {"checked": 2}]
            assert ["cursor" in message for message in (first, second)] == [True, False]

    async def test_the_backend_may_close_the_connection(self, start: Start, site: Site) -> None:
        """Fails if a client stays whom the backend sends away, or gets another code."""
        one = await start()
        site.answers["rpc"] = lambda _: {"disconnect": {"code": 4501, "reason": "banned"}}
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "rpc", "method": "x", "data": 1, "id": 1})
            assert await alice.close_code() == 4501
            assert alice.socket.close_reason == "banned"

    @pytest.mark.parametrize(
        "answer",
        [
            Response("", 500),
            Response("", 307, {"Location": "/rpc"}),
            Response("<html>"),
            Response("[]"),
            Response('{"result":5}'),
            Response('{"result":{"data":' + "[" * 60 + "]" * 60 + "}}"),
            Response('{"result":{"b64data":"***"}}'),
            Response(json.dumps({"result": {"data": "x" * 300_000}})),
            {"error": {"code": 100, "message": "internal server error"}},
            {"error": {"code": 1004, "message": "later", "temporary": True}},
        ],
        ids=["500", "redirect", "html", "list", "no object", "too deep", "no base64", "large", "100", "temporary"],
    )
    async def test_what_is_no_answer_allows_nothing(self, start: Start, site: Site, answer: Any) -> None:
        """Fails if what nobody has allowed is carried out, or the client is not told that it may try again."""
        one = await start()
        site.answers["publish"] = lambda _: answer
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "publish", "channel": "asked:1", "data": 1, "id": 1})
            assert (await alice.next("error", id=1))["code"] == "unavailable"
        assert len(site.asked) == 1, "it is not asked twice, and no redirect is followed"

    async def test_a_fault_of_ours_closes_that_connection(
        self, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a fault passes for a verdict, or is not logged."""
        one = await start()

        async def break_down(*_: object) -> None:
            raise RuntimeError("a fault in a hook")

        monkeypatch.setattr("heliograph.hooks.user_backend.UserBackend.decide", break_down)
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "publish", "channel": "asked:1", "data": 1, "id": 1})
            assert await alice.close_code() == 1011
        assert "a fault in a hook" in caplog.text


class TestConnect:
    async def test_who_leaves_before_the_answer_never_came(self, start_replica: StartReplica, site: Site) -> None:
        """Fails if a user is told to be online whose only client left while the backend was asked who it is."""
        hooks = {**site.urls("connect"), "timeout_s": 30}
        events = {"kinds": ["user_online", "user_offline"]}
        one = await start_replica(auth={"mode": "hook"}, hooks=hooks, events=events)
        site.open.clear()
        async with Client(one.url) as alice:
            await alice.say({"type": "connect"})
            await eventually(lambda: site.under_way == 1)
        site.open.set()
        await eventually(lambda: site.under_way == 0)
        site.answers["connect"] = lambda _: {"result": {"user": "bob"}}
        async with Client(one.url) as bob:
            await bob.say({"type": "connect"})
            await bob.next("connected")
            assert short(await told(one.redis.client, one.redis.keys)) == ["gap", "user_online bob"]

    async def test_a_cookie_says_who_a_page_is(self, start: Start, site: Site) -> None:
        """Fails if a browser's session does not reach the backend, or other headers do."""
        one = await start("connect", auth={"mode": "hook"}, trusted_proxies="")
        headers = {"Cookie": "sessionid=s3cret", "X-Custom": "no", "X-Forwarded-For": "1.2.3.4", "X-Request-Id": "r1"}
        site.answers["connect"] = lambda _: {
            "error": None,
            "result": {"user": "alice", "channels": ["news"], "data": {"theme": "dark"}, "info": None},
        }
        url = one.url.replace("http", "ws", 1) + "/ws"
        async with connect(url, origin=one.url, additional_headers=headers, proxy=None) as socket:  # type: ignore[arg-type]
            await socket.send('{"type":"connect","user":"mallory","id":1}')
            connected = json.loads(await socket.recv())
            assert (connected["user"], connected["id"], connected["data"]) == ("alice", 1, {"theme": "dark"})
            assert json.loads(await socket.recv())["channel"] == "news"
        [(hook, request)] = site.asked
        about = {"client": connected["session"], "transport": "websocket", "protocol": "json", "encoding": "json"}
        assert (hook, request) == ("connect", about)
        passed_on = site.headers[0]
        assert passed_on["cookie"] == "sessionid=s3cret"
        assert passed_on["x-forwarded-for"] == "127.0.0.1", "the address that we see, not what a client says"
        assert passed_on["x-request-id"] == "r1"
        assert passed_on["content-type"] == "application/json"
        assert "x-custom" not in passed_on

    @pytest.mark.parametrize(
        ("answer", "code", "close"),
        [
            ({"error": {"code": 1000, "message": "log in"}}, "not_allowed", 3507),
            ({"error": {"code": 111, "message": "busy"}}, "unavailable", 1013),
            ({"disconnect": {"code": 4501, "reason": "log in"}}, "not_allowed", 4501),
            ({"error": {"code": -1}}, "not_allowed", 3507),
            ({"disconnect": {"code": 99}}, "not_allowed", 3507),
            ({"result": None}, "not_allowed", 3507),
            ({"result": {"user": ""}}, "unavailable", 1013),
            ({"result": {"user": "alice", "channels": ["#bob"]}}, "unavailable", 1013),
            (Response("", 503), "unavailable", 1013),
        ],
    )
    async def test_who_is_not_let_in_hears_why(
        self, start: Start, site: Site, answer: Any, code: str, close: int
    ) -> None:
        """Fails if a client comes in against the backend's word, or cannot tell whether to come back."""
        one = await start("connect", auth={"mode": "hook"})
        site.answers["connect"] = lambda _: answer
        async with Client(one.url) as client:
            await client.say({"type": "connect"})
            assert (await client.next("error"))["code"] == code
            assert await client.close_code() == close
        assert one.replica.hub.connections == 0

    async def test_over_http_a_refusal_is_a_failed_attempt_too(self, start: Start, site: Site) -> None:
        """Fails if cookies can be tried out over HTTP as fast as the backend answers."""
        one = await start("connect", limits={"failed_attempts_per_minute": 1})
        site.answers["connect"] = deny
        async with http_client(one.url) as http:
            for _ in range(2):
                assert (await http.get("/api/poll")).status_code == 403
        assert one.replica.telemetry.failed_attempts == {"at_once": 1, "late": 1, "refused": 0}

    async def test_a_token_still_counts(self, start: Start, site: Site) -> None:
        """Fails if the backend is asked who the bearer of a token is, or a bad token becomes a question to it."""
        one = await start("connect", auth=JWT)
        async with Client(one.url) as dave:
            await dave.say({"type": "connect", "token": token("dave")})
            assert (await dave.next("connected"))["user"] == "dave"
        async with Client(one.url) as mallory:
            await mallory.say({"type": "connect", "token": "x.y.z"})
            assert await mallory.close_code() == 3500
        assert site.asked == []
        async with Client(one.url) as alice:
            await alice.say({"type": "connect"})
            assert (await alice.next("connected"))["user"] == "alice"

    async def test_in_hook_mode_a_token_is_none(self, start: Start, site: Site) -> None:
        """Fails if a token that nobody can check lets a client in, or is passed over."""
        one = await start("connect", auth={"mode": "hook"})
        async with Client(one.url) as client:
            await client.say({"type": "connect", "token": token("dave")})
            assert await client.close_code() == 3500

    async def test_streams_polls_and_tickets(self, start: Start, site: Site) -> None:
        """Fails if a cookie is worth less to an endpoint over HTTP than to a socket."""
        one = await start("connect", auth={"mode": "hook"}, namespaces={"": {"client_subscribe": True}})
        cookie = {"Cookie": "sessionid=1"}
        async with http_client(one.url, headers=cookie) as http:
            counter = itertools.count()
            site.answers["connect"] = lambda _: {"result": {"user": "alice", "data": next(counter)}}
            first = (await http.get("/api/poll?channels=news")).json()
            assert first["user"] == "alice"
            await http.get("/api/poll", params={"channels": "news", "cursor": first["cursor"], "wait": 0})
            assert one.replica.hub.connections == 1, "the second poll continues the first"
            ticket = (await http.post("/api/ticket")).json()["ticket"]
            assert (await http.get("/api/runs/1")).status_code == 403
        async with EventSource(one.url, ticket=ticket, channels="news") as events:
            assert (await events.next("connected"))["user"] == "alice"
        assert [request["transport"] for _, request in site.asked] == ["poll", "poll", "http", "http"]
        site.answers["connect"] = lambda _: Response("", 500)
        async with http_client(one.url, headers=cookie) as http:
            refused = await http.get("/sse")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


class TestRefresh:
    async def test_the_backend_says_how_long_a_client_stays(self, start: Start, site: Site) -> None:
        """Fails if a client is cut although the backend renews it, or stays when the backend lets it expire; or the
        backend is not told what it has attached to the client."""
        one = await start("connect", "refresh", "rpc", auth={"mode": "hook"})
        site.answers["connect"] = lambda _: {
            "result": {"user": "alice", "expire_at": time.time() + 0.1, "meta": {"tenant": 7}}
        }
        renewals = iter(
            [
                {"result": {"expire_at": time.time() + 0.2, "meta": {"tenant": 8}}},
                {"result": {"expired": True}},
            ]
        )
        site.answers["refresh"] = lambda _: next(renewals)
        async with Client(one.url) as alice:
            await alice.say({"type": "connect"})
            await alice.next("connected")
            await eventually(lambda: len(site.of("refresh")) == 1)
            while not site.of("rpc") or site.of("rpc")[-1]["meta"] == {"tenant": 7}:
                await alice.say({"type": "rpc", "method": "x", "data": 1})
                await alice.next("rpc")
            assert await alice.close_code() == 3005
        assert [request["meta"] for request in site.of("refresh")] == [{"tenant": 7}, {"tenant": 8}]
        assert site.of("rpc")[-1]["meta"] == {"tenant": 8}

    async def test_a_backend_that_is_down_cuts_nobody(self, start: Start, site: Site) -> None:
        """Fails if a restart of the backend ends every connection whose time has come."""
        one = await start("connect", "refresh", auth={"mode": "hook"})
        site.answers["connect"] = lambda _: {"result": {"user": "alice", "expire_at": time.time() + 0.1}}
        site.answers["refresh"] = lambda _: Response("", 503)
        async with Client(one.url) as alice:
            await alice.say({"type": "connect"})
            await alice.next("connected")
            await eventually(lambda: len(site.of("refresh")) >= 1)
            await alice.nothing_more()

    async def test_without_a_refresh_hook_the_connection_ends(self, start: Start, site: Site) -> None:
        """Fails if a client stays longer than the backend has said."""
        one = await start("connect", auth={"mode": "hook"})
        site.answers["connect"] = lambda _: {"result": {"user": "alice", "expire_at": time.time() + 0.1}}
        async with Client(one.url) as alice:
            await alice.say({"type": "connect"})
            assert await alice.close_code() == 3005


class TestSubscriptions:
    async def test_the_backend_says_how_long_a_client_stays_on_a_channel(self, start: Start, site: Site) -> None:
        """Fails if a client leaves a channel although the backend renews its right, or stays when that has ended."""
        one = await start("subscribe", "sub_refresh")
        site.answers["subscribe"] = lambda _: {"result": {"expire_at": time.time() + 0.1}}
        renewals = iter([{"result": {"expire_at": time.time() + 0.2}}, {"result": {"expired": True}}])
        site.answers["sub_refresh"] = lambda _: next(renewals)
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "subscribe", "channel": "asked:1"})
            await alice.next("subscribed")
            await alice.next("unsubscribed", channel="asked:1")
            assert [asked["channel"] for asked in site.of("sub_refresh")] == ["asked:1"] * 2
        assert one.replica.hub.subscriptions == 0

    async def test_the_backend_may_close_the_connection_instead(self, start: Start, site: Site) -> None:
        """Fails if a client is only taken off a channel although the backend wants it gone."""
        one = await start("subscribe", "sub_refresh")
        site.answers["subscribe"] = lambda _: {"result": {"expire_at": time.time() + 0.05}}
        site.answers["sub_refresh"] = lambda _: {"disconnect": {"code": 4501, "reason": "banned"}}
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "subscribe", "channel": "asked:1"})
            assert await alice.close_code() == 4501

    async def test_nobody_is_asked_about_a_subscription_that_failed(self, start: Start, site: Site) -> None:
        """Fails if the backend is asked, again and again, about a channel that the client is not on."""
        one = await start("subscribe", "sub_refresh")
        site.answers["subscribe"] = lambda _: {"result": {"expire_at": time.time() + 0.05}}
        async with CentrifugeClient(one.url, user="alice") as alice:
            position = {"recover": True, "epoch": "of another time", "offset": 7, "flag": 2}
            assert (await alice.refused("subscribe", channel="asked:1", **position))["code"] == 112
            await asyncio.sleep(0.2)
            assert site.of("sub_refresh") == []

    async def test_a_backend_that_is_down_takes_nobody_off(self, start: Start, site: Site) -> None:
        """Fails if a restart of the backend ends subscriptions, or no refresh hook means that they last."""
        one = await start("subscribe", "sub_refresh")
        site.answers["subscribe"] = lambda _: {"result": {"expire_at": time.time() + 0.05}}
        site.answers["sub_refresh"] = lambda _: Response("", 503)
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "subscribe", "channel": "asked:1"})
            await eventually(lambda: len(site.of("sub_refresh")) == 1)
            assert await alice.only("unsubscribed") == []
        two = await start("subscribe")
        async with Client(two.url, user="alice") as alice:
            await alice.say({"type": "subscribe", "channel": "asked:1"})
            await alice.next("unsubscribed", channel="asked:1")

    async def test_presence_says_what_the_backend_does(self, start: Start, site: Site) -> None:
        """Fails if what the backend says of a client, and of it on one channel, does not reach the others."""
        one = await start("connect", "subscribe", auth={"mode": "hook"}, namespaces={"asked": {"presence": True}})
        site.answers["connect"] = lambda _: {
            "result": {"user": "alice", "info": {"name": "Alice"}, "subs": {"news": {}}, "channels": ["other"]}
        }
        site.answers["subscribe"] = lambda _: {
            "result": {"b64info": "eyJyb2xlIjoiYWRtaW4ifQ==", "data": {"topic": "tea"}, "expire_at": time.time() + 60}
        }
        async with CentrifugeClient(one.url) as alice:
            assert set(alice.connected["subs"]) == {"#alice", "news", "other"}
            assert site.of("subscribe") == [], "the connect hook has allowed those"
            subscribed = await alice.call("subscribe", channel="asked:1")
            assert subscribed["data"] == {"topic": "tea"}
            assert "expires" not in subscribed, "it has no token to renew"
            presence = (await alice.call("presence", channel="asked:1"))["presence"]
        [client] = presence.values()
        assert (client["user"], client["conn_info"], client["chan_info"]) == (
            "alice",
            {"name": "Alice"},
            {"role": "admin"},
        )

    async def test_options_of_channels_are_those_of_namespaces(
        self, start: Start, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a backend believes that it hides a client which everybody sees, and nobody tells it."""
        one = await start("subscribe")
        site.answers["subscribe"] = lambda _: {"result": {"override": {"presence": {"value": False}}}}
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "subscribe", "channel": "asked:1", "id": 1})
            assert (await alice.next("error", id=1))["code"] == "unavailable"
        assert "'override'" in caplog.text


class TestCentrifugeClients:
    async def test_connect_tells_the_backend_and_the_client(self, start: Start, site: Site) -> None:
        """Fails if what a client or the backend says of it when it connects does not reach the other."""
        one = await start("connect", "rpc", auth={"mode": "hook"})
        site.answers["connect"] = lambda _: {
            "result": {"user": "alice", "expire_at": time.time() + 60, "data": {"theme": "dark"}}
        }
        stated = {
            "data": {"tab": 1},
            "name": "js",
            "version": "5.3",
            "subs": {"news": {}},
            "headers": {"x-request-id": "r7", "cookie": "a=b", "X-Other": "no", "x-forwarded-for": "1.1.1.1"},
        }
        async with CentrifugeClient(one.url, connect=stated) as alice:
            assert alice.connected["data"] == {"theme": "dark"}
            assert "expires" not in alice.connected, "the server renews it, and no token of the client"
            assert (await alice.call("rpc", method="price", data=[1]))["data"] == {"method": "price", "got": [1]}
            site.answers["rpc"] = deny
            refused = await alice.refused("rpc", method="price", data=[1])
            assert refused == {"code": 1004, "message": "the backend says no"}
            site.answers["rpc"] = lambda _: Response("", 500)
            refused = await alice.refused("rpc", method="price", data=[1])
            assert (refused["code"], refused["temporary"]) == (100, True)
        asked = site.of("connect")[0]
        assert {key: asked[key] for key in ("data", "name", "version", "channels")} == {
            "data": {"tab": 1},
            "name": "js",
            "version": "5.3",
            "channels": ["news"],
        }
        passed_on = site.headers[0]
        assert (passed_on["x-request-id"], passed_on["cookie"]) == ("r7", "a=b")
        assert passed_on["x-forwarded-for"] == "127.0.0.1"
        assert "x-other" not in passed_on

    @pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "한글", "\x00", ""])
    async def test_a_header_that_is_none_is_not_passed_on(self, start: Start, site: Site, value: str) -> None:
        """Fails if a client can write a header of ours, or break the call by what it says."""
        one = await start("connect", auth={"mode": "hook"})
        async with CentrifugeClient(one.url, connect={"headers": {"Cookie": value}}) as alice:
            assert alice.connected["client"]
        assert not {"cookie", "x-injected"} & set(site.headers[0])

    @pytest.mark.parametrize(
        ("answer", "code", "close"),
        [
            ({"error": {"code": 1000, "message": "log in"}}, 1000, 3507),
            ({"disconnect": {"code": 4501, "reason": "log in"}}, None, 4501),
            (Response("", 503), None, 3004),
        ],
    )
    async def test_who_is_not_let_in_hears_why(
        self, start: Start, site: Site, answer: Any, code: int | None, close: int
    ) -> None:
        """Fails if an SDK comes back to a backend that said no, or gives up on one that is down."""
        one = await start("connect", auth={"mode": "hook"})
        site.answers["connect"] = lambda _: answer
        async with CentrifugeClient(one.url, connect=None) as client:
            await client.say({"id": 1, "connect": {}})
            if code is not None:
                assert (await client.reply({"id": 1}))["error"]["code"] == code
            assert await client.close_code() == close


class TestEveryEndpointAsks:
    async def test_websocket_whose_url_names_channels(self, start: Start, site: Site) -> None:
        """Fails if a channel in the URL is joined without the hook, or its refusal is not told."""
        one = await start()
        site.answers["subscribe"] = lambda asked: {"result": {}} if asked["channel"] == "asked:1" else deny(asked)
        async with Client(one.url, path="/ws?user=alice&channels=asked:1,asked:2") as alice:
            await alice.next("connected")
            assert (await alice.next("subscribed"))["channel"] == "asked:1"
            assert (await alice.next("error"))["code"] == "not_allowed"
            await one.replica.manager.publish("asked:1", "heard")
            await one.replica.manager.publish("asked:2", "unheard")
            assert await alice.messages(1) == ["heard"]
            await alice.nothing_more()

    async def test_sse(self, start: Start, site: Site) -> None:
        """Fails if a stream does not wait for the hook, or begins although it says no."""
        one = await start()
        site.open.clear()
        opening = asyncio.create_task(self._first_event(one))
        await eventually(lambda: site.under_way == 1)
        assert one.replica.hub.connections == 0, "it is not let in yet"
        site.open.set()
        assert (await opening)["channel"] == "asked:1"
        site.answers["subscribe"] = deny
        async with http_client(one.url) as http:
            answer = await http.get("/sse?user=alice&channels=asked:1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_allowed")

    async def _first_event(self, one: RunningReplica) -> dict[str, Any]:
        async with EventSource(one.url, user="alice", channels="asked:1") as events:
            return await events.next("subscribed")

    async def test_poll_and_runs(self, start: Start, site: Site) -> None:
        """Fails if a poll, or the latest of a run, is answered without the hook, or although it says no."""
        one = await start()
        await one.replica.manager.publish("run:1", {"state": "RUNNING", "progress": 5})
        paths = ("/api/poll?user=alice&channels=asked:1", "/api/runs/1")
        async with http_client(one.url) as http:
            assert [(await http.get(path)).status_code for path in paths] == [200, 200]
            assert [each["channel"] for each in site.of("subscribe")] == ["asked:1", "run:1"]
            site.answers["subscribe"] = deny
            assert [(await http.get(path)).status_code for path in paths] == [403, 403]
            site.answers["subscribe"] = lambda _: Response("", 500)
            assert [(await http.get(path)).status_code for path in paths] == [503, 503]
