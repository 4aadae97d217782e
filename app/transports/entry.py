"""Events for the doors that have to know what they write, and where a client stands once it has it."""

from collections.abc import Callable

from msgspec import UNSET

from app.hub.frames import Codec, Encoding
from app.protocol.events import Connected, Event, Message, Subscribed
from app.telemetry import Traffic


class Entry(bytes):
    """An encoded event. Like any frame, it is shared by all connections of its encoding that are told the event."""

    event: Event | None = None
    at: str = ""  # as a cursor, of the channels in which the client has come further with it


class EntryEncoding(Encoding):
    """An encoding whose frames are entries."""

    def __init__(self, codec: Codec, frame: Callable[[bytes], bytes], traffic: Traffic) -> None:
        super().__init__(codec, frame, traffic)

    def frame(self, event: Event, at: str | None = None) -> Entry:
        entry = Entry(super().frame(event, at))
        entry.event = event
        if at is not None:
            entry.at = at
        elif isinstance(event, Message | Subscribed | Connected) and event.cursor is not UNSET:
            entry.at = event.cursor
        return entry
