"""Events for the endpoints that have to know what they write, and where a client stands once it has it."""

from msgspec import UNSET

from heliograph.protocol.events import Connected, Event, Message, Subscribed


class Entry(bytes):
    """An encoded event. Like any frame, it is shared by all connections of its encoding that are told the event."""

    event: Event | None = None
    at: str = ""  # as a cursor, of the channels in which the client has come further with it

    @classmethod
    def of(cls, frame: bytes, event: Event, at: str | None) -> "Entry":
        """The label of an encoding whose frames are entries."""
        entry = cls(frame)
        entry.event = event
        if at is not None:
            entry.at = at
        elif isinstance(event, Message | Subscribed | Connected) and event.cursor is not UNSET:
            entry.at = event.cursor
        return entry
