"""What clients write: it costs nobody what servers have published, and one user no more than their share."""

from typing import Any

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.event_source import EventSource
from tests.support.poller import Poller
from tests.support.replicas import RunningReplica

INVOICES = [f"invoice {n}" for n in range(5)]


async def bills(one: RunningReplica) -> str:
    """Have a server keep five invoices for bob, and mallory send him more than fits; his cursor from before."""
    async with Client(one.url, user="bob") as bob:
        cursor = str(bob.connected["cursor"])
    for invoice in INVOICES:
        await one.replica.manager.send("bob", invoice)
    async with Client(one.url, user="mallory") as mallory:
        for n in range(400):
            assert (await mallory.send("bob", n))["type"] == "ack"
    return cursor


def check(recovered: list[Any], data: list[Any]) -> None:
    assert recovered == [False], "what has gone is said once"
    assert data[:5] == INVOICES
    assert data[5:] == list(range(400))[-len(data[5:]) :]
    assert 100 <= len(data[5:]) <= 200


class TestWhatAServerHasKept:
    async def test_over_a_socket(self, start_replica: StartReplica) -> None:
        """Fails if one user's sends push out what a server has kept for another, or that is not delivered."""
        one = await start_replica()
        cursor = await bills(one)
        async with Client(one.url, path=f"/ws?user=bob&cursor={cursor.replace('%', '%25')}") as bob:
            await bob.next("connected")
            data: list[Any] = []
            while not data or data[-1] != 399:
                data += await bob.messages(1)
            check([each["recovered"] for each in await bob.only("subscribed")], data)
            await one.replica.manager.send("bob", "live")
            assert await bob.messages(1) == ["live"]

    async def test_over_an_event_stream(self, start_replica: StartReplica) -> None:
        """Fails if SSE withholds what the socket delivers."""
        one = await start_replica()
        cursor = await bills(one)
        async with EventSource(one.url, user="bob", last_event_id=cursor) as bob:
            data, recovered = [], []
            while not data or data[-1] != 399:
                event = await bob.next("message", "subscribed")
                if event["type"] == "message":
                    data.append(event["data"])
                else:
                    recovered.append(event["recovered"])
            check(recovered, data)

    async def test_over_polls(self, start_replica: StartReplica) -> None:
        """Fails if a poll withholds what the socket delivers."""
        one = await start_replica()
        cursor = await bills(one)
        async with Poller(one.url, user="bob", cursor=cursor) as bob:
            data: list[Any] = []
            recovered: list[Any] = []
            while not data or data[-1] != 399:
                for event in await bob.poll():
                    if event["type"] == "message":
                        data.append(event["data"])
                    elif event["type"] == "subscribed":
                        recovered.append(event["recovered"])
            check(recovered, data)
