"""A token that runs out: the connection ends, or goes on with a new one. And what tokens allow on channels."""

import asyncio
import json
import time
from typing import Any

import pytest
from websockets.asyncio.client import connect

from heliograph.codecs.plain.cursor import cursor_of
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.raw_socket import CLOSE, RawSocket
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, bearer, soon, token
from tests.support.waiting import eventually

CLOSED = {
    "vip": {"presence": True},
    "chat": {"client_subscribe": True, "join_leave": False},
    "open": {"client_publish": True},
    "#": {"client_send": True},
}


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    return await start_replica(auth=JWT, redis_url=None, namespaces=CLOSED)


class Bearer(Client):
    """A client that has connected with a token, if `token_text` is given."""

    def __init__(self, replica: RunningReplica, token_text: str) -> None:
        super().__init__(replica.url)
        self._token = token_text

    async def __aenter__(self) -> "Bearer":
        await super().__aenter__()
        await self.say({"type": "connect", "token": self._token})
        self.connected = await self.next("connected")
        return self

    async def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Say something; returns what answers it."""
        request_id = next(self._ids)
        await self.say({"type": kind, "id": request_id, **fields})
        answers = ("ack", "error", "subscribed", "unsubscribed", "history", "presence", "refreshed")
        return await self.next(*answers, id=request_id)

    async def refresh(self, text: str) -> dict[str, Any]:
        return await self.ask("refresh", token=text)


class TestRefresh:
    @pytest.mark.slow
    async def test_a_new_token_takes_the_old_ones_place(self, one: RunningReplica) -> None:
        """Fails if the connection ends with the first token, outlives the second, or the time is told wrongly."""
        first_s = soon()
        ends_at = time.time() + first_s + 1
        async with Bearer(one, token("alice", expires_in=first_s)) as alice:
            refreshed = await alice.refresh(token("alice", expires_in=ends_at - time.time()))
            assert refreshed.keys() == {"type", "expires_in", "id"}
            assert refreshed["expires_in"] in (1, 2)
            assert await alice.close_code(within_s=8) == 3005
            assert time.time() > ends_at - 0.1

    @pytest.mark.slow
    async def test_a_token_without_an_end(self, one: RunningReplica) -> None:
        """Fails if the old end stays, or a client cannot tell that there is none."""
        ends_in_s = soon()
        ends_at = time.time() + ends_in_s
        async with Bearer(one, token("alice", expires_in=ends_in_s)) as alice:
            assert (await alice.refresh(token("alice", expires_in=None)))["expires_in"] is None
            await eventually(lambda: time.time() > ends_at + 0.1)
            await alice.nothing_more()
            assert (await alice.refresh(token("alice", expires_in=soon())))["expires_in"] in (0, 1)
            assert await alice.close_code() == 3005

    async def test_another_users_token_is_refused(self, one: RunningReplica) -> None:
        """Fails if a connection changes hands, or alice loses hers because somebody tried."""
        async with Bearer(one, token("alice")) as alice:
            error = await alice.refresh(token("bob"))
            assert (error["type"], error["code"]) == ("error", "not_allowed")
            await alice.send("alice", "still alice")
            assert (await alice.next("message"))["from"] == "alice"
            assert not one.replica.hub.count("bob")

    async def test_a_bad_token_changes_nothing(self, one: RunningReplica) -> None:
        """Fails if a bad token ends what a good one has begun, or lengthens it."""
        bad_tokens = ("", "nonsense", token("alice", expires_in=-1), token("alice", key="x" * 40), token(None))
        async with Bearer(one, token("alice", expires_in=soon())) as alice:
            for bad in bad_tokens:
                error = await alice.refresh(bad)
                assert (error["type"], error["code"]) == ("error", "invalid_token"), bad
            await alice.nothing_more()
            assert await alice.close_code() == 3005

    async def test_after_the_end_it_is_too_late(self, one: RunningReplica) -> None:
        """Fails if a refresh that crosses the close brings the connection back, or breaks something."""
        async with RawSocket(one.url) as alice:
            await alice.say({"type": "connect", "token": token("alice", expires_in=soon())})
            assert (await alice.closed())[0] == 3005
            await alice.say({"type": "refresh", "token": token("alice")})
            await alice.send(CLOSE, (3005).to_bytes(2))
            with pytest.raises(EOFError):
                await alice.frame()
        assert one.replica.hub.connections == 0

    async def test_two_at_once(self, one: RunningReplica) -> None:
        """Fails if of two refreshes the first counts in the end, or one gets no answer."""
        async with Bearer(one, token("alice", expires_in=30)) as alice:
            for number, expires_in in ((1, 600), (2, soon())):
                text = token("alice", expires_in=expires_in)
                await alice.say({"type": "refresh", "token": text, "id": f"r{number}"})
            assert (await alice.next("refreshed", id="r1"))["expires_in"] > 500
            assert (await alice.next("refreshed", id="r2"))["expires_in"] <= 2
            assert await alice.close_code() == 3005

    async def test_the_first_frame_is_connect(self, one: RunningReplica) -> None:
        """Fails if a refresh stands for a connect."""
        async with Client(one.url) as client:
            await client.say({"type": "refresh", "token": token("alice")})
            assert (await client.next("error"))["code"] == "bad_request"
            assert await client.close_code() == 3501

    async def test_a_refresh_without_a_token(self, one: RunningReplica) -> None:
        """Fails if a frame without a token is taken for one, or breaks something."""
        async with Bearer(one, token("alice")) as alice:
            for fields in ({}, {"token": None}, {"token": 5}):
                assert (await alice.ask("refresh", **fields))["code"] == "bad_request"

    async def test_open_mode_has_nothing_to_refresh(self, start_replica: StartReplica) -> None:
        """Fails if a client believes that it has done something."""
        one = await start_replica(redis_url=None)
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "refresh", "token": token("alice"), "id": 1})
            assert "open mode" in (await alice.next("error", id=1))["message"]

    async def test_a_client_that_came_by_header_refreshes_too(self, one: RunningReplica) -> None:
        """Fails if only a first frame can be followed by a refresh."""
        url = f"{one.url.replace('http', 'ws', 1)}/ws"
        async with connect(url, additional_headers=bearer("alice", expires_in=2), proxy=None) as socket:
            assert '"connected"' in await socket.recv(decode=True)
            await socket.send(json.dumps({"type": "refresh", "token": token("alice", expires_in=60)}))
            assert '"refreshed"' in await socket.recv(decode=True)


class TestGrants:
    async def test_a_list_is_subscribed_to_at_once(self, one: RunningReplica) -> None:
        """Fails if a token cannot open a channel that its namespace keeps closed, or has to be asked to."""
        async with Bearer(one, token("alice", channels=["vip:1", "vip:lounge:*"])) as alice:
            assert (await alice.next("subscribed"))["channel"] == "vip:1"
            await one.replica.manager.publish("vip:1", "hello")
            assert await alice.messages(1) == ["hello"]
            assert (await alice.ask("subscribe", channel="vip:lounge:5"))["type"] == "subscribed"
            assert (await alice.ask("history", channel="vip:1"))["publications"][0]["data"] == "hello"
            assert (await alice.ask("presence", channel="vip:1"))["users"] == {"alice": 1}
            for kind in ("subscribe", "history", "presence"):
                assert (await alice.ask(kind, channel="vip:2"))["code"] == "not_allowed", kind
            assert (await alice.ask("publish", channel="vip:1", data=1))["code"] == "not_allowed"

    async def test_without_a_claim_the_namespace_decides(self, one: RunningReplica) -> None:
        """Fails if a token without channels may do more than anybody, or less."""
        async with Bearer(one, token("alice")) as alice:
            for kind in ("subscribe", "history", "presence"):
                assert (await alice.ask(kind, channel="vip:1"))["code"] == "not_allowed", kind
            assert (await alice.ask("subscribe", channel="chat:1"))["type"] == "subscribed"
            assert (await alice.ask("publish", channel="chat:1", data=1))["code"] == "not_allowed"
            assert (await alice.ask("publish", channel="open:1", data=1))["type"] == "ack"
            assert (await alice.ask("publish", channel="news", data=1))["code"] == "not_allowed"

    async def test_publishing(self, one: RunningReplica) -> None:
        """Fails if a token cannot let its bearer publish, or lets them where it does not say so."""
        channels = {"chat:*": ["subscribe", "publish"], "vip:1": ["publish"]}
        async with Bearer(one, token("alice", channels=channels)) as alice:
            assert (await alice.ask("publish", channel="chat:1", data=1))["type"] == "ack"
            assert (await alice.ask("publish", channel="vip:1", data=1))["type"] == "ack"
            assert (await alice.ask("subscribe", channel="vip:1"))["code"] == "not_allowed"
            assert (await alice.ask("publish", channel="news", data=1))["code"] == "not_allowed"
            await alice.nothing_more()  # nothing is subscribed to at once

    async def test_nobody_listens_to_another_users_channel(self, one: RunningReplica) -> None:
        """Fails if a token for everything, or a cursor, reaches what is addressed to somebody else."""
        everything = {"*": ["subscribe", "publish"]}
        async with Bearer(one, token("mallory", channels=everything)) as mallory:
            await one.replica.manager.publish("#bob", "secret")
            for kind in ("subscribe", "history", "presence"):
                assert (await mallory.ask(kind, channel="#bob"))["code"] == "not_allowed", kind
            assert (await mallory.ask("publish", channel="#bob", data=1))["code"] == "not_allowed"
            assert (await mallory.ask("publish", channel="#mallory", data=1))["code"] == "not_allowed"
            await mallory.nothing_more()
            position = await one.replica.reading.listen(one.replica.hub.connections_of("mallory")[0], "#bob")
        assert position is not None
        cursor = cursor_of("#bob", position)
        async with Client(one.url) as again:
            await again.say({"type": "connect", "token": token("mallory", channels=everything), "cursor": cursor})
            await again.next("connected")
            await one.replica.manager.publish("#bob", "another secret")
            await again.nothing_more()

    async def test_more_channels_than_a_connection_may_have(self, start_replica: StartReplica) -> None:
        """Fails if the rest of a long list is left out without a word."""
        one = await start_replica(auth=JWT, redis_url=None, limits={"channels_per_connection": 2})
        async with Bearer(one, token("alice", channels=["a", "b", "c"])) as alice:
            assert [(await alice.next("subscribed"))["channel"] for _ in range(2)] == ["a", "b"]
            assert (await alice.next("error"))["code"] == "channel_limit"

    async def test_channels_of_the_url_and_of_the_token(self, one: RunningReplica) -> None:
        """Fails if a channel that both name is subscribed to twice, or refused for that."""
        async with Client(one.url, path="/ws?channels=vip:1,chat:1") as alice:
            await alice.say({"type": "connect", "token": token("alice", channels=["vip:1", "vip:2"])})
            got = [(await alice.next("subscribed", "error")).get("channel") for _ in range(3)]
            assert sorted(map(str, got)) == ["chat:1", "vip:1", "vip:2"]
            await alice.nothing_more()


class TestNewGrants:
    async def test_what_the_new_token_does_not_allow_is_left(self, one: RunningReplica) -> None:
        """Fails if a right that was taken back goes on, or a channel that is everybody's is left."""
        async with Bearer(one, token("alice", channels=["vip:1", "vip:2"])) as alice:
            for channel in ("vip:1", "vip:2"):
                await alice.next("subscribed", channel=channel)
            await alice.ask("subscribe", channel="chat:1")
            await alice.refresh(token("alice", channels={"vip:2": ["subscribe"]}))
            assert (await alice.next("unsubscribed")) == {"type": "unsubscribed", "channel": "vip:1"}
            for channel in ("vip:1", "vip:2", "chat:1"):
                await one.replica.manager.publish(channel, channel)
            assert await alice.messages(2) == ["vip:2", "chat:1"]
            await alice.nothing_more()
            assert (await alice.ask("subscribe", channel="vip:1"))["code"] == "not_allowed"
            assert (await alice.ask("publish", channel="vip:2", data=1))["code"] == "not_allowed"

    async def test_what_the_new_token_brings_is_joined(self, one: RunningReplica) -> None:
        """Fails if a new channel has to be asked for, or one that the client has left comes back by itself."""
        async with Bearer(one, token("alice", channels=["vip:1"])) as alice:
            await alice.next("subscribed", channel="vip:1")
            await alice.ask("unsubscribe", channel="vip:1")
            await alice.refresh(token("alice", channels=["vip:1", "vip:2"]))
            assert (await alice.next("subscribed"))["channel"] == "vip:2"
            await one.replica.manager.publish("vip:1", 1)
            await alice.nothing_more()


async def test_a_user_who_was_disconnected_needs_no_new_replica(one: RunningReplica) -> None:
    """Fails if being disconnected by the server is a ban that nobody asked for."""
    async with Bearer(one, token("alice")) as alice:
        await one.replica.user_commands.disconnect_user("alice")
        assert await alice.close_code() == 3503
    async with Bearer(one, token("alice")) as alice:
        await alice.nothing_more()


async def test_expiry_while_the_client_is_being_let_in(one: RunningReplica) -> None:
    """Fails if a token that runs out at that moment leaves a connection behind that never ends."""

    async def comes() -> int:
        async with Client(one.url) as client:
            await client.say({"type": "connect", "token": token("alice", expires_in=1.05)})
            return await client.close_code()

    assert set(await asyncio.gather(*(comes() for _ in range(5)))) <= {3005, 3500}
    await eventually(lambda: one.replica.hub.connections == 0)
