"""Tickets: what may stand in a URL instead of a token, once, for a few seconds, on any replica."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect as websocket
from websockets.typing import Origin

from heliograph.auth.authenticator import Authenticator, Credentials
from heliograph.backends.memory.tickets import MemoryTickets
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.errors import InvalidToken
from heliograph.settings import AuthSettings
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.event_source import EventSource
from tests.support.http import http_client
from tests.support.manual_clock import ManualClock
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_answers import text
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, OPENED, SECRET, bearer, soon, token
from tests.support.waiting import eventually


async def post(replica: RunningReplica, query: str = "", **headers: str) -> httpx.Response:
    async with http_client(replica.url) as http:
        return await http.post(f"/api/ticket{query}", headers=headers)


async def ticket(replica: RunningReplica, *arguments: Any, **options: Any) -> str:
    response = await post(replica, **bearer(*arguments, **options))
    assert response.status_code == 200
    return str(response.json()["ticket"])


async def close_of(replica: RunningReplica, query: str) -> tuple[str, int]:
    """What a page that comes with this query is told before it is closed, and how."""
    url = f"{replica.url.replace('http', 'ws', 1)}/ws?{query}"
    async with websocket(url, origin=Origin(replica.url), proxy=None) as socket:
        error = json.loads(await socket.recv())
        assert error["type"] == "error"
        await socket.wait_closed()
        return error["message"], socket.close_code or 0


class TestTheDoor:
    async def test_a_ticket_for_a_token(self, start_replica: StartReplica) -> None:
        """Fails if a good token gets no ticket, its answer may be cached, or two tickets are the same."""
        one = await start_replica(auth=JWT, redis_url=None)
        first, second = await post(one, **bearer("alice")), await post(one, **bearer("alice"))
        assert first.status_code == 200
        assert first.headers["cache-control"] == "no-store"
        assert first.json() == {"ticket": first.json()["ticket"], "expires_in": 30}
        assert len(first.json()["ticket"]) >= 40
        assert first.json()["ticket"] != second.json()["ticket"]

    @pytest.mark.parametrize(
        ("query", "headers", "says"),
        [
            ("", {}, "say who you are"),
            ("?user=alice", {}, "say who you are"),
            ("", {"Authorization": "Bearer"}, "not valid"),
            ("", {"Authorization": "Bearer nonsense"}, "not valid"),
            ("", {"Authorization": f"Basic {token()}"}, "say who you are"),
            (f"?token={token()}", {}, "does not belong in a URL"),
            (f"?access_token={token()}", {}, "does not belong in a URL"),
            ("?ticket=abc", {}, "not for another ticket"),
            ("?ticket=abc", bearer(), "say once who you are"),
        ],
    )
    async def test_no_ticket_without_a_token(
        self, start_replica: StartReplica, query: str, headers: dict[str, str], says: str
    ) -> None:
        """Fails if somebody gets a ticket who did not prove who they are, or is not told what to do: 401."""
        one = await start_replica(auth=JWT, redis_url=None)
        response = await post(one, query, **headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "invalid_token"
        assert says in response.json()["error"]["message"]

    async def test_other_methods_and_origins(self, start_replica: StartReplica) -> None:
        """Fails if a ticket can be had with a link, or by a page of another origin."""
        one = await start_replica(auth=JWT, redis_url=None)
        async with http_client(one.url, headers=bearer()) as http:
            assert (await http.get("/api/ticket")).status_code == 405
            response = await http.post("/api/ticket", headers={"Origin": "https://evil.test"})
            assert (response.status_code, response.json()["error"]["code"]) == (403, "not_allowed")
            assert (await http.post("/api/ticket", headers={"Origin": one.url})).status_code == 200

    async def test_a_page_of_an_allowed_origin_may_read_its_ticket(self, start_replica: StartReplica) -> None:
        """Fails if a browser keeps the ticket, or asking for it, from a page that may connect."""
        page = "https://app.example.org"
        one = await start_replica(auth=JWT, redis_url=None, allowed_origins=(page,))
        async with http_client(one.url, headers={"Origin": page}) as http:
            asked = await http.options("/api/ticket", headers={"Access-Control-Request-Method": "POST"})
            assert (asked.status_code, asked.headers["access-control-allow-methods"]) == (204, "POST")
            assert "authorization" in asked.headers["access-control-allow-headers"].lower()
            given, refused = await http.post("/api/ticket", headers=bearer()), await http.post("/api/ticket")
            assert (given.status_code, refused.status_code) == (200, 401)
            for response in (asked, given, refused):
                assert response.headers["access-control-allow-origin"] == page
            elsewhere = await http.options("/api/ticket", headers={"Origin": "https://evil.test"})
            assert elsewhere.status_code == 403
            assert "access-control-allow-origin" not in elsewhere.headers

    async def test_open_mode_gives_them_to_anybody(self, start_replica: StartReplica) -> None:
        """Fails if a page that is written for tickets does not work in development."""
        one = await start_replica(redis_url=None)
        response = await post(one, "?user=%EC%9A%B0%EC%A3%BC")
        async with Client(one.url, path=f"/ws?ticket={response.json()['ticket']}") as client:
            assert (await client.next("connected"))["user"] == "우주"
        assert (await post(one)).status_code == 400
        assert (await post(one, "?user=%ff")).status_code == 400  # no UTF-8: nobody, as at every other endpoint

    async def test_without_redis_there_are_none(self, start_replica: StartReplica, own_redis: RedisServer) -> None:
        """Fails if the caller is not told to try again, or a client that comes with one is told to stay away."""
        one = await start_replica(auth=JWT, redis_url=own_redis.url)
        own_redis.stop()
        response = await post(one, **bearer())
        assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
        assert response.headers["retry-after"] == "1"
        message, code = await close_of(one, "ticket=abc")
        assert code == 1013
        assert "storage" in message


class TestUse:
    async def test_it_opens_a_socket_on_any_replica_once(self, start_replica: StartReplica) -> None:
        """Fails if only the replica that gave it takes it, or somebody who has seen the URL can use it again."""
        one, two = await start_replica("replica-1", auth=JWT), await start_replica("replica-2", auth=JWT)
        given = await ticket(one, "alice")
        async with Client(two.url, path=f"/ws?ticket={given}&user=mallory") as client:
            assert (await client.next("connected"))["user"] == "alice"
            for replica in (one, two):
                message, code = await close_of(replica, f"ticket={given}")
                assert code == 3500
                assert "used before" in message

    async def test_of_many_at_once_one_gets_in(self, start_replica: StartReplica) -> None:
        """Fails if a ticket can be used twice by being quick."""
        one, two = await start_replica("replica-1", auth=JWT), await start_replica("replica-2", auth=JWT)
        given = await ticket(one)

        async def tries(replica: RunningReplica) -> str:
            url = f"{replica.url.replace('http', 'ws', 1)}/ws?ticket={given}"
            async with websocket(url, origin=Origin(replica.url), proxy=None) as socket:
                return str(json.loads(await socket.recv())["type"])

        got = await asyncio.gather(*(tries(replica) for replica in (one, two) * 5))
        assert sorted(got) == ["connected", *["error"] * 9]

    async def test_it_stands_for_all_that_the_token_says(self, start_replica: StartReplica) -> None:
        """Fails if a ticket lengthens a token's life, or takes away what the token gives."""
        one = await start_replica(auth=JWT, redis_url=None, namespaces={"vip": {"client_subscribe": False}})
        given = await ticket(one, "alice", expires_in=soon(), channels=["vip:1"])
        async with Client(one.url, path=f"/ws?ticket={given}") as client:
            assert (await client.next("subscribed"))["channel"] == "vip:1"
            assert await client.close_code() == 3005

    async def test_on_every_door(self, start_replica: StartReplica) -> None:
        """Fails if an EventSource, or a poll, cannot be opened with a ticket, or can be twice, or with a token."""
        one = await start_replica(auth=JWT, redis_url=None, namespaces={"vip": {"client_subscribe": False}})
        async with http_client(one.url, timeout=10) as http:
            given = await ticket(one, "alice", channels=["vip:1"])
            async with http.stream("GET", f"/sse?ticket={given}") as stream:
                assert stream.status_code == 200
                async for line in stream.aiter_lines():
                    if '"subscribed"' in line:
                        break
                assert '"channel":"vip:1"' in line
            given = await ticket(one, "alice", channels=["vip:1"])
            answer = (await http.get(f"/api/poll?ticket={given}")).json()
            assert answer["user"] == "alice"
            assert [event["channel"] for event in answer["events"] if event["type"] == "subscribed"] == ["vip:1"]
            for path in ("/sse", "/api/poll"):
                for query in (f"ticket={given}", f"token={token()}", "user=alice", ""):
                    refused = await http.get(f"{path}?{query}")
                    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_token"), query
                with_header = await http.get(f"{path}?channels=%23bob", headers=bearer("alice"))
                assert with_header.status_code == 403
            run = await http.get("/api/runs/42", headers=bearer("alice", channels=["run:*"]))
            assert run.status_code == 404

    async def test_in_the_first_frame_too(self, start_replica: StartReplica) -> None:
        """Fails if a client that has a ticket must put it into the URL."""
        one = await start_replica(auth=JWT, redis_url=None)
        async with Client(one.url) as client:
            await client.say({"type": "connect", "ticket": await ticket(one, "bob"), "id": 1})
            assert (await client.next("connected", id=1))["user"] == "bob"

    async def test_with_a_cursor_and_channels(self, start_replica: StartReplica) -> None:
        """Fails if a client that comes back with a ticket cannot say where it stands."""
        one = await start_replica(auth=JWT, redis_url=None, namespaces=OPENED)
        async with Client(one.url, path=f"/ws?ticket={await ticket(one)}") as client:
            cursor = (await client.next("connected"))["cursor"]
        await one.replica.manager.publish("#alice", "missed")
        path = f"/ws?ticket={await ticket(one)}&channels=news&cursor={cursor.replace('#', '%23')}"
        async with Client(one.url, path=path) as client:
            assert await client.messages(1) == ["missed"]
            assert (await client.next("subscribed", channel="news"))["recovered"] is False

    @pytest.mark.parametrize("bad", ["", "abc", "%00", "%FF", "a" * 5000, "안"])
    async def test_nonsense_is_no_ticket(self, start_replica: StartReplica, bad: str) -> None:
        """Fails if what nobody has given opens the endpoint, or breaks it."""
        one = await start_replica(auth=JWT)
        assert (await close_of(one, f"ticket={bad}"))[1] == 3500

    async def test_the_ticket_itself_is_nowhere_in_redis(
        self, start_replica: StartReplica, redis_server: RedisServer, namespace: str
    ) -> None:
        """Fails if who can read Redis' keys can use the tickets there, or one stays for ever."""
        one = await start_replica(auth=JWT)
        given = await ticket(one)
        async with RedisAdmin(redis_server.url) as admin:
            [key] = await admin.redis.keys(f"{namespace}:ticket:*")
            assert given.encode() not in key
            assert given not in text(await admin.redis.get(key))
            assert 0 < await admin.redis.ttl(key) <= 30


