"""Commands as they are kept in Redis, for replicas that the bus did not reach."""

import asyncio

import msgspec
import pytest

from heliograph.backends.redis import server
from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.commands import PAGE, RedisCommands
from heliograph.backends.redis.keys import Keys
from heliograph.errors import BusUnavailable
from heliograph.ports import COMMAND_TTL_S
from heliograph.protocol.command import DisconnectUser
from heliograph.protocol.envelope import Envelope, decode_envelope
from tests.support.redis_admin import Eavesdropper
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


def kick(user: str = "bob", message_id: str = "m") -> Envelope:
    return Envelope(msgspec.Raw(b"null"), target_user_id=user, message_id=message_id, command=DisconnectUser())


@pytest.fixture
def commands(client: Client, keys: Keys, namespace: str) -> RedisCommands:
    return RedisCommands(server.RedisServer(client, keys))


async def test_it_is_published_and_kept(
    commands: RedisCommands, client: Client, keys: Keys, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if one of the two is left out, they differ, or what is kept stays for ever."""
    async with Eavesdropper(redis_server.url, f"{namespace}:events") as heard:
        await commands.append(kick("우주"))
        await eventually(lambda: heard.payloads)
    [told] = await commands.after(None, 60)
    assert [told.payload] == heard.payloads
    assert decode_envelope(told.payload) == kick("우주")
    assert 0 <= told.age_s < 30
    assert 0 < await client.ttl(keys.commands) <= COMMAND_TTL_S


async def test_each_is_found_once_and_in_order(commands: RedisCommands) -> None:
    """Fails if a page ends in a gap or a repetition, or nothing is found after the last."""
    for number in range(PAGE + 3):
        await commands.append(kick(message_id=str(number)))
    found: list[str | None] = []
    entry: str | None = None
    while page := await commands.after(entry, 60):
        found += [decode_envelope(told.payload).message_id for told in page]
        entry = page[-1].entry
    assert found == [str(number) for number in range(PAGE + 3)]


async def test_what_was_before_the_replica_is_not_looked_at(
    commands: RedisCommands, client: Client, keys: Keys
) -> None:
    """Fails if a replica that has just begun carries out what was told in a former life."""
    await client.xadd(keys.commands, {"e": b"{}"}, id="1000-0")  # in 1970
    await commands.append(kick())
    assert len(await commands.after(None, 60)) == 1
    assert len(await commands.after("0", 0)) == 2


async def test_what_was_the_beginning_remains_it(commands: RedisCommands) -> None:
    """Fails if a command that is told between two looks lies before the second."""
    assert await commands.after(None, 0) == []
    await commands.append(kick())
    await asyncio.sleep(0.01)
    assert [decode_envelope(told.payload) for told in await commands.after(None, 0)] == [kick()]


async def test_full_memory_is_said_and_the_bus_is_told_all_the_same(
    own_redis: RedisServer, keys: Keys, namespace: str
) -> None:
    """Fails if nobody is disconnected because Redis' memory is full, or the caller believes that it was kept."""
    own_redis.command("CONFIG", "SET", "maxmemory", "1")
    client = connect(own_redis.url)
    try:
        async with Eavesdropper(own_redis.url, f"{namespace}:events") as heard:
            with pytest.raises(BusUnavailable):
                await RedisCommands(server.RedisServer(client, keys)).append(kick())
            await eventually(lambda: heard.payloads)
    finally:
        await client.aclose()
