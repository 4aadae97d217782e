"""Subscription tokens over real sockets: they open a channel, expire, and are refreshed."""

import time
from typing import Any

import pytest

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, soon, token

NAMESPACES = {"vip": {"presence": True, "client_subscribe": False}}


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    return await start_replica(auth=JWT, redis_url=None, namespaces=NAMESPACES)


async def connected(client: Client) -> Client:
    await client.say({"type": "connect", "token": token("alice", info={"name": "Alice"})})
    await client.next("connected")
    return client


async def ask(client: Client, kind: str, **fields: Any) -> dict[str, Any]:
    await client.say({"type": kind, "id": "asked", **fields})
    return await client.next("subscribed", "refreshed", "history", "presence", "error", id="asked")


async def test_a_token_opens_a_channel(one: RunningReplica) -> None:
    """Fails if the namespace is open without a token, closed with one, or what is published does not come."""
    async with Client(one.url) as client:
        alice = await connected(client)
        assert (await ask(alice, "subscribe", channel="vip:1"))["code"] == "not_allowed"
        answer = await ask(alice, "subscribe", channel="vip:1", token=token("alice", channel="vip:1"))
        assert answer["type"] == "subscribed"
        assert 55 <= answer["expires_in"] <= 60
        await one.replica.manager.publish("vip:1", "hello")
        assert await alice.messages(1) == ["hello"]
        assert (await ask(alice, "history", channel="vip:1"))["type"] == "history"
        assert (await ask(alice, "presence", channel="vip:1"))["users"] == {"alice": 1}
        free = await ask(alice, "subscribe", channel="vip:2", token=token("alice", channel="vip:2", expires_in=None))
        assert "expires_in" not in free


async def test_a_bad_token(one: RunningReplica) -> None:
    """Fails if another's token, or one for another channel, opens it; or an expired one is not told apart."""
    bad = [
        ("nonsense", "not_allowed"),
        (token("alice"), "not_allowed"),
        (token("alice", channel="vip:2"), "not_allowed"),
        (token("bob", channel="vip:1"), "not_allowed"),
        (token("alice", channel="vip:1", key="another secret of thirty-two bytes"), "not_allowed"),
        (token("alice", channel="vip:1", expires_in=-1), "token_expired"),
    ]
    async with Client(one.url) as client:
        alice = await connected(client)
        for made, code in bad:
            refused = await ask(alice, "subscribe", channel="vip:1", token=made)
            assert (refused["type"], refused["code"]) == ("error", code)
        await one.replica.manager.publish("vip:1", "hello")
        await alice.nothing_more()
        assert (await ask(alice, "subscribe", channel="vip:1", token=token("alice", channel="vip:1")))["channel"]


@pytest.mark.slow
async def test_it_ends_unless_it_is_refreshed(start_replica: StartReplica) -> None:
    """Fails if a subscription outlives its token by more than the grace, ends before, or despite a new token."""
    auth = {**JWT, "subscription_grace_s": 0}
    one = await start_replica(auth=auth, redis_url=None, namespaces=NAMESPACES)
    ends_in_s = soon()
    ends_at = time.time() + ends_in_s
    async with Client(one.url) as client:
        alice = await connected(client)
        for channel in ("vip:1", "vip:2"):
            made = token("alice", channel=channel, expires_in=ends_in_s)
            await ask(alice, "subscribe", channel=channel, token=made)
        kept = await ask(alice, "refresh", channel="vip:2", token=token("alice", channel="vip:2"))
        assert kept["channel"] == "vip:2"
        assert 55 <= kept["expires_in"] <= 60
        assert (await alice.next("unsubscribed"))["channel"] == "vip:1"
        assert time.time() >= ends_at - 0.1
        for channel in ("vip:1", "vip:2"):
            await one.replica.manager.publish(channel, channel)
        assert await alice.messages(1) == ["vip:2"]
        await alice.nothing_more()
        expired = await ask(alice, "refresh", channel="vip:1", token=token("alice", channel="vip:1"))
        assert expired["code"] == "bad_request"


async def test_a_refresh_that_is_refused_changes_nothing(one: RunningReplica) -> None:
    """Fails if a bad token takes the client off the channel."""
    async with Client(one.url) as client:
        alice = await connected(client)
        await ask(alice, "subscribe", channel="vip:1", token=token("alice", channel="vip:1"))
        for made in (token("bob", channel="vip:1"), token("alice"), "nonsense"):
            assert (await ask(alice, "refresh", channel="vip:1", token=made))["code"] == "not_allowed"
        await one.replica.manager.publish("vip:1", "still here")
        assert await alice.messages(1) == ["still here"]