class TestTime:
    async def test_after_its_time_it_is_nothing(self) -> None:
        """Fails if a ticket can be used after 30 seconds, or not until then."""
        clock = ManualClock()
        authenticator = Authenticator(
            AuthSettings(mode="jwt", secret=SecretStr(SECRET)), MemoryTickets(clock), BlockedUsers(clock)
        )
        alice = await authenticator.identify(Credentials(token("alice", expires_in=None)))
        early, late = await authenticator.issue_ticket(alice), await authenticator.issue_ticket(alice)
        clock.advance(29.9)
        assert await authenticator.identify(Credentials(ticket=early)) == alice
        clock.advance(0.2)
        with pytest.raises(InvalidToken, match="too old"):
            await authenticator.identify(Credentials(ticket=late))

    async def test_a_token_that_expired_meanwhile(self) -> None:
        """Fails if a ticket outlives the token that it was given for."""
        authenticator = Authenticator(
            AuthSettings(mode="jwt", secret=SecretStr(SECRET), leeway_s=0),
            MemoryTickets(ManualClock()),
            BlockedUsers(ManualClock()),
        )
        alice = await authenticator.identify(Credentials(token("alice", expires_in=soon())))
        given = await authenticator.issue_ticket(alice)
        ends_at = alice.expires_at
        assert ends_at is not None
        await eventually(lambda: time.time() > ends_at)
        with pytest.raises(InvalidToken, match="has expired"):
            await authenticator.identify(Credentials(ticket=given))


