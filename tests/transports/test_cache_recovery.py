"""A channel that holds one value (`force_recovery_mode: cache`), over real sockets and both backends."""

from typing import Any

import pytest

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.replicas import RunningReplica

CACHE = {"price": {"force_recovery_mode": "cache"}}


@pytest.fixture(params=["memory", "redis"])
async def one(request: pytest.FixtureRequest, start_replica: StartReplica) -> RunningReplica:
    options = {"redis_url": None} if request.param == "memory" else {}
    return await start_replica(namespaces=CACHE, **options)


async def subscribe(client: Client, channel: str, **fields: Any) -> dict[str, Any]:
    await client.say({"type": "subscribe", "channel": channel, "id": channel, **fields})
    return await client.next("subscribed", id=channel)


async def test_the_latest_value_and_no_other(one: RunningReplica) -> None:
    """Fails if a subscriber gets an older value, none, or one twice; or misses what is published afterwards."""
    for price in (1, 2, 3):
        await one.replica.manager.publish("price:gold", price)
    async with Client(one.url, user="new") as new:
        assert (await subscribe(new, "price:gold"))["recovered"] is False
        message = await new.next("message")
        assert message["data"] == 3
        await one.replica.manager.publish("price:gold", 4)
        assert await new.messages(1) == [4]
        await new.nothing_more()
    async with Client(one.url, user="back") as back:
        for price in (5, 6):
            await one.replica.manager.publish("price:gold", price)
        subscribed = await subscribe(back, "price:gold", cursor=message["cursor"])
        assert subscribed["recovered"] is True
        assert await back.messages(1) == [6]
        await back.nothing_more()


async def test_one_who_has_the_latest_value_gets_nothing(one: RunningReplica) -> None:
    """Fails if a client that comes back gets again what it has."""
    for price in (1, 2):
        await one.replica.manager.publish("price:gold", price)
    async with Client(one.url, user="alice") as alice:
        await subscribe(alice, "price:gold")
        cursor = (await alice.next("message"))["cursor"]
    async with Client(one.url, user="alice") as alice:
        subscribed = await subscribe(alice, "price:gold", cursor=cursor)
        assert (subscribed["recovered"], subscribed["cursor"]) == (True, cursor)
        await alice.nothing_more()
        await one.replica.manager.publish("price:gold", 3)
        assert await alice.messages(1) == [3]


async def test_without_a_value(one: RunningReplica) -> None:
    """Fails if a channel without a value yet keeps subscribers waiting, or they miss the first one."""
    async with Client(one.url, user="alice") as alice:
        assert (await subscribe(alice, "price:silver"))["recovered"] is False
        await alice.nothing_more()
        await one.replica.manager.publish("price:silver", 1)
        assert await alice.messages(1) == [1]


async def test_a_cursor_of_another_epoch(one: RunningReplica) -> None:
    """Fails if a client whose position is from a lost log is left without the value."""
    await one.replica.manager.publish("price:gold", 1)
    async with Client(one.url, user="alice") as alice:
        await subscribe(alice, "price:gold", cursor="price:gold=lost.7")
        assert await alice.messages(1) == [1]
