"""What a client says that it has received: checked against what it was sent."""

from heliograph.cluster.reading import Reading
from heliograph.cluster.receipts import ReceiptWriter
from heliograph.errors import ErrorCode
from heliograph.hub.connection import Connection
from heliograph.protocol.actions import NoteReceived, Reject
from heliograph.protocol.events import ReceiptNoted


def note_received(
    receipts: ReceiptWriter, reading: Reading, connection: Connection, action: NoteReceived
) -> ReceiptNoted | Reject:
    """Note what the client has received; all of it or nothing. Return its answer."""
    sent = reading.positions_of(connection)
    for channel, position in action.positions.items():
        known = sent.get(channel)
        if known is None:
            text = f"how far {channel!r} has come cannot be said now; say it again later"
            return Reject(ErrorCode.UNAVAILABLE, text, action.request_id)
        if position.epoch != known.epoch:
            text = f"the position {position} in {channel!r} is from another epoch than {known.epoch}, the present one"
            return Reject(ErrorCode.BAD_REQUEST, text, action.request_id)
        if position.offset > known.offset:
            text = f"this connection was sent {channel!r} up to {known}; it cannot have received {position}"
            return Reject(ErrorCode.BAD_REQUEST, text, action.request_id)
    receipts.take(connection.user, connection.device, action.positions)
    return ReceiptNoted(action.request_id)
