"""`disconnect_user` and `unsubscribe_user`: on every replica within two seconds, whatever the bus does meanwhile."""

import asyncio
import json
import logging
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from heliograph.errors import BadChannel, BadUserId, BusUnavailable
from heliograph.protocol.codes import CloseCode
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.redis_admin import Eavesdropper, RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.tcp_proxy import TcpProxy
from tests.support.tokens import JWT, bearer, token
from tests.support.waiting import eventually

WITHIN_S = 2.0  # what is promised
DEAF = {"canary_interval_s": 60, "canary_timeout_s": 120}  # nobody notices that the bus connection is deaf


async def three(start_replica: StartReplica, **options: Any) -> list[RunningReplica]:
    return list(await asyncio.gather(*(start_replica(f"replica-{number}", **options) for number in (1, 2, 3))))


async def closed_with(*clients: Client) -> set[int]:
    """How the clients are closed, all of them within the time that is promised."""
    return set(await asyncio.gather(*(client.close_code(WITHIN_S) for client in clients)))


class TestDisconnect:
    async def test_every_connection_on_every_replica(self, start_replica: StartReplica) -> None:
        """Fails if a device of bob stays on some replica, somebody else goes, or the reason is lost."""
        replicas = await three(start_replica)
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            bobs = [await enter(Client(each.url, user="bob")) for each in replicas for _ in range(2)]
            alices = [await enter(Client(each.url, user="alice")) for each in replicas]
            await replicas[0].replica.user_commands.disconnect_user("bob", reason="그만")
            assert await closed_with(*bobs) == {3503}
            assert {bob.socket.close_reason for bob in bobs} == {"그만"}
            for alice in alices:
                await alice.nothing_more()
            for each in replicas:
                await eventually(lambda each=each: not each.replica.hub.count("bob"))

    async def test_a_user_who_is_nowhere(self, start_replica: StartReplica) -> None:
        """Fails if that is an error, or an impossible user is none."""
        one = await start_replica()
        await one.replica.user_commands.disconnect_user("nobody")
        with pytest.raises(BadUserId):
            await one.replica.user_commands.disconnect_user("")

    async def test_who_comes_back_is_not_disconnected_again(self, start_replica: StartReplica) -> None:
        """Fails if a command is carried out again by the look at what was kept, or by its own replica."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with Client(one.url, user="bob") as bob:
            await one.replica.user_commands.disconnect_user("bob")
            assert await bob.close_code(WITHIN_S) == 3503
        async with Client(one.url, user="bob") as here, Client(two.url, user="bob") as there:
            await _looked_twice(one, two)
            await here.nothing_more()
            await there.nothing_more()

    async def test_another_code(self, start_replica: StartReplica) -> None:
        """Fails if a caller that wants the client to come back cannot say so."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with Client(two.url, user="bob") as bob:
            await one.replica.user_commands.disconnect_user("bob", code=CloseCode.EXPIRED)
            assert await bob.close_code(WITHIN_S) == 3005

    async def test_streams_and_polls_alike(self, start_replica: StartReplica) -> None:
        """Fails if only sockets are closed, or a client on another endpoint is not told why."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with http_client(two.url, timeout=10) as http:
            first = (await http.get("/api/poll?user=bob")).json()
            waiting = asyncio.create_task(
                http.get("/api/poll", params={"user": "bob", "wait": 8, "cursor": first["cursor"]})
            )
            async with http.stream("GET", "/sse?user=bob") as stream:
                await eventually(lambda: two.replica.hub.count("bob") == 2 and not _parked(two))
                await one.replica.user_commands.disconnect_user("bob", reason="enough")
                async with asyncio.timeout(WITHIN_S):
                    text = "".join([each async for each in stream.aiter_text()])
                    answer = await waiting
            assert '{"type":"disconnect","code":3503,"reason":"enough"}' in text
            assert (answer.status_code, answer.json()["error"]) == (
                403,
                {"code": "not_allowed", "message": "enough"},
            )

    async def test_one_replica_alone(self, start_replica: StartReplica) -> None:
        """Fails if it takes Redis to disconnect who is here."""
        one = await start_replica(redis_url=None)
        async with Client(one.url, user="bob") as bob:
            await one.replica.user_commands.disconnect_user("bob")
            assert await bob.close_code(WITHIN_S) == 3503

    async def test_it_is_told_once_and_never_again(
        self, start_replica: StartReplica, redis_server: RedisServer, namespace: str
    ) -> None:
        """Fails if a replica publishes what came in over the bus: one command, told and kept by one replica."""
        replicas = await three(start_replica)
        async with (
            Eavesdropper(redis_server.url, f"{namespace}:events") as heard,
            Client(replicas[1].url, user="bob") as bob,
        ):
            await replicas[0].replica.user_commands.disconnect_user("bob")
            assert await bob.close_code(WITHIN_S) == 3503
            await _looked_twice(*replicas)
        told = [payload for payload in heard.payloads if b'"command"' in payload]
        assert len(told) == 1
        assert json.loads(told[0])["command"]["type"] == "disconnect"
        async with RedisAdmin(redis_server.url) as admin:
            assert await admin.redis.xlen(f"{namespace}:commands") == 1


class TestWithoutTheBus:
    async def test_a_bus_connection_that_is_deaf(
        self, start_replica: StartReplica, redis_server: RedisServer
    ) -> None:
        """Fails if a replica that hears nothing, and has not noticed it, keeps a user who was disconnected."""
        async with TcpProxy(redis_server.port) as proxy:
            one = await start_replica("replica-1")
            two = await start_replica("replica-2", redis_url=proxy.url, bus=DEAF)
            async with Client(two.url, user="bob") as bob:
                assert proxy.deafen(b"SUBSCRIBE") == 1
                await one.replica.user_commands.disconnect_user("bob")
                assert await bob.close_code(WITHIN_S) == 3503

    async def test_a_bus_connection_that_is_cut(self, start_replica: StartReplica, redis_server: RedisServer) -> None:
        """Fails if what was told between two subscriptions is lost to this replica."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with RedisAdmin(redis_server.url) as admin, Client(two.url, user="bob") as bob:
            await admin.cut_listeners()
            await one.replica.user_commands.disconnect_user("bob")
            assert await bob.close_code(WITHIN_S) == 3503

    async def test_a_replica_that_lost_redis_does_it_when_it_is_back(
        self, start_replica: StartReplica, redis_server: RedisServer
    ) -> None:
        """Fails if a replica that was cut off forgets it, or disconnects who has come since."""
        proxy = TcpProxy(redis_server.port)
        async with AsyncExitStack() as stack:
            one = await start_replica("replica-1")
            async with proxy:
                two = await start_replica("replica-2", redis_url=proxy.url)
                bob = await stack.enter_async_context(Client(two.url, user="bob"))
            await eventually(lambda: not two.replica.node.ready)
            await one.replica.user_commands.disconnect_user("bob")
            # How old a command is, is known to some milliseconds: the answer that brings it takes its time.
            later = time.monotonic() + 0.2
            await eventually(lambda: time.monotonic() > later)
            late = await stack.enter_async_context(Client(two.url, user="bob"))
            await bob.nothing_more()  # nobody could have told replica-2
            async with proxy:
                await eventually(lambda: two.replica.node.ready, within_s=10)
                assert await bob.close_code(WITHIN_S) == 3503
                await late.nothing_more()

    async def test_without_redis_it_is_done_here_and_said(
        self, start_replica: StartReplica, own_redis: RedisServer
    ) -> None:
        """Fails if the caller is not told that other replicas did not hear of it, or bob stays here."""
        one = await start_replica(redis_url=own_redis.url)
        async with Client(one.url, user="bob") as bob:
            own_redis.stop()
            with pytest.raises(BusUnavailable):
                await one.replica.user_commands.disconnect_user("bob")
            assert await bob.close_code(WITHIN_S) == 3503


