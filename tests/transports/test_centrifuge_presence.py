"""Presence by client, subscription tokens and options of namespaces, as a Centrifuge client sees them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from heliograph.ports import PresenceEntry
from heliograph.protocol.client_info import ClientInfo, info_of
from tests.conftest import StartReplica
from tests.support.centrifuge import CentrifugeClient
from tests.support.client import Client
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, token
from tests.support.waiting import eventually

NAMESPACES: dict[str, Any] = {
    "room": {"presence": True, "join_leave": True, "client_subscribe": True},
    "pushed": {"presence": True, "join_leave": True, "force_push_join_leave": True, "client_subscribe": True},
    "vip": {"presence": True, "client_subscribe": False},
    "price": {"force_recovery_mode": "cache", "client_subscribe": True},
    "quiet": {"client_subscribe": True, "presence": True, "allow_presence_for_client": False},
    "dialog": {"allow_user_limited_channels": True},
}


@dataclass
class Pair:
    """Two replicas of one cluster, or twice the only one."""

    here: RunningReplica
    there: RunningReplica


@pytest.fixture(params=["memory", "redis"])
async def pair(request: pytest.FixtureRequest, start_replica: StartReplica) -> Pair:
    if request.param == "memory":
        alone = await start_replica(redis_url=None, auth=JWT, namespaces=NAMESPACES)
        return Pair(alone, alone)
    options: dict[str, Any] = {"auth": JWT, "namespaces": NAMESPACES}
    return Pair(await start_replica("replica-1", **options), await start_replica("replica-2", **options))


def bearer(replica: RunningReplica, user: str, **claims: Any) -> CentrifugeClient:
    return CentrifugeClient(replica.url, connect={"token": token(user, **claims)})


async def present(client: CentrifugeClient, channel: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.call("presence", channel=channel))["presence"]
    return found


async def settled(client: CentrifugeClient, channel: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Presence, once it is so: it is written a moment after the answer to `subscribe`."""
    found: dict[str, Any] = {}

    async def look() -> bool:
        nonlocal found
        found = await present(client, channel)
        return is_so(found)

    await eventually(look)
    return found


async def test_who_is_there(pair: Pair) -> None:
    """Fails if a client is missing, or has no or another's infos; or counts differ; or one stays that has left."""
    name = {"name": "Alice"}
    async with (
        bearer(pair.here, "alice", info=name) as phone,
        bearer(pair.there, "alice", subs={"room:1": {"info": "desk"}}) as desk,
        bearer(pair.there, "bob") as bob,
    ):
        for client in (phone, bob):
            await client.call("subscribe", channel="room:1")
        ids = [each.connected["client"] for each in (phone, desk, bob)]
        assert await settled(bob, "room:1", lambda found: len(found) == 3) == {
            ids[0]: {"user": "alice", "client": ids[0], "conn_info": name},
            ids[1]: {"user": "alice", "client": ids[1], "chan_info": "desk"},
            ids[2]: {"user": "bob", "client": ids[2]},
        }
        assert await bob.call("presence_stats", channel="room:1") == {"num_clients": 3, "num_users": 2}
        await phone.call("unsubscribe", channel="room:1")
        assert set(await settled(bob, "room:1", lambda found: len(found) == 2)) == set(ids[1:])
        assert await bob.call("presence_stats", channel="room:1") == {"num_clients": 2, "num_users": 2}


