"""What a client says that it has received: checked against what it was sent."""

from collections.abc import Mapping

from heliograph.cluster.reading import Reading
from heliograph.cluster.receipts import ReceiptWriter
from heliograph.errors import ErrorCode
from heliograph.hub.connection import Connection
from heliograph.protocol.actions import NoteReceived, Reject
from heliograph.protocol.events import ReceiptNoted
from heliograph.protocol.position import Position


def note_received(
    receipts: ReceiptWriter, reading: Reading, connection: Connection, action: NoteReceived
) -> ReceiptNoted | Reject:
    """Note what the client has received; all of it or nothing. Return its answer."""
    sent = reading.positions_of(connection)
    if (why := check_received(action.positions, sent, "this connection was sent")) is not None:
        return Reject(why.code, why.message, action.request_id)
    receipts.take(connection.user, connection.device, action.positions)
    return ReceiptNoted(action.request_id)


def check_received(positions: Mapping[str, Position], known: Mapping[str, Position], who_sent: str) -> Reject | None:
    """Return why it cannot be that a client has received everything up to these positions; None if it can.

    `known`: how far the channels have come; `who_sent`: says whose knowledge that is. Without it the client is not
    told how far: it may have no right to that.
    """
    for channel, position in positions.items():
        top = known.get(channel)
        if top is None:
            text = f"how far {channel!r} has come cannot be said now; say it again later"
            return Reject(ErrorCode.UNAVAILABLE, text)
        if not who_sent and (position.epoch != top.epoch or position.offset > top.offset):
            return Reject(
                ErrorCode.BAD_REQUEST, f"{channel!r} has not come to {position}, or not in its present epoch"
            )
        if position.epoch != top.epoch:
            text = f"the position {position} in {channel!r} is from another epoch than {top.epoch}, the present one"
            return Reject(ErrorCode.BAD_REQUEST, text)
        if position.offset > top.offset:
            text = f"{who_sent} {channel!r} up to {top}; {position} cannot have been received"
            return Reject(ErrorCode.BAD_REQUEST, text)
    return None