class TestComingBackWithATicket:
    """An `EventSource` gives the same URL each time: its ticket is used up then."""

    async def test_a_user_has_so_many_rights_to_return(
        self, start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, namespace: str
    ) -> None:
        """Fails if each stream that a user opens takes memory of Redis for as long as the token is good."""
        monkeypatch.setattr("heliograph.auth.authenticator.RIGHTS_PER_USER", 2)
        one = await start_replica(auth=JWT)

        async def open_stream(given: str, last_event_id: str | None = None) -> tuple[int, str]:
            async with EventSource(one.url, ticket=given, last_event_id=last_event_id) as events:
                if events.response.status_code != 200:
                    return events.response.status_code, ""
                await events.next("connected")
                return 200, str(events.last_event_id)

        tickets = [await ticket(one, "alice") for _ in range(4)]
        ids = [(await open_stream(each))[1] for each in tickets]
        async with RedisAdmin(redis_server.url) as admin:
            assert len(await admin.redis.keys(f"{namespace}:ticket:right:*")) == 2
        again = [(await open_stream(given, last))[0] for given, last in zip(tickets, ids, strict=True)]
        assert again == [401, 401, 200, 200], "the latest may come back"

    async def test_a_right_to_return_is_no_ticket(self, start_replica: StartReplica) -> None:
        """Fails if what is meant for one stream lets its bearer do all that a ticket does."""
        one = await start_replica(auth=JWT)
        given = await ticket(one, "alice")
        async with EventSource(one.url, ticket=given) as events:
            await events.next("connected")
        right = str(events.last_event_id).rpartition("&=")[2]
        for made_up in (f"{right} {given}", f"{right}%20{given}", right, f"right:{right.rpartition('.')[0]}"):
            async with EventSource(one.url, ticket=made_up) as again:
                assert again.response.status_code == 401

    async def test_it_comes_back_to_any_replica(self, start_replica: StartReplica) -> None:
        """Fails if a stream that was opened with a ticket is over for good when it is cut."""
        one, two = await start_replica("replica-1", auth=JWT), await start_replica("replica-2", auth=JWT)
        given = await ticket(one, "alice", channels=["news"])
        last_event_id = None
        for number, replica in enumerate((one, two, one, two)):
            async with EventSource(replica.url, ticket=given, last_event_id=last_event_id) as events:
                assert events.response.status_code == 200
                assert (await events.next("connected"))["user"] == "alice"
                while (await events.next("subscribed"))["channel"] != "news":
                    pass
                if number:
                    assert (await events.next("message"))["data"] == number
                last_event_id = events.last_event_id
            await one.replica.manager.publish("news", number + 1)

    async def test_the_url_alone_is_not_enough(self, start_replica: StartReplica) -> None:
        """Fails if who reads the URL in a log, or knows the id of another stream, gets in."""
        one = await start_replica(auth=JWT, redis_url=None)
        mine, other = await ticket(one, "alice"), await ticket(one, "bob")
        async with EventSource(one.url, ticket=mine) as events:
            await events.next("connected")
            mine_id = events.last_event_id
        async with EventSource(one.url, ticket=other) as events:
            await events.next("connected")
            other_id = events.last_event_id
        secret = mine_id.rpartition("=")[2]
        assert len(secret) >= 43
        for last_event_id in (None, other_id, mine_id.replace(secret, ""), mine_id[:-1], f"={'A' * 43}"):
            async with EventSource(one.url, ticket=mine, last_event_id=last_event_id) as events:
                assert (await events.error())["code"] == "invalid_token", last_event_id
        async with http_client(one.url) as http:
            assert (await http.get("/sse", headers={"Last-Event-ID": mine_id})).status_code == 401
            poll = await http.get(f"/api/poll?ticket={mine}", headers={"Last-Event-ID": mine_id})
            assert poll.status_code == 401

    async def test_its_id_is_a_cursor_elsewhere(self, start_replica: StartReplica) -> None:
        """Fails if a client that goes on at another endpoint cannot use the id that it has."""
        one = await start_replica(auth=JWT, redis_url=None)
        async with EventSource(one.url, ticket=await ticket(one, "alice")) as events:
            await events.next("connected")
            cursor = events.last_event_id
        await one.replica.manager.publish("#alice", "missed")
        async with Client(one.url) as client:
            await client.say({"type": "connect", "token": token("alice"), "cursor": cursor})
            assert await client.messages(1) == ["missed"]

    async def test_the_right_ends_with_the_token(self, start_replica: StartReplica) -> None:
        """Fails if coming back again and again lengthens the life of a token."""
        one = await start_replica(auth=JWT, redis_url=None)
        ends_in_s = soon()
        given = await ticket(one, "alice", expires_in=ends_in_s)
        async with EventSource(one.url, ticket=given) as events:
            assert (await events.ended())[-1]["code"] == 3005
            last_event_id = events.last_event_id
        async with EventSource(one.url, ticket=given, last_event_id=last_event_id) as events:
            assert (await events.error())["code"] == "invalid_token"

    async def test_without_redis_it_is_asked_to_try_again(
        self, start_replica: StartReplica, own_redis: RedisServer
    ) -> None:
        """Fails if a browser that comes back meanwhile is given an error, after which it never tries again."""
        one = await start_replica(auth=JWT, redis_url=own_redis.url)
        given = await ticket(one, "alice")
        async with EventSource(one.url, ticket=given) as events:
            await events.next("connected")
            last_event_id = events.last_event_id
        own_redis.stop()
        async with EventSource(one.url, ticket=given, last_event_id=last_event_id) as events:
            assert events.response.status_code == 200
            assert events.response.headers["content-type"].startswith("text/event-stream")
            assert await events.ended() == []