async def test_joins_and_leaves_of_each_client(pair: Pair) -> None:
    """Fails if a client's join or leave is not told, without its infos, or to users of the plain protocol too."""
    async with (
        bearer(pair.here, "bob") as bob,
        Client(pair.here.url) as plain,
        bearer(pair.there, "alice", info=1) as first,
        bearer(pair.there, "alice", info=2) as second,
    ):
        await plain.say({"type": "connect", "token": token("carl")})
        await plain.say({"type": "subscribe", "channel": "room:1"})
        await bob.call("subscribe", channel="room:1", join_leave=True)
        assert (await bob.push("join", "room:1"))["info"]["user"] in ("bob", "carl")
        for client in (first, second):
            await client.call("subscribe", channel="room:1")

        async def joined(client: CentrifugeClient, info: int) -> None:
            expected = {"user": "alice", "client": client.connected["client"], "conn_info": info}
            while (await bob.push("join", "room:1"))["info"] != expected:
                pass

        await joined(first, 1)
        await joined(second, 2)
        await second.call("unsubscribe", channel="room:1")
        left = (await bob.push("leave", "room:1"))["info"]
        assert left == {"user": "alice", "client": second.connected["client"], "conn_info": 2}
        await plain.next("join", user="alice")
        assert await plain.only("leave") == []
        assert [each for each in await plain.only("join") if each["user"] == "alice"] == []


async def test_a_namespace_pushes_joins_by_itself(pair: Pair) -> None:
    """Fails if `force_push_join_leave` needs a client to ask, or a server-side subscription is left out."""
    async with bearer(pair.here, "bob", channels=["pushed:1"]) as bob, bearer(pair.there, "alice") as alice:
        await alice.call("subscribe", channel="pushed:1")
        users = {(await bob.push("join", "pushed:1"))["info"]["user"] for _ in range(2)}
        assert users == {"bob", "alice"}
        assert (await alice.push("join", "pushed:1"))["info"]["user"] == "alice", "a joiner is told of itself"


async def test_subscription_tokens(pair: Pair) -> None:
    """Fails if a token opens nothing, has no end, or a bad one is not refused with the number that SDKs know."""
    async with bearer(pair.here, "alice") as alice:
        assert (await alice.refused("subscribe", channel="vip:1"))["code"] == 103
        for bad, number in (
            ("nonsense", 103),
            (token("bob", channel="vip:1"), 103),
            (token("alice", channel="vip:2"), 103),
            (token("alice", channel="vip:1", expires_in=-1), 109),
        ):
            assert (await alice.refused("subscribe", channel="vip:1", token=bad))["code"] == number
        made = token("alice", channel="vip:1", info={"seat": 7})
        result = await alice.call("subscribe", channel="vip:1", token=made)
        assert result["expires"] is True
        assert 55 <= result["ttl"] <= 60
        found = await settled(alice, "vip:1", bool)
        assert found[alice.connected["client"]]["chan_info"] == {"seat": 7}
        refreshed = await alice.call("sub_refresh", channel="vip:1", token=token("alice", channel="vip:1"))
        assert refreshed["expires"] is True
        assert (await alice.refused("sub_refresh", channel="vip:1", token="nonsense"))["code"] == 103


async def test_options_of_namespaces(pair: Pair) -> None:
    """Fails if an option that holds for the plain protocol does not hold for an SDK."""
    for price in (1, 2, 3):
        await pair.here.replica.manager.publish("price:gold", price)
    async with bearer(pair.there, "alice") as alice:
        await alice.call("subscribe", channel="price:gold")
        assert (await alice.push("pub", "price:gold"))["data"] == 3
        assert (await alice.refused("presence", channel="quiet:1"))["code"] == 103
        assert (await alice.refused("subscribe", channel="dialog:1#bob,carl"))["code"] == 103
        assert "offset" not in await alice.call("subscribe", channel="dialog:1#bob,alice")


async def test_more_than_fits_into_an_answer(pair: Pair) -> None:
    """Fails if clients with long infos have one closed who asks for presence; counting them still works."""
    info = info_of(json.dumps("x" * 10_000).encode())
    clients = [(f"c{number}", ClientInfo(f"c{number}", "crowd", info)) for number in range(60)]
    entry = PresenceEntry("room:1", "crowd", len(clients), False, clients)
    assert await pair.here.replica.backends.presence.enter(pair.here.replica.directory.lease, [entry])
    async with bearer(pair.there, "alice") as alice:
        assert (await alice.refused("presence", channel="room:1"))["code"] == 108
        stats = await alice.call("presence_stats", channel="room:1")
        assert stats == {"num_clients": 60, "num_users": 1}
