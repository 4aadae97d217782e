"""The server API over HTTP: what programs may ask with a key, and what they are told when it cannot be done."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from heliograph.api.channel_reads import ANSWER_BYTES
from heliograph.api.direct_batch import IN_A_ROW
from heliograph.api.methods import MOST_QUESTIONS
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.site import Site
from tests.support.waiting import eventually

KEY = "a key of more than sixteen bytes"
OPTIONS: dict[str, Any] = {
    "api": {"key": KEY, "body_bytes": 4096, "batch": 5},
    "namespaces": {"chat": {"join_leave": False, "history_size": 50}, "cursors": {"ephemeral": True}},
}

Call = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["memory", "redis"])
async def one(request: pytest.FixtureRequest, start_replica: StartReplica) -> RunningReplica:
    """A replica with an API, with and without Redis: both answer alike."""
    if request.param == "memory":
        return await start_replica(redis_url=None, **OPTIONS)
    return await start_replica(**OPTIONS)


@pytest.fixture
async def http(one: RunningReplica) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"X-API-Key": KEY}
    async with http_client(one.url, headers=headers) as client:
        yield client


async def call(http: httpx.AsyncClient, method: str, /, **params: Any) -> Any:
    """The result of a method that is carried out."""
    answer = await http.post(f"/api/{method}", json=params)
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.json(), answer.text
    return answer.json() if method == "batch" else answer.json()["result"]


async def refused(http: httpx.AsyncClient, method: str, /, **params: Any) -> tuple[int, str]:
    """Code and text of what a method answers that is not carried out."""
    answer = await http.post(f"/api/{method}", json=params)
    assert answer.status_code == 200, answer.text
    error = answer.json()["error"]
    return error["code"], error["message"]


class TestPublishing:
    async def test_subscribers_get_it_and_the_answer_says_where_it_stands(
        self, one: RunningReplica, http: httpx.AsyncClient
    ) -> None:
        """Fails if a publication of a program does not reach clients, or its position is not the one they see."""
        async with Client(one.url, path="/ws?user=alice&channels=chat:우주") as alice:
            subscribed = await alice.next("subscribed")
            result = await call(http, "publish", channel="chat:우주", data={"글": "안녕 🚀"})
            message = await alice.next("message")
            assert message["data"] == {"글": "안녕 🚀"}
            assert "from" not in message
            assert result["offset"] == 1
            assert message["cursor"].endswith(f"={result['epoch']}.1")
            assert subscribed["cursor"].endswith(f"={result['epoch']}.0")

    async def test_a_user_is_addressed_by_their_own_channel(
        self, one: RunningReplica, http: httpx.AsyncClient
    ) -> None:
        """Fails if `#bob` is not bob."""
        async with Client(one.url, user="bob") as bob:
            assert (await call(http, "publish", channel="#bob", data=[1, 2]))["offset"] == 1
            assert await bob.messages(1) == [[1, 2]]

    async def test_what_is_not_kept_has_no_position(self, http: httpx.AsyncClient) -> None:
        """Fails if an ephemeral publication claims a place in a log."""
        assert await call(http, "publish", channel="cursors:1", data=1) == {}

    async def test_data_is_handed_on_byte_for_byte(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if data are parsed and written anew: large numbers, repeated keys and spaces would change."""
        data = '{"n": 123456789012345678901234567890, "a":1.0,"a":2}'
        async with Client(one.url, path="/ws?user=alice&channels=chat:1") as alice:
            await alice.next("subscribed")
            answer = await http.post("/api/publish", content=f'{{"channel":"chat:1","data":{data}}}')
            assert "result" in answer.json()
            frame = await alice.socket.recv()
            assert data in str(frame)

    async def test_a_repetition_with_the_same_key_is_published_once(
        self, one: RunningReplica, http: httpx.AsyncClient
    ) -> None:
        """Fails if a program that does not know whether it was heard cannot simply try again."""
        async with Client(one.url, path="/ws?user=alice&channels=chat:1") as alice:
            await alice.next("subscribed")
            first = await call(http, "publish", channel="chat:1", data=1, idempotency_key="k")
            assert await call(http, "publish", channel="chat:1", data=1, idempotency_key="k") == first
            await call(http, "publish", channel="chat:1", data=2)
            assert await alice.messages(2) == [1, 2]

    async def test_what_skips_the_history_is_delivered_and_not_kept(
        self, one: RunningReplica, http: httpx.AsyncClient
    ) -> None:
        """Fails if it does not arrive, if it is kept, or takes a position from what is."""
        async with Client(one.url, path="/ws?user=alice&channels=chat:1") as alice:
            await alice.next("subscribed")
            assert await call(http, "publish", channel="chat:1", data="typing", skip_history=True) == {}
            result = await call(http, "broadcast", channels=["chat:1", "#alice"], data="all", skip_history=True)
            assert result["responses"] == [{"result": {}}, {"result": {}}]
            assert (await call(http, "publish", channel="chat:1", data="kept"))["offset"] == 1
            assert await alice.messages(4) == ["typing", "all", "all", "kept"]
        kept = (await call(http, "history", channel="chat:1", limit=10))["publications"]
        assert [each["data"] for each in kept] == ["kept"]
        code, text = await refused(http, "publish", channel="run:1", data={"progress": 1}, skip_history=True)
        assert code == 107
        assert "state" in text

    async def test_tags_stay_with_the_publication(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if tags are lost on the way to the log and back, or appear in the plain protocol."""
        async with Client(one.url, path="/ws?user=alice&channels=chat:1,run:1") as alice:
            await alice.next("subscribed")
            await alice.next("subscribed")
            tags = {"kind": "공지", "lang": "ko"}
            await call(http, "publish", channel="chat:1", data=1, tags=tags)
            await call(http, "broadcast", channels=["run:1"], data={"progress": 5}, tags=tags)
            assert "tags" not in await alice.next("message")
            for channel in ("chat:1", "run:1"):
                [kept] = (await call(http, "history", channel=channel, limit=10))["publications"]
                assert kept["tags"] == tags
        code, _ = await refused(http, "publish", channel="chat:1", data=1, tags={"number": 1})
        assert code == 107

    async def test_data_in_base64(self, http: httpx.AsyncClient) -> None:
        """Fails if it is not what is published, or what is not JSON reaches clients."""
        encoded = base64.b64encode(b'{"text": "hi"}').decode()
        await call(http, "publish", channel="chat:1", b64data=encoded)
        await call(http, "broadcast", channels=["chat:1"], data="not this", b64data=encoded)
        kept = (await call(http, "history", channel="chat:1", limit=10))["publications"]
        assert [each["data"] for each in kept] == [{"text": "hi"}, {"text": "hi"}]
        for bad in ("no base64", base64.b64encode(b"no JSON").decode(), 5):
            code, text = await refused(http, "publish", channel="chat:1", b64data=bad)
            assert (code, bool(text)) == (107, True)
        code, text = await refused(http, "publish", channel="chat:1")
        assert (code, "data" in text) == (107, True)

    async def test_broadcast_answers_for_each_channel(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if one channel that cannot be published on costs the others, or the order of the answers."""
        async with Client(one.url, path="/ws?user=alice&channels=chat:1,chat:2") as alice:
            await alice.next("subscribed")
            await alice.next("subscribed")
            result = await call(http, "broadcast", channels=["chat:1", "bad\u0000", "chat:2"], data="all")
            first, bad, second = result["responses"]
            assert (first["result"]["offset"], second["result"]["offset"]) == (1, 1)
            assert bad["error"]["code"] == 107
            assert await alice.messages(2) == ["all", "all"]

    async def test_a_run_is_brought_up_to_date(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if a run cannot be reported by HTTP."""
        await call(http, "publish", channel="run:배포", data={"state": "RUNNING", "progress": 40, "message": "반"})
        answer = await http.get("/api/runs/배포")
        assert answer.json()["progress"] == 40
        code, text = await refused(http, "publish", channel="run:배포", data=[1])
        assert code == 107
        assert "update" in text


class TestReading:
    async def publish(self, http: httpx.AsyncClient, count: int) -> str:
        results = [await call(http, "publish", channel="chat:1", data=number) for number in range(1, count + 1)]
        return str(results[-1]["epoch"])

    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            ({}, []),
            ({"limit": 3}, [1, 2, 3]),
            ({"limit": -1}, [*range(1, 11)]),
            ({"limit": 3, "reverse": True}, [10, 9, 8]),
            ({"limit": -1, "reverse": True}, [*range(10, 0, -1)]),
            ({"limit": 3, "since": 7}, [8, 9, 10]),
            ({"limit": 2, "since": 7}, [8, 9]),
            ({"limit": 5, "since": 10}, []),
            ({"limit": 3, "since": 5, "reverse": True}, [4, 3, 2]),
            ({"limit": 100, "since": 3, "reverse": True}, [2, 1]),
            ({"limit": 5, "since": 1, "reverse": True}, []),
        ],
    )
    async def test_history(self, http: httpx.AsyncClient, params: dict[str, Any], expected: list[int]) -> None:
        """Fails if a range of what is kept is not what was asked for, in the order that was asked for."""
        epoch = await self.publish(http, 10)
        if "since" in params:
            params = {**params, "since": {"offset": params["since"], "epoch": epoch}}
        result = await call(http, "history", channel="chat:1", **params)
        assert [each["data"] for each in result["publications"]] == expected
        assert [each["offset"] for each in result["publications"]] == expected
        assert (result["offset"], result["epoch"]) == (10, epoch)

    async def test_history_of_what_was_trimmed(self, http: httpx.AsyncClient) -> None:
        """Fails if a gap is skipped in silence, or the newest cannot be read once the oldest are gone."""
        epoch = await self.publish(http, 400)
        since = {"offset": 1, "epoch": epoch}
        assert (await refused(http, "history", channel="chat:1", limit=10, since=since))[0] == 112
        newest = await call(http, "history", channel="chat:1", limit=1000, reverse=True)
        offsets = [each["offset"] for each in newest["publications"]]
        assert offsets[0] == 400
        assert offsets == list(range(400, 400 - len(offsets), -1))
        assert 50 <= len(offsets) < 400

    async def test_history_of_another_log(self, http: httpx.AsyncClient) -> None:
        """Fails if a position of a log that is gone is taken for one of today's."""
        await self.publish(http, 3)
        since = {"offset": 1, "epoch": "nonesuch"}
        for params in ({"limit": 10}, {"limit": 10, "reverse": True}, {"limit": 0}):
            assert (await refused(http, "history", channel="chat:1", since=since, **params))[0] == 112

    async def test_nothing_is_kept_of_what_is_ephemeral(self, http: httpx.AsyncClient) -> None:
        """Fails if an empty history says that nothing has happened, where nobody can know."""
        assert (await refused(http, "history", channel="cursors:1", limit=1))[0] == 108

    async def test_presence(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if who is on a channel is not said, with every connection."""
        path = "/ws?user={}&channels=chat:1"
        async with Client(one.url, path=path.format("alice")), Client(one.url, path=path.format("alice")) as second:
            await second.next("subscribed")

            async def counted() -> bool:
                stats = await call(http, "presence_stats", channel="chat:1")
                return bool(stats == {"num_clients": 2, "num_users": 1})

            await eventually(counted)
            present = (await call(http, "presence", channel="chat:1"))["presence"]
            assert [each["user"] for each in present.values()] == ["alice", "alice"]
            assert all(each["client"] == name for name, each in present.items())
        for method in ("presence", "presence_stats"):
            code, text = await refused(http, method, channel="news")
            assert code == 108
            assert "presence" in text

    async def test_channels(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if a channel that somebody listens to is not listed, or one that everybody has left is."""
        async with Client(one.url, path="/ws?user=김철수&channels=chat:1,chat:2,news") as client:
            for _ in range(3):
                await client.next("subscribed")

            async def listed() -> bool:
                return set((await call(http, "channels"))["channels"]) == {"#김철수", "chat:1", "chat:2", "news"}

            await eventually(listed)
            found = (await call(http, "channels", pattern="chat:*"))["channels"]
            assert found == {"chat:1": {"num_clients": 1}, "chat:2": {"num_clients": 1}}
            found = (await call(http, "channels", pattern="{chat,ne*}{:2,s}"))["channels"]
            assert set(found) == {"chat:2", "news"}
            await client.say({"type": "unsubscribe", "channel": "chat:2"})

            async def left() -> bool:
                return set((await call(http, "channels", pattern="chat:*"))["channels"]) == {"chat:1"}

            await eventually(left)

        async def gone() -> bool:
            return bool((await call(http, "channels"))["channels"] == {})

        await eventually(gone)

    async def test_info(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if a replica is not listed as it is."""
        async with Client(one.url, path="/ws?user=alice&channels=chat:1") as alice:
            await alice.next("subscribed")

            async def counted() -> bool:
                [node] = (await call(http, "info"))["nodes"]
                counts = [node[name] for name in ("num_clients", "num_users", "num_channels", "num_subs")]
                return counts == [1, 1, 2, 2]

            await eventually(counted)
            [node] = (await call(http, "info"))["nodes"]
            assert (node["name"], node["uid"]) == ("replica-1", one.replica.node.node_id)
            assert 0 <= node["uptime"] < 120

    async def test_users(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if somebody who is online is not listed, or listed for each connection, or in no order."""
        async with (
            Client(one.url, user="bob"),
            Client(one.url, user="alice"),
            Client(one.url, user="alice"),
        ):
            assert (await call(http, "users"))["users"] == ["alice", "bob"]

    async def test_removed_history(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if something is still kept, if positions begin anew, or a subscriber notices."""
        async with Client(one.url, path="/ws?user=alice&channels=chat:1") as alice:
            await alice.next("subscribed")
            for number in (1, 2):
                await call(http, "publish", channel="chat:1", data=number)
            before = await call(http, "history", channel="chat:1")
            await call(http, "history_remove", channel="chat:1")
            after = await call(http, "history", channel="chat:1", limit=10)
            assert after == before
            assert (await call(http, "publish", channel="chat:1", data=3))["offset"] == 3
            [kept] = (await call(http, "history", channel="chat:1", limit=10))["publications"]
            assert (kept["offset"], kept["data"]) == (3, 3)
            assert await alice.messages(3) == [1, 2, 3]
            code, _ = await refused(
                http, "history", channel="chat:1", limit=10, since={"offset": 1, "epoch": after["epoch"]}
            )
            assert code == 112
        await call(http, "publish", channel="run:1", data={"progress": 5})
        await call(http, "history_remove", channel="run:1")
        assert (await http.get("/api/runs/1")).status_code == 404
        assert (await refused(http, "history_remove", channel="cursors:1"))[0] == 108


class TestUsers:
    async def test_disconnect(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if a user stays connected, or is not told why."""
        async with Client(one.url, user="alice") as alice, Client(one.url, user="bob") as bob:
            await call(http, "disconnect", user="alice")
            assert await alice.close_code() == 3503
            await call(http, "disconnect", user="bob", disconnect={"code": 3001, "reason": "moving"})
            assert await bob.close_code() == 3001
        code, text = await refused(http, "disconnect", user="alice", disconnect={"code": 99})
        assert code == 107
        assert "3503" in text

    async def test_unsubscribe(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if a user is told what they were taken off."""
        async with Client(one.url, path="/ws?user=alice&channels=chat:1") as alice:
            await alice.next("subscribed")
            await call(http, "unsubscribe", user="alice", channel="chat:1")
            assert (await alice.next("unsubscribed"))["channel"] == "chat:1"
            await call(http, "publish", channel="chat:1", data="not for alice")
            await call(http, "publish", channel="#alice", data="for alice")
            assert await alice.messages(1) == ["for alice"]

    async def test_a_code_of_ones_own(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if an application cannot close with a code that its clients know."""
        async with Client(one.url, user="alice") as alice:
            await call(http, "disconnect", user="alice", disconnect={"code": 4600, "reason": "paid no bill"})
            assert await alice.close_code() == 4600
            assert alice.socket.close_reason == "paid no bill"

    async def test_one_connection_of_a_user(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if a command for one connection reaches another of the same user, or not that one."""
        async with (
            Client(one.url, user="alice") as first,
            Client(one.url, user="alice") as second,
            Client(one.url, user="alice") as third,
        ):
            ids = [client.connected["session"] for client in (first, second, third)]
            await call(http, "disconnect", user="alice", client="nobody")
            await call(http, "disconnect", user="alice", client=ids[0], session="another")
            await call(http, "disconnect", user="alice", whitelist=ids)
            for each in (first, second, third):
                await each.nothing_more()
            await call(http, "disconnect", user="alice", session=ids[0])
            assert await first.close_code() == 3503
            await call(http, "disconnect", user="alice", whitelist=[ids[2]])
            assert await second.close_code() == 3503
            await third.nothing_more()
            code, text = await refused(http, "disconnect", user="alice", client=ids[2], block_s=5)
            assert code == 107
            assert "whole user" in text

    async def test_subscribe(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if a user is not subscribed by a server, misses what was published since the position, or the
        connection that was not meant is subscribed too."""
        first = await call(http, "publish", channel="chat:1", data=1)
        await call(http, "publish", channel="chat:1", data=2)
        async with Client(one.url, user="alice") as alice, Client(one.url, user="alice") as other:
            meant, since = alice.connected["session"], {"offset": first["offset"], "epoch": first["epoch"]}
            await call(http, "subscribe", user="alice", client=meant, channel="chat:1", recover_since=since)
            subscribed = await alice.next("subscribed")
            assert (subscribed["channel"], subscribed["recovered"]) == ("chat:1", True)
            await call(http, "subscribe", user="alice", client=meant, channel="chat:1")  # is subscribed already
            await call(http, "publish", channel="chat:1", data=3)
            assert await alice.messages(2) == [2, 3]
            await alice.say({"type": "unsubscribe", "channel": "chat:1", "id": 1})
            await alice.next("unsubscribed", id=1)
            await call(http, "subscribe", user="alice", client=meant, channel="chat:1")
            await alice.next("subscribed")
            await call(http, "unsubscribe", user="alice", client=meant, channel="chat:1")
            await alice.next("unsubscribed")
            assert await other.only("subscribed", "message", "unsubscribed") == []
        code, _ = await refused(http, "subscribe", user="alice", channel="#bob")
        assert code == 107

    async def test_refresh(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if a connection does not end when the server says, or ends although its time was prolonged."""
        async with Client(one.url, user="alice") as alice, Client(one.url, user="bob") as bob:
            now = int(time.time())
            await call(http, "refresh", user="alice", expire_at=now + 3600)
            assert 3500 < (await alice.next("refreshed"))["expires_in"] <= 3600
            await call(http, "refresh", user="alice")
            assert (await alice.next("refreshed"))["expires_in"] is None
            await call(http, "refresh", user="alice", expire_at=now - 1)
            assert await alice.close_code() == 3005
            await call(http, "refresh", user="bob", expired=True)
            assert await bob.close_code() == 3005

    async def test_what_would_mean_more_than_was_asked_is_not_done(
        self, one: RunningReplica, http: httpx.AsyncClient
    ) -> None:
        """Fails if a field that narrows a command down is ignored: more connections would be meant."""
        async with Client(one.url, path="/ws?user=alice&channels=chat:1") as alice:
            await alice.next("subscribed")
            code, text = await refused(http, "unsubscribe", user="alice", channel="chat:1", whitelist=["this one"])
            assert code == 107
            assert "whitelist" in text
            code, text = await refused(http, "publish", channel="chat:1", data=1, version=3)
            assert (code, "version" in text) == (107, True)
            assert await alice.only("unsubscribed", "message") == []

    async def test_a_field_that_narrows_nothing_down_is_no_mistake(self, http: httpx.AsyncClient) -> None:
        """Fails if a client that always sends all of its fields cannot be used."""
        await call(http, "disconnect", user="alice", client="", session=None, whitelist=[])
        result = await call(
            http, "publish", channel="chat:1", data=1, skip_history=False, b64data="", tags={}, delta=False
        )
        assert result["offset"] == 1


async def test_unknown_namespaces(start_replica: StartReplica) -> None:
    """Fails if a mistyped namespace is taken for a channel where only those count that somebody has set up."""
    one = await start_replica(redis_url=None, strict_namespaces=True, **OPTIONS)
    async with http_client(one.url, headers={"X-API-Key": KEY}) as http, Client(one.url, user="alice") as alice:
        for method in (
            "publish",
            "history",
            "history_remove",
            "presence",
            "presence_stats",
            "subscribe",
            "unsubscribe",
        ):
            code, text = await refused(http, method, channel="nonesuch:1", data=1, user="alice")
            assert (code, "nonesuch" in text) == (102, True), method
        result = await call(http, "broadcast", channels=["nonesuch:1", "chat:1"], data=1)
        assert [each.get("error", {}).get("code") for each in result["responses"]] == [102, None]
        for channel in ("#alice", "news", "chat:1", "run:1"):
            assert await call(http, "history", channel=channel) is not None
        await alice.say({"type": "subscribe", "channel": "nonesuch:1", "id": 1})
        assert (await alice.next("error", id=1))["code"] == "not_found"
        await alice.say({"type": "publish", "channel": "nonesuch:1", "data": 1, "id": 2})
        assert (await alice.next("error", id=2))["code"] == "not_found"


async def test_rpc(start_replica: StartReplica) -> None:
    """Fails if a program cannot call the user's backend, or gets another error than the backend gives."""
    async with Site() as site:
        one = await start_replica(redis_url=None, hooks=site.urls("rpc"), **OPTIONS)
        async with http_client(one.url, headers={"X-API-Key": KEY}) as http:
            result = await call(http, "rpc", method="price", params={"n": 6})
            assert result == {"data": {"method": "price", "got": {"n": 6}}}
            assert site.of("rpc")[0]["transport"] == "http_api"
            site.answers["rpc"] = lambda _: {"error": {"code": 1404, "message": "no such thing"}}
            assert await refused(http, "rpc", method="price") == (1404, "no such thing")
            del site.answers["rpc"]
            site.answers["rpc"] = lambda _: {"result": 5}
            assert (await refused(http, "rpc", method="price"))[0] == 100
    alone = await start_replica(redis_url=None, **OPTIONS)
    async with http_client(alone.url, headers={"X-API-Key": KEY}) as http:
        assert (await refused(http, "rpc", method="price"))[0] == 104
        assert (await refused(http, "rpc", params=1))[0] == 107


class TestBatch:
    @pytest.mark.parametrize("parallel", [False, True])
    async def test_replies_stand_in_order_and_one_that_fails_costs_no_other(
        self, http: httpx.AsyncClient, parallel: bool
    ) -> None:
        """Fails if a reply is not that of its command."""
        commands = [
            {"publish": {"channel": "chat:1", "data": 1}},
            {"publish": {"channel": ""}},
            {"nonesuch": {}},
            {"presence_stats": {"channel": "chat:1"}},
            {"publish": {"channel": "chat:1", "data": 1}, "info": {}},
        ]
        replies = (await call(http, "batch", commands=commands, parallel=parallel))["replies"]
        assert replies[0]["publish"]["offset"] == 1
        assert [reply.get("error", {}).get("code") for reply in replies] == [None, 107, 104, None, 107]
        assert replies[3]["presence_stats"] == {"num_clients": 0, "num_users": 0}

    @pytest.mark.parametrize("parallel", [False, True])
    async def test_publications_keep_their_order(self, start_replica: StartReplica, parallel: bool) -> None:
        """Fails if what is published in one batch stands in the channel's log in another order."""
        one = await start_replica(**{**OPTIONS, "api": {"key": KEY, "batch": 300}})
        async with http_client(one.url, headers={"X-API-Key": KEY}) as http:
            commands = [{"publish": {"channel": "chat:1", "data": number}} for number in range(300)]
            replies = (await call(http, "batch", commands=commands, parallel=parallel))["replies"]
        assert [reply["publish"]["offset"] for reply in replies] == list(range(1, 301))

    async def test_commands_are_carried_out_one_after_the_other(self, http: httpx.AsyncClient) -> None:
        """Fails if a command does not see what the one before it has done."""
        commands = [
            {"publish": {"channel": "chat:1", "data": "new"}},
            {"history": {"channel": "chat:1", "limit": 5}},
        ]
        replies = (await call(http, "batch", commands=commands))["replies"]
        assert [each["data"] for each in replies[1]["history"]["publications"]] == ["new"]

    async def test_questions_do_not_crowd_out_messages(
        self, start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if a batch asks Redis for so much at once that nobody else is answered in time."""
        one = await start_replica(redis_url=None, **{**OPTIONS, "api": {"key": KEY, "batch": 100}})
        log, under_way, most = one.replica.manager._log, 0, 0
        read = log.read

        async def counted(*arguments: Any) -> Any:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            return await read(*arguments)

        monkeypatch.setattr(log, "read", counted)
        async with http_client(one.url, headers={"X-API-Key": KEY}) as http:
            commands = [{"history": {"channel": f"chat:{number}", "limit": 1}} for number in range(100)]
            replies = (await call(http, "batch", commands=commands, parallel=True))["replies"]
        assert [list(reply) for reply in replies] == [["history"]] * 100
        assert 2 <= most <= MOST_QUESTIONS

    async def test_more_than_the_limit_is_refused_whole(self, http: httpx.AsyncClient) -> None:
        """Fails if half of what is too much is done."""
        publish = {"publish": {"channel": "chat:1", "data": 1}}
        assert (await refused(http, "batch", commands=[publish] * 6))[0] == 106
        assert (await refused(http, "broadcast", channels=["chat:1"] * 6, data=1))[0] == 106
        assert (await call(http, "history", channel="chat:1"))["offset"] == 0


class TestRefusals:
    @pytest.fixture
    async def one(self, start_replica: StartReplica) -> RunningReplica:
        """Without Redis: what is refused never gets as far as that."""
        return await start_replica(redis_url=None, **OPTIONS)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"X-API-Key": ""},
            {"X-API-Key": KEY[:-1]},
            {"X-API-Key": KEY + "x"},
            {"Authorization": f"Bearer {KEY}"},
            {"Authorization": KEY},
            {"X-API-Key": "ключ".encode().decode("latin-1")},
        ],
    )
    async def test_without_the_key_nothing_is_done(self, one: RunningReplica, headers: dict[str, str]) -> None:
        """Fails if somebody without the key is let in, or learns more than that."""
        async with http_client(one.url) as http:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            answer = await http.post("/api/publish", json={"channel": "chat:1", "data": 1}, headers=raw)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == 101
            assert KEY not in answer.text

    async def test_the_key_may_stand_in_the_authorization_header(self, one: RunningReplica) -> None:
        """Fails if clients that send it there are refused."""
        headers = {"Authorization": f"apikey {KEY}"}
        async with http_client(one.url, headers=headers) as http:
            await call(http, "publish", channel="chat:1", data=1)

    async def test_a_key_may_be_any_text(self, start_replica: StartReplica) -> None:
        """Fails if a key that is not ASCII is refused, sent as curl sends it."""
        key = "ключ от кластера"
        one = await start_replica(redis_url=None, api={"key": key})
        async with http_client(one.url, headers=[(b"X-API-Key", key.encode())]) as http:
            await call(http, "publish", channel="chat:1", data=1)

    async def test_without_a_key_in_the_settings_there_is_no_api(self, start_replica: StartReplica) -> None:
        """Fails if an installation that has set no key is open to all, or does not say what to set."""
        one = await start_replica(redis_url=None)
        async with http_client(one.url) as http:
            for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": "x"}):
                answer = await http.post("/api/info", json={}, headers=headers)
                assert answer.status_code == 401
                assert "HELIOGRAPH_API__KEY" in answer.text

    @pytest.mark.parametrize("body", ["", "{", "[]", "5", "null", '"x"', "NaN", '{"a":NaN}', b"\xff", "[" * 3000])
    async def test_a_body_that_is_no_json_object(self, http: httpx.AsyncClient, body: str | bytes) -> None:
        """Fails if such a body is a fault of the server, or is taken for no parameters."""
        answer = await http.post("/api/publish", content=body)
        assert answer.status_code == 400
        assert "JSON" in answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        ("params", "named"),
        [
            ({"data": 1}, "channel"),
            ({"channel": "chat:1"}, "data"),
            ({"channel": 5, "data": 1}, "channel"),
            ({"channel": "", "data": 1}, "empty"),
            ({"channel": "x" * 513, "data": 1}, "512"),
            ({"channel": "a\nb", "data": 1}, "control"),
            ({"channel": "#" + "u" * 256, "data": 1}, "user id"),
            ({"channel": "chat:1", "data": 1, "idempotency_key": "k" * 257}, "idempotency_key"),
            ({"channel": "chat:1", "data": 1, "b64data": "AA=="}, "b64data"),
        ],
    )
    async def test_the_answer_names_what_is_wrong(
        self, http: httpx.AsyncClient, params: dict[str, Any], named: str
    ) -> None:
        """Fails if who made a mistake is not told which."""
        code, text = await refused(http, "publish", **params)
        assert code == 107
        assert named in text

    @pytest.mark.parametrize("data", ["[" * 40 + "]" * 40, "1e999", '"\\ud800"'])
    async def test_data_that_a_client_could_not_read(self, http: httpx.AsyncClient, data: str) -> None:
        """Fails if what breaks a browser is kept and sent."""
        answer = await http.post("/api/publish", content=f'{{"channel":"chat:1","data":{data}}}')
        assert answer.status_code == 400 or answer.json()["error"]["code"] == 107
        assert (await call(http, "history", channel="chat:1"))["offset"] == 0

    async def test_a_body_that_is_too_large(self, http: httpx.AsyncClient) -> None:
        """Fails if memory can be filled from outside, or the answer does not say which limit that was."""
        for size in (5000, 20_000_000):  # the second is still on its way when the answer comes
            answer = await http.post("/api/publish", json={"channel": "chat:1", "data": "x" * size})
            assert answer.status_code == 413
            assert "HELIOGRAPH_API__BODY_BYTES" in answer.text
        assert (await call(http, "history", channel="chat:1"))["offset"] == 0

    async def test_other_verbs_and_methods(self, http: httpx.AsyncClient) -> None:
        """Fails if a mistyped request changes something or is answered as if it had."""
        assert (await http.get("/api/publish")).status_code == 405
        assert (await http.put("/api/publish", json={})).status_code == 405
        assert (await http.get("/api/nonesuch")).status_code == 404
        code, text = await refused(http, "map_publish", channel="chat:1")
        assert code == 104
        assert "map_publish" in text
        async with http_client(http.base_url) as stranger:
            assert (await stranger.post("/api/nonesuch", json={})).status_code == 401


class TestCluster:
    async def test_without_redis_the_answer_says_so(
        self, own_redis: RedisServer, start_replica: StartReplica
    ) -> None:
        """Fails if a publication that nobody gets is answered with success, or a person is left to guess."""
        one = await start_replica(redis_url=own_redis.url, **OPTIONS)
        async with http_client(one.url, headers={"X-API-Key": KEY}) as http:
            await call(http, "publish", channel="chat:1", data=1)
            own_redis.stop()
            calls: dict[str, dict[str, Any]] = {
                "publish": {"channel": "chat:1", "data": 2},
                "history": {"channel": "chat:1"},
                "channels": {},
                "info": {},
                "users": {},
            }
            for method, params in calls.items():
                code, text = await refused(http, method, **params)
                assert code == 100
                assert "try again" in text

    @pytest.mark.usefixtures("short_timeout")
    @pytest.mark.parametrize("parallel", [False, True])
    @pytest.mark.parametrize("method", ["publish", "presence"])
    async def test_a_batch_is_not_tried_to_its_end_without_redis(
        self, own_redis: RedisServer, start_replica: StartReplica, method: str, parallel: bool
    ) -> None:
        """Fails if each command of a batch waits for a Redis that does not answer, or is made after a gap."""
        options = {**OPTIONS, "api": {"key": KEY, "batch": 100}}
        one = await start_replica(redis_url=own_redis.url, **options)
        async with http_client(one.url, headers={"X-API-Key": KEY}) as http:
            await call(http, "publish", channel="chat:1", data=1)
            own_redis.freeze()
            commands = [{method: {"channel": "chat:1", "data": number}} for number in range(100)]
            async with asyncio.timeout(20):
                replies = (await call(http, "batch", commands=commands, parallel=parallel))["replies"]
            own_redis.thaw()
        assert [reply["error"]["code"] for reply in replies] == [100] * 100
        assert "try again" in replies[0]["error"]["message"]
        if not parallel:
            tried = IN_A_ROW if method == "publish" else 1
            assert all("not tried" in reply["error"]["message"] for reply in replies[tried:])

    async def test_a_replica_that_is_gone_is_counted_no_longer(self, start_replica: StartReplica) -> None:
        """Fails if channels of a replica that has left stay listed, or those of two are not added up."""
        one, two = await start_replica("replica-1", **OPTIONS), await start_replica("replica-2", **OPTIONS)
        path = "/ws?user=alice&channels=chat:1"
        async with (
            http_client(one.url, headers={"X-API-Key": KEY}) as http,
            Client(one.url, path=path) as here,
        ):
            await here.next("subscribed")
            async with Client(two.url, path=path) as there:
                await there.next("subscribed")

                async def both() -> bool:
                    found = (await call(http, "channels", pattern="chat:1"))["channels"]
                    return bool(found == {"chat:1": {"num_clients": 2}})

                await eventually(both)
                await two.stop()

            async def one_left() -> bool:
                found = (await call(http, "channels", pattern="chat:1"))["channels"]
                nodes = (await call(http, "info"))["nodes"]
                return bool(found == {"chat:1": {"num_clients": 1}} and len(nodes) == 1)

            await eventually(one_left)

    async def test_many_at_once(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if publications that are made at the same time get in each other's way."""
        async with Client(one.url, path="/ws?user=alice&channels=chat:1") as alice:
            await alice.next("subscribed")
            results = await asyncio.gather(
                *(call(http, "publish", channel="chat:1", data=number) for number in range(40))
            )
            assert sorted(result["offset"] for result in results) == list(range(1, 41))
            by_offset = {result["offset"]: number for number, result in enumerate(results)}
            assert await alice.messages(40) == [by_offset[offset] for offset in range(1, 41)]

    async def test_the_document_names_every_method(self, http: httpx.AsyncClient) -> None:
        """Fails if the OpenAPI document is not JSON or leaves a method out."""
        document = (await http.get("/api/openapi.json")).json()
        posts = {path.removeprefix("/api/") for path, item in document["paths"].items() if "post" in item}
        assert posts >= {"publish", "broadcast", "presence", "presence_stats", "history", "channels", "info"}
        assert posts >= {"disconnect", "unsubscribe", "batch", "ticket"}
        assert document["paths"].keys() >= {"/health", "/ready", "/api/cluster", "/api/poll", "/api/runs/{run_id}"}
        for reference in set(json.dumps(document).split('"#/components/schemas/')[1:]):
            assert reference.split('"')[0] in document["components"]["schemas"]


class TestLargeHistories:
    async def test_an_answer_has_its_bytes_and_the_rest_can_be_asked_for(
        self, one: RunningReplica, http: httpx.AsyncClient
    ) -> None:
        """Fails if a program gets tens of megabytes at once, or cannot get at what is left, from either end."""
        for number in range(1, 31):
            await one.replica.manager.publish("chat:1", [number, "x" * 60_000])
        epoch, since = "", None
        offsets: list[int] = []
        while len(offsets) < 30:
            found = await call(http, "history", channel="chat:1", limit=-1, **({"since": since} if since else {}))
            epoch = found["epoch"]
            assert 0 < len(found["publications"]) * 60_000 <= ANSWER_BYTES
            offsets += [each["offset"] for each in found["publications"]]
            since = {"offset": offsets[-1], "epoch": epoch}
        assert offsets == list(range(1, 31))
        newest = await call(http, "history", channel="chat:1", limit=-1, reverse=True)
        found = [each["offset"] for each in newest["publications"]]
        assert found == list(range(30, 30 - len(found), -1))
        assert 15 < len(found) <= ANSWER_BYTES // 60_000
        before = {"offset": found[-1], "epoch": epoch}
        rest = await call(http, "history", channel="chat:1", limit=5, reverse=True, since=before)
        assert [each["offset"] for each in rest["publications"]] == list(range(found[-1] - 1, found[-1] - 6, -1))

    @pytest.mark.parametrize("field", ["version", "version_epoch"])
    async def test_what_would_not_be_delivered_is_refused(self, http: httpx.AsyncClient, field: str) -> None:
        """Fails if a program is told that something was published which its subscribers never see."""
        code, text = await refused(http, "publish", channel="chat:1", data=1, **{field: "7"})
        assert (code, field in text) == (107, True)
        assert (await call(http, "history", channel="chat:1"))["offset"] == 0
        await call(http, "publish", channel="chat:1", data=1, **{field: None})


class TestLines:
    async def test_each_line_has_its_reply(self, one: RunningReplica, http: httpx.AsyncClient) -> None:
        """Fails if an API client that posts `{"method":…,"params":…}` lines to `/api` cannot be used."""
        lines = [
            {"method": "publish", "params": {"channel": "chat:1", "data": {"n": 1}}},
            {"method": "publish", "params": {"channel": "chat:1"}},
            {"method": "nonesuch", "params": {}},
            {"method": "history", "params": {"channel": "chat:1", "limit": 5}},
        ]
        body = "\n".join(map(json.dumps, lines)) + "\n\nnonsense\n"
        async with Client(one.url, path="/ws?user=alice&channels=chat:1") as alice:
            await alice.next("subscribed")
            answer = await http.post("/api", content=body, headers={"Authorization": f"apikey {KEY}"})
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
            replies = [json.loads(line) for line in answer.text.splitlines()]
            assert [reply.get("error", {}).get("code") for reply in replies] == [None, 107, 104, None, 107]
            assert replies[0]["result"]["offset"] == 1
            assert [each["data"] for each in replies[3]["result"]["publications"]] == [{"n": 1}]
            assert await alice.messages(1) == [{"n": 1}]

    async def test_who_may_and_how_much(self, http: httpx.AsyncClient) -> None:
        """Fails if lines need no key, have no limit, or GET is answered as if it were something."""
        line = json.dumps({"method": "publish", "params": {"channel": "chat:1", "data": 1}})
        many = await http.post("/api", content="\n".join([line] * 6))
        assert [json.loads(each)["error"]["code"] for each in many.text.splitlines()] == [106] * 6
        assert (await http.post("/api", content=line, headers={"X-API-Key": "another"})).status_code == 401
        assert (await http.post("/api", content=line * 200)).status_code == 413
        assert (await http.get("/api")).status_code == 405
