"""Who is told of joins and leaves: of users or of clients, each connection as its wire format has it."""

import pytest

from heliograph.hub.announcements import Announcements
from heliograph.hub.connection import Connection
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.events import Event
from tests.hub.test_hub import House


class Names:
    """Writes the kind of an event, and would notice one that it has no name for."""

    def close_code(self, code: int) -> int:
        return code

    def encode(self, event: Event) -> bytes:
        return type(event).__name__.encode()


@pytest.mark.parametrize("others", [0, 20])
def test_users_or_clients(others: int) -> None:
    """Fails if a connection is told of what its format has not, of a client it has not asked for, or of nothing."""
    house = House()
    house.encoding._codec = Names()

    def subscriber(user: str, *, by_client: bool = False, asks: bool = False) -> Connection:
        connection = house.add(user)
        connection.by_client = by_client
        house.hub.subscribe(connection, "chat:1")
        if asks:
            connection.told_of |= {"chat:1"}
        connection.outbox.open(b"")
        return connection

    crowd = [subscriber(f"user {number}") for number in range(others)]
    plain, silent = subscriber("plain"), subscriber("silent", by_client=True)
    asking = subscriber("asking", by_client=True, asks=True)
    announcements, client = Announcements(house.hub), ClientInfo("c", "bob")
    announcements.user("chat:1", "bob", True)
    announcements.client("chat:1", client, True)
    announcements.client("chat:1", client, False)
    announcements.user("chat:1", "bob", False)
    house.end_turn()
    told = {each.user: b"".join(map(b"".join, house.sinks[each].writes)) for each in (plain, silent, asking, *crowd)}
    assert told["plain"] == b"JoinLeave"
    assert told["silent"] == b""
    assert told["asking"] == b"ClientJoinedClientLeft"
    assert {told[each.user] for each in crowd} <= {b"JoinLeave"}
    house.hub.unsubscribe(asking, "chat:1")
    assert not asking.told_of
