"""What one turn of the loop has brought to a channel that many listen to, until it is handed out."""

from collections.abc import Collection
from typing import Any

from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding
from heliograph.hub.outbox import MANY
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Event


class Batch:
    """Events of one channel in a row, encoded and joined once, and handed to each listener at once.

    Whoever must have it sooner, as something else is said to it or it leaves, is handed its part before the others.
    """

    __slots__ = ("_ahead", "_events", "_frames", "listeners")

    def __init__(self, listeners: Collection[Connection]) -> None:
        self.listeners = listeners  # as they come and go
        self._events: list[Event] = []
        self._frames: dict[Encoding[Any], list[Any]] = {}
        self._ahead: dict[Connection, int] = {}  # how many of the events are behind it already

    def add(self, event: Event) -> None:
        self._events.append(event)

    def pass_over(self, connection: Connection) -> None:
        """It listens from now on: what is here was before its time."""
        self._ahead[connection] = len(self._events)

    def hand_to(self, connection: Connection) -> CloseCode | None:
        """Hand one listener what it has not been handed yet; the answer is that of `Outbox.offer`."""
        begin = self._ahead.get(connection, 0)
        self._ahead[connection] = len(self._events)
        outbox, encoding = connection.outbox, connection.encoding
        if outbox.closed or begin == len(self._events):
            return None
        frames = self._encoded(encoding)[begin:]
        code = outbox.offer_all(frames, sum(map(len, frames)))
        if code is None:
            encoding.traffic.messages_out += len(frames)
        return code

    def hand_out(self) -> list[tuple[Connection, CloseCode]]:
        """Hand everyone what is theirs; returns who could not take it."""
        overflowed: list[tuple[Connection, CloseCode]] = []
        ahead, events = self._ahead, len(self._events)
        to_many = len(self.listeners) > MANY
        encoding: Encoding[Any] | None = None
        frames: list[Any] = []
        size = taken = 0
        for connection in self.listeners:
            if ahead and connection in ahead:
                if (code := self.hand_to(connection)) is not None:
                    overflowed.append((connection, code))
                continue
            if connection.encoding is not encoding:
                if encoding is not None:
                    encoding.traffic.messages_out += taken * events
                encoding, taken = connection.encoding, 0
                frames = self._encoded(encoding)
                if encoding.joins and len(frames) > 1:
                    frames = [b"".join(frames)]
                size = sum(map(len, frames))
            outbox = connection.outbox
            if outbox.closed:
                continue  # its transport tidies up a moment later
            if (code := outbox.offer_all(frames, size, to_many=to_many)) is None:
                taken += 1
            else:
                overflowed.append((connection, code))
        if encoding is not None:
            encoding.traffic.messages_out += taken * events
        return overflowed

    def _encoded(self, encoding: Encoding[Any]) -> list[Any]:
        """All events in this encoding, one frame each."""
        frames = self._frames.setdefault(encoding, [])
        for event in self._events[len(frames) :]:
            frames.append(encoding.frame(event))
        return frames
