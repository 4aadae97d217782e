"""The connections of all replicas: every one is found, once, page by page; who does not answer is named."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from heliograph.cluster import connections as connections_module
from heliograph.cluster import questions as questions_module
from heliograph.cluster.connections import FoundConnections
from heliograph.errors import BusUnavailable
from heliograph.protocol.connection_query import ConnectionInfo, ConnectionQuery, Sort
from tests.support.members import Device, Member, Members
from tests.support.redis_server import RedisServer

USERS = 30
HOSTILE = ["<script>", "\u202eevil", "é" * 127, "Ångström", "42", "alice"]


@pytest.fixture
async def two(redis_server: RedisServer, namespace: str) -> AsyncIterator[list[Member]]:
    async with Members(redis_server.url, namespace) as members:
        yield await members.several(2)


async def populate(members: list[Member]) -> list[Device]:
    """Connections with different counters, on both replicas."""
    dice = random.Random(7)
    devices = []
    for number, user in enumerate([f"user-{each}" for each in range(USERS)] + HOSTILE):
        member = members[number % 2]
        device = await member.connect(user)
        connection = device.connection
        connection.id = f"{dice.getrandbits(64):016x}"
        connection.transport = ("websocket", "sse")[number % 3 == 0]
        connection.sent, connection.received = dice.randrange(5), dice.randrange(1000)
        for channel in range(number % 4):
            member.replica.hub.subscribe(connection, f"chat:{channel}")
        devices.append(device)
    return devices


async def pages(member: Member, sort: Sort, limit: int, **query: str) -> list[ConnectionInfo]:
    found: list[ConnectionInfo] = []
    after = None
    while True:
        page = await member.replica.connections.find(
            ConnectionQuery(sort=sort, limit=limit, after=after, **query)  # type: ignore[arg-type]
        )
        assert len(page.connections) <= limit
        found += page.connections
        after = page.next
        if after is None:
            return found


async def test_every_connection_is_in_one_page(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a page repeats or misses a connection, orders are wrong, or a filter lets through what it must not."""
    monkeypatch.setattr(connections_module, "STEP", 5)
    devices = await populate(two)
    everybody = {each.connection.id: each.connection for each in devices}
    orders: dict[Sort, Callable[[ConnectionInfo], Any]] = {
        "user": lambda each: each.user,
        "newest": lambda each: -each.connected_at,
        "channels": lambda each: -each.channels,
        "sent": lambda each: -each.sent,
        "received": lambda each: -each.received,
        "outbox": lambda each: -each.outbox_bytes,
    }
    for sort, key in orders.items():
        for asked, limit in ((two[0], 7), (two[1], 1000), (two[0], 1)):
            found = await pages(asked, sort, limit)
            assert sorted(each.client for each in found) == sorted(everybody), (sort, limit)
            places = [(key(each), "" if sort == "newest" else each.client) for each in found]
            assert places == sorted(places), (sort, limit)
    for each in found:
        connection = everybody[each.client]
        assert (each.user, each.channels, each.sent) == (connection.user, len(connection.channels), connection.sent)
    assert {each.replica for each in found} == {"replica-1", "replica-2"}

    async def clients(**query: str) -> set[str]:
        return {each.client for each in await pages(two[1], "user", 4, **query)}

    def those(test: object) -> set[str]:
        return {each.id for each in everybody.values() if test(each)}  # type: ignore[operator]

    assert await clients(search="USER-1") == those(lambda each: "user-1" in each.user)
    assert await clients(search="ångström") == those(lambda each: each.user == "Ångström")
    some = devices[3].connection
    assert await clients(search=some.id[:10]) == {some.id}
    assert await clients(client=some.id) == {some.id}
    assert await clients(user="alice") == those(lambda each: each.user == "alice")
    assert await clients(channel="chat:2") == those(lambda each: "chat:2" in each.channels)
    assert await clients(transport="sse") == those(lambda each: each.transport == "sse")
    assert await clients(user="nobody") == set()
    one = await two[1].replica.connections.find(ConnectionQuery(client=some.id, with_channels=True))
    assert one.connections[0].channel_names == tuple(sorted(some.channels))
    only = await two[0].replica.connections.find(ConnectionQuery(limit=1), "replica-2")
    assert [(each.name, each.matched) for each in only.replicas] == [("replica-2", len(devices) // 2)]


async def test_messages_have_their_turn_during_a_look(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a replica with many connections stands still until an operator has a page of them."""
    monkeypatch.setattr(connections_module, "STEP", 3)
    monkeypatch.setattr(connections_module, "DESCRIBED", 2)
    await populate(two)
    local = two[0].replica.connections._local
    for query, least in ((ConnectionQuery(limit=1), 6), (ConnectionQuery(with_channels=True), 6 + 9)):
        looking = asyncio.create_task(local.look(query))
        turns = 0
        while not looking.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns >= least
        assert looking.result().matched == 18


async def test_who_does_not_answer_is_named(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if what a silent replica has is passed over in silence, or the others' connections are lost with it."""
    await populate(two)
    here, questions = two[0].replica.connections, two[0].replica.connections._questions
    monkeypatch.setattr(questions, "_timeout_s", 0.05)
    monkeypatch.setattr(questions, "_post", lambda *_: None)
    found = await here.find(ConnectionQuery(limit=1000))
    assert told(found) == [("replica-1", 18, ""), ("replica-2", 0, "it did not answer within 0.05 s")]
    assert {each.replica for each in found.connections} == {"replica-1"}

    async def no_answer() -> list[object]:
        raise BusUnavailable("Redis cannot be reached")

    monkeypatch.setattr(questions, "_replicas", no_answer)
    found = await here.find(ConnectionQuery(limit=1000))
    assert (told(found), found.error) == ([("replica-1", 18, "")], "Redis cannot be reached")


async def test_a_look_that_fails_or_comes_too_often(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a replica that cannot answer lets the other wait, questions pile up, or a wrong reason is told."""
    here, there = (each.replica.connections for each in two)
    monkeypatch.setattr(questions_module, "MOST_ANSWERING", 0)
    found = await here.find(ConnectionQuery())
    assert told(found)[1] == ("replica-2", 0, "it is answering 0 questions already; ask again later")
    monkeypatch.undo()

    async def broken(_: object) -> object:
        raise ValueError("no")

    monkeypatch.setattr(there._questions, "_slow_answerers", {connections_module.CONNECTIONS: broken})
    found = await here.find(ConnectionQuery())
    assert told(found)[1] == ("replica-2", 0, questions_module.FAILED)
    monkeypatch.setattr(there._questions, "_slow_answerers", {})
    found = await here.find(ConnectionQuery())
    assert "off there, or it is of an earlier version" in found.replicas[1].error


async def test_names_of_channels_do_not_fill_the_bus(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the names of channels make an answer as large as they like, or nobody is told which are missing."""
    monkeypatch.setattr(connections_module, "MOST_NAMES_BYTES", 1000)
    for number in range(6):
        device = await two[1].connect(f"user-{number}")
        for channel in range(5):
            two[1].replica.hub.subscribe(device.connection, f"chat:{channel}:{'é' * 40}")
    find = two[0].replica.connections.find
    found = await find(ConnectionQuery(with_channels=True))
    assert [len(each.channel_names) for each in found.connections] == [5, 5, 5, 0, 0, 0]
    assert (found.unnamed, {each.channels for each in found.connections}) == (3, {5})
    last = await find(ConnectionQuery(client=found.connections[-1].client, with_channels=True))
    assert (len(last.connections[0].channel_names), last.unnamed) == (5, 0)
    assert (await find(ConnectionQuery())).unnamed == 0


async def test_long_infos_are_left_out_with_their_length(two: list[Member]) -> None:
    """Fails if what tokens say of their users makes an answer as large as they like, or nobody is told."""
    most = connections_module.MOST_INFO_BYTES
    for user, size in (("long", most + 1), ("short", most)):
        (await two[1].connect(user)).connection.info = b'"%b"' % (b"x" * (size - 2))
    found = await two[0].replica.connections.find(ConnectionQuery())
    long, short = msgspec.json.decode(msgspec.json.encode(found.connections))
    assert (long["info"], long["info_bytes"]) == (None, most + 1)
    assert (len(short["info"]), "info_bytes" in short) == (most - 2, False)


def told(found: FoundConnections) -> list[tuple[str, int, str]]:
    return [(each.name, each.matched, each.error) for each in found.replicas]
