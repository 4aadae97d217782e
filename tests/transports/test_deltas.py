"""Subscriptions with deltas over real sockets: whatever happens, each client rebuilds every publication."""

import asyncio
import json
from typing import Any

import pytest

from tests.conftest import StartReplica
from tests.support.centrifuge import CentrifugeClient
from tests.support.client import Client
from tests.support.fossil import apply_delta
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

NAMESPACES: dict[str, Any] = {
    "score": {"allowed_delta_types": ["fossil"], "history_size": 1000, "presence": True, "join_leave": True},
    "price": {"allowed_delta_types": ["fossil"], "force_recovery_mode": "cache"},
}


def document(goals: int) -> dict[str, Any]:
    events = [{"minute": each, "what": f"Ereignis №{each}"} for each in range(20)]
    return {"home": "Österreich", "away": "대한민국", "goals": goals, "events": events}


class Reader:
    """Rebuilds the publications of one subscription, as an SDK does."""

    def __init__(self, client: CentrifugeClient, channel: str) -> None:
        self._client = client
        self._channel = channel
        self._before = b""
        self.differences = self.whole = 0

    async def next(self) -> Any:
        pub = await self._client.push("pub", self._channel)
        text = pub["data"].encode()
        if pub.get("delta"):
            self.differences += 1
            text = apply_delta(self._before, text)
        else:
            self.whole += 1
        self._before = text
        return json.loads(text)


@pytest.fixture(params=["memory", "redis"])
async def one(request: pytest.FixtureRequest, start_replica: StartReplica) -> RunningReplica:
    options = {"redis_url": None} if request.param == "memory" else {}
    return await start_replica(namespaces=NAMESPACES, **options)


async def subscribe(client: CentrifugeClient, channel: str = "score:1", **fields: Any) -> Reader:
    result = await client.call("subscribe", channel=channel, delta="fossil", **fields)
    assert result["delta"] is True
    return Reader(client, channel)


async def test_one_whole_publication_and_then_differences(one: RunningReplica) -> None:
    """Fails if a client cannot rebuild what was published, or gets more than one whole publication; or if one without
    deltas, on the same channel, is not served as before."""
    async with (
        CentrifugeClient(one.url, user="a") as a,
        CentrifugeClient(one.url, user="b") as b,
        CentrifugeClient(one.url, user="c") as without,
        Client(one.url, user="d") as plain,
    ):
        reader = await subscribe(a)
        await without.call("subscribe", channel="score:1")
        await plain.say({"type": "subscribe", "channel": "score:1"})
        await plain.next("subscribed")
        for goals in range(5):
            await one.replica.manager.publish("score:1", document(goals))
            assert await reader.next() == document(goals)
        assert (reader.whole, reader.differences) == (1, 4)
        late = await subscribe(b)
        for goals in range(5, 8):
            await one.replica.manager.publish("score:1", document(goals))
            assert await reader.next() == await late.next() == document(goals)
        assert (reader.whole, late.whole, late.differences) == (1, 1, 2)
        for goals in range(8):
            assert (await without.push("pub", "score:1"))["data"] == document(goals)
        assert await plain.messages(8) == [document(goals) for goals in range(8)]


async def test_a_burst_to_many(one: RunningReplica) -> None:
    """Fails if events that are delivered together are encoded out of turn: each client must follow every one."""
    clients = [CentrifugeClient(one.url, user=f"u{number}") for number in range(12)]
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(client.__aenter__())
    readers = [await subscribe(client) for client in clients[:10]]
    await clients[10].call("subscribe", channel="score:1")
    for begin in (0, 20):
        publishing = [one.replica.manager.publish("score:1", document(n)) for n in range(begin, begin + 20)]
        await asyncio.gather(*publishing)
        for reader in readers:
            assert [(await reader.next())["goals"] for _ in range(20)] == list(range(begin, begin + 20))
        if begin == 0:
            readers += [await subscribe(clients[11])]
            await clients[0].call("unsubscribe", channel="score:1")
            del readers[0]
            readers, newcomer = readers[:-1], readers[-1]
            readers.append(newcomer)
    assert {reader.whole for reader in readers} == {1}
    assert [(await clients[10].push("pub", "score:1"))["data"]["goals"] for _ in range(40)] == list(range(40))
    for client in clients:
        await client.__aexit__(None, None, None)