class TestUnsubscribe:
    async def test_every_connection_leaves_the_channel(self, start_replica: StartReplica) -> None:
        """Fails if one still gets messages, is not told, stays in the presence, or cannot come again."""
        replicas = await three(start_replica, namespaces={"room": {"presence": True}}, presence={"grace_s": 0})
        replica = replicas[0].replica
        async with AsyncExitStack() as stack:
            bobs = [await stack.enter_async_context(Client(each.url, user="bob")) for each in replicas]
            alice = await stack.enter_async_context(Client(replicas[2].url, user="alice"))
            for client in (*bobs, alice):
                await client.say({"type": "subscribe", "channel": "room:1"})
                await client.next("subscribed")
            await replica.user_commands.unsubscribe_user("bob", "room:1")
            for bob in bobs:
                assert await bob.next("unsubscribed", within_s=WITHIN_S) == {
                    "type": "unsubscribed",
                    "channel": "room:1",
                }
            await replica.manager.publish("room:1", "for alice")
            assert await alice.messages(1) == ["for alice"]
            for bob in bobs:
                await bob.nothing_more()

            async def is_alone() -> bool:
                return (await replica.reading.presence("room:1")).users == {"alice": 1}

            await eventually(is_alone)
            await bobs[1].say({"type": "subscribe", "channel": "room:1", "id": 7})
            await bobs[1].next("subscribed", id=7)
            await replica.manager.publish("room:1", "for both")
            assert await bobs[1].messages(1) == ["for both"]

    async def test_who_is_not_on_it_hears_nothing(self, start_replica: StartReplica) -> None:
        """Fails if a client is told of a channel that it never was on."""
        one = await start_replica(redis_url=None)
        async with Client(one.url, user="bob") as bob:
            await one.replica.user_commands.unsubscribe_user("bob", "room:1")
            await bob.say({"type": "ping"})
            assert json.loads(await bob.socket.recv())["type"] == "pong"

    async def test_nobody_leaves_their_own_channel(self, start_replica: StartReplica) -> None:
        """Fails if a user can be cut off from what is addressed to them, or a channel that cannot be is let pass."""
        one = await start_replica(redis_url=None)
        for channel in ("#bob", "#alice", "", "#"):
            with pytest.raises(BadChannel):
                await one.replica.user_commands.unsubscribe_user("bob", channel)

    async def test_before_its_turn_has_come(self, start_replica: StartReplica) -> None:
        """Fails if a channel that waits while the client reads another one's past is subscribed to all the same."""
        one = await start_replica(redis_url=None)
        replica = one.replica
        for number in range(600):
            await replica.manager.publish("logs:1", {"number": number, "filler": "x" * 20_000})
        async with Client(one.url, path="/ws?user=bob&channels=logs:1,news") as bob:
            bob.socket.transport.pause_reading()
            await eventually(lambda: one.replica.hub.count("bob") and _waits(one))
            await replica.user_commands.unsubscribe_user("bob", "news")
            bob.socket.transport.resume_reading()
            await bob.next("unsubscribed", channel="news")
            for number in range(600):
                assert (await bob.next("message"))["data"]["number"] == number
            await bob.say({"type": "unsubscribe", "channel": "news", "id": 1})
            assert (await bob.next("error", id=1))["message"] == "not subscribed to 'news'"
            assert not one.replica.hub.subscribers("news")
            assert await bob.only("unsubscribed") == []

    async def test_while_it_is_being_subscribed(self, start_replica: StartReplica) -> None:
        """Fails if who is still reading the channel's past when the command comes is subscribed all the same."""
        one = await start_replica(redis_url=None)
        replica = one.replica
        for number in range(600):  # more than a page
            await replica.manager.publish("logs:1", {"number": number, "filler": "x" * 20_000})
        async with Client(one.url, user="bob") as bob:
            bob.socket.transport.pause_reading()
            await bob.say({"type": "subscribe", "channel": "logs:1", "id": 1})
            await eventually(lambda: one.replica.hub.count("bob") and _waits(one))
            await replica.user_commands.unsubscribe_user("bob", "logs:1")
            bob.socket.transport.resume_reading()
            await bob.next("subscribed", id=1)
            await bob.next("unsubscribed", channel="logs:1")
            told = [each["data"]["number"] for each in await bob.only("message")]
            assert told == list(range(len(told)))
            assert len(told) < 500  # not even the rest of the page that had been read
            assert not one.replica.hub.subscribers("logs:1")
            await bob.say({"type": "unsubscribe", "channel": "logs:1", "id": 2})
            assert (await bob.next("error", id=2))["message"] == "not subscribed to 'logs:1'"


async def test_it_is_quick(start_replica: StartReplica, caplog: pytest.LogCaptureFixture) -> None:
    """Fails if a command waits for the look at what was kept although the bus has brought it."""
    one, two = await start_replica("replica-1"), await start_replica("replica-2")
    with caplog.at_level(logging.INFO, "heliograph.cluster.commands"):
        took = []
        for _ in range(5):
            async with Client(two.url, user="bob") as bob:
                began_at = time.monotonic()
                await one.replica.user_commands.disconnect_user("bob")
                await bob.close_code(WITHIN_S)
                took.append(time.monotonic() - began_at)
    assert min(took) < 0.5
    assert not [record for record in caplog.records if "did not deliver" in record.getMessage()]


async def _looked_twice(*replicas: RunningReplica) -> None:
    """Wait until each replica has looked for commands again, after what it was at."""

    async def looked(replica: RunningReplica) -> None:
        commands = replica.replica.shards[0].commands
        looks = 0
        after = commands._log.after

        async def counted(*arguments: Any) -> Any:
            nonlocal looks
            found = await after(*arguments)
            looks += 1
            return found

        commands._log.after = counted  # type: ignore[assignment, method-assign]
        commands.lost_track()
        await eventually(lambda: looks >= 1)
        looks = 0
        commands.lost_track()
        await eventually(lambda: looks >= 1)
        commands._log.after = after  # type: ignore[method-assign]

    await asyncio.gather(*map(looked, replicas))