async def test_what_was_missed_comes_whole(one: RunningReplica) -> None:
    """Fails if a client that comes back gets a difference from something that it does not have."""
    async with CentrifugeClient(one.url, user="a") as other, CentrifugeClient(one.url, user="b") as back:
        steady = await subscribe(other)
        for goals in range(6):
            await one.replica.manager.publish("score:1", document(goals))
            await steady.next()
        epoch = (await back.call("history", channel="score:1"))["epoch"]
        reader = await subscribe(back, recover=True, offset=2, epoch=epoch)
        assert [(await reader.next())["goals"] for _ in range(4)] == [2, 3, 4, 5]
        for goals in range(6, 9):
            await one.replica.manager.publish("score:1", document(goals))
            assert await reader.next() == await steady.next() == document(goals)
        assert (reader.whole, reader.differences) == (5, 2)


async def test_an_ephemeral_publication_in_between(one: RunningReplica) -> None:
    """Fails if the next difference is from the publication before the one that clients have got last."""
    async with CentrifugeClient(one.url, user="a") as client:
        reader = await subscribe(client)
        for goals, ephemeral in enumerate([False, False, True, False, False]):
            await one.replica.manager.publish("score:1", document(goals), ephemeral=ephemeral)
            assert await reader.next() == document(goals)
        assert reader.differences == 2


async def test_where_it_is_not_allowed(one: RunningReplica) -> None:
    """Fails if a client gets differences that the namespace does not allow, or of a kind that there is not."""
    async with CentrifugeClient(one.url, user="a") as client:
        for channel, delta in (("news", "fossil"), ("run:1", "fossil"), ("score:1", "xdelta")):
            assert "delta" not in await client.call("subscribe", channel=channel, delta=delta)
        await one.replica.manager.publish("score:1", document(1))
        assert (await client.push("pub", "score:1"))["data"] == document(1)


async def test_the_latest_value_and_differences(one: RunningReplica) -> None:
    """Fails if a channel that holds one value cannot have deltas."""
    await one.replica.manager.publish("price:1", document(1))
    async with CentrifugeClient(one.url, user="a") as client:
        reader = await subscribe(client, "price:1")
        assert await reader.next() == document(1)
        for goals in (2, 3):
            await one.replica.manager.publish("price:1", document(goals))
            assert await reader.next() == document(goals)
        assert reader.differences == 1


async def test_a_client_that_falls_behind_in_a_repair(one: RunningReplica) -> None:
    """Fails if a client that catches up by itself gets no deltas any more, a wrong one, or no joins and leaves."""
    async with CentrifugeClient(one.url, user="a") as client, CentrifugeClient(one.url, user="b") as other:
        reader = await subscribe(client, join_leave=True)
        assert (await client.push("join"))["info"]["user"] == "a"
        steady = await subscribe(other)
        for goals in range(3):
            await one.replica.manager.publish("score:1", document(goals))
            assert await reader.next() == await steady.next() == document(goals)
        joining = one.replica.channels.joining
        followed = joining._following.find("score:1")
        assert followed is not None
        [slow] = [each for each in one.replica.hub.subscribers("score:1") if each.user == "a"]
        joining.set_aside(followed, slow)
        publishing = [one.replica.manager.publish("score:1", document(goals)) for goals in range(3, 6)]
        await asyncio.gather(*publishing)
        await eventually(lambda: slow in one.replica.hub.subscribers("score:1"))
        for goals in range(6, 9):
            await one.replica.manager.publish("score:1", document(goals))
        for goals in range(3, 9):
            assert await reader.next() == await steady.next() == document(goals)
        assert reader.differences >= 4
        await other.call("unsubscribe", channel="score:1")
        while (await client.push("leave"))["info"]["user"] != "b":
            pass