def _parked(one: RunningReplica) -> Any:
    """The connections of clients between two polls."""
    routes: list[Any] = [*one.replica.app.routes]
    [endpoint] = [route.app for route in routes if getattr(route, "path", "") == "/api/poll"]
    return endpoint._serve.__self__._parked._parked


def _waits(one: RunningReplica) -> bool:
    [connection] = one.replica.hub.connections_of("bob")
    return bool(connection.outbox._bytes > 65_536)


class TestBlock:
    """`block_s`: the user is kept out, on every replica, whatever they come with."""

    async def test_on_every_replica_and_endpoint(self, start_replica: StartReplica) -> None:
        """Fails if a blocked user gets in on some replica, by some endpoint, or somebody else does not."""
        replicas = [await start_replica(f"replica-{number}", auth=JWT) for number in (1, 2)]
        one, two = replicas
        async with http_client(two.url) as http:
            given = (await http.post("/api/ticket", headers=bearer("bob"))).json()["ticket"]
            async with Client(two.url) as bob:
                await bob.say({"type": "connect", "token": token("bob")})
                await bob.next("connected")
                await one.replica.user_commands.disconnect_user("bob", block_s=60)
                assert await bob.close_code(WITHIN_S) == 3503
            for replica in replicas:
                async with Client(replica.url) as bob:
                    await bob.say({"type": "connect", "token": token("bob")})
                    assert (await bob.next("error"))["code"] == "not_allowed"
                    assert await bob.close_code() == 3503
                with pytest.raises(InvalidStatus) as refused:
                    async with connect(_ws(replica), additional_headers=bearer("bob"), proxy=None):
                        pass
                assert refused.value.response.status_code == 403
                async with Client(replica.url) as alice:
                    await alice.say({"type": "connect", "token": token("alice")})
                    await alice.next("connected")
            for method, path in (
                ("GET", "/sse"),
                ("GET", "/api/poll"),
                ("GET", "/api/runs/1"),
                ("POST", "/api/ticket"),
            ):
                assert (await http.request(method, path, headers=bearer("bob"))).status_code == 403, path
            assert (await http.get(f"/sse?ticket={given}")).status_code == 403
            await two.replica.user_commands.disconnect_user("bob", block_s=0)
            assert (await http.post("/api/ticket", headers=bearer("bob"))).status_code == 200
            await eventually(lambda: _lets_in(one, "bob"), within_s=WITHIN_S)

    async def test_it_ends_by_itself(self, start_replica: StartReplica) -> None:
        """Fails if a block lasts longer, or not as long, as was said."""
        one = await start_replica()
        started = time.monotonic()
        await one.replica.user_commands.disconnect_user("bob", block_s=0.8)
        await eventually(lambda: _lets_in(one, "bob"), within_s=5)
        assert 0.7 < time.monotonic() - started < 2.0

    async def test_a_replica_that_starts_later_knows(self, start_replica: StartReplica) -> None:
        """Fails if a deploy, or a new replica, lets in whom the others keep out."""
        one = await start_replica("replica-1")
        await one.replica.user_commands.disconnect_user("bob", block_s=60)
        await one.stop()
        two = await start_replica("replica-2")
        await eventually(lambda: _keeps_out(two, "bob"), within_s=WITHIN_S)

    async def test_a_replica_that_the_bus_does_not_reach(
        self, start_replica: StartReplica, redis_server: RedisServer
    ) -> None:
        """Fails if a replica that did not hear the command lets the user in."""
        async with TcpProxy(redis_server.port) as proxy:
            one = await start_replica("replica-1")
            two = await start_replica("replica-2", redis_url=proxy.url, bus=DEAF)
            assert proxy.deafen(b"SUBSCRIBE") == 1
            await one.replica.user_commands.disconnect_user("bob", block_s=60)
            await eventually(lambda: _keeps_out(two, "bob"), within_s=WITHIN_S)

    async def test_who_is_connecting_is_told(self, start_replica: StartReplica, own_redis: RedisServer) -> None:
        """Fails if a block that comes between a client's credentials and its greeting closes it without an error, or
        it sees a message before that."""
        one = await start_replica(redis_url=own_redis.url)
        async with Client(one.url, user="alice") as alice, Client(one.url) as bob:
            own_redis.freeze()
            await bob.say({"type": "connect", "user": "bob"})
            await eventually(lambda: one.replica.hub.count("bob"))  # and its directory does not answer yet
            await alice.say({"type": "send", "to": "bob", "data": "not for you yet", "ephemeral": True})
            await alice.nothing_more()
            one.replica.shards[0].commands._blocked.block("bob", 60)
            own_redis.thaw()
            error = json.loads(await bob.socket.recv())
            assert (error["type"], error["code"]) == ("error", "not_allowed")
            assert await bob.close_code() == CloseCode.FORCED

    async def test_without_redis_the_caller_is_told(
        self, start_replica: StartReplica, own_redis: RedisServer
    ) -> None:
        """Fails if a caller believes that a user is kept out everywhere, or this replica lets them in."""
        one = await start_replica(redis_url=own_redis.url)
        own_redis.stop()
        with pytest.raises(BusUnavailable):
            await one.replica.user_commands.disconnect_user("bob", block_s=60)
        assert await _keeps_out(one, "bob")


def _ws(replica: RunningReplica) -> str:
    return f"{replica.url.replace('http', 'ws', 1)}/ws"


async def _lets_in(replica: RunningReplica, user: str) -> bool:
    async with Client(replica.url) as client:
        token_or_user = {"user": user, "token": token(user)}
        await client.say({"type": "connect", **token_or_user})
        try:
            return bool((await client.next("connected", "error"))["type"] == "connected")
        except ConnectionClosed:  # the command came while it connected
            if await client.close_code() != CloseCode.FORCED:
                raise
            return False


async def _keeps_out(replica: RunningReplica, user: str) -> bool:
    return not await _lets_in(replica, user)
