"""The events that one event-loop iteration brings to a channel with many subscribers, until they are delivered."""

from typing import Any

from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding
from heliograph.hub.outbox import MANY
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Event


class Batch:
    """Consecutive events of one channel, encoded and joined once, and delivered to each subscriber at once.

    A subscriber that gets another event, or leaves, gets its part before the others.
    """

    __slots__ = ("_ahead", "_events", "_frames", "listeners")

    def __init__(self, listeners: dict[Connection, Encoding[Any]]) -> None:
        self.listeners = listeners  # as they come and go, each with the encoding of its subscription
        self._events: list[Event] = []
        self._frames: dict[Encoding[Any], list[Any]] = {}
        self._ahead: dict[Connection, int] = {}  # how many of the events it has, or must not get

    def add(self, event: Event) -> None:
        self._events.append(event)

    def pass_over(self, connection: Connection) -> None:
        """Skip the present events for a new subscriber: they are from before it joined."""
        self._ahead[connection] = len(self._events)

    def hand_to(self, connection: Connection) -> CloseCode | None:
        """Deliver to one subscriber the events that it has not got yet. Return the answer of `Outbox.offer`."""
        begin = self._ahead.get(connection, 0)
        self._ahead[connection] = len(self._events)
        outbox, encoding = connection.outbox, self.listeners[connection]
        if outbox.closed or begin == len(self._events):
            return None
        frames = self._encoded(encoding)[begin:]
        code = outbox.offer_all(frames, sum(map(len, frames)))
        if code is None:
            encoding.traffic.messages_out += len(frames)
            connection.sent += len(frames)
        return code

    def hand_out(self) -> list[tuple[Connection, CloseCode]]:
        """Deliver to all subscribers. Return those whose outbox is over its limit."""
        overflowed: list[tuple[Connection, CloseCode]] = []
        ahead, events = self._ahead, len(self._events)
        to_many = len(self.listeners) > MANY
        encoding: Encoding[Any] | None = None
        frames: list[Any] = []
        size = taken = 0
        ready: dict[Encoding[Any], tuple[list[Any], int]] = {}  # subscribers with other encodings may take turns
        for connection, its_encoding in self.listeners.items():
            if ahead and connection in ahead:
                if (code := self.hand_to(connection)) is not None:
                    overflowed.append((connection, code))
                continue
            if its_encoding is not encoding:
                if encoding is not None:
                    encoding.traffic.messages_out += taken * events
                encoding, taken = its_encoding, 0
                if (joined := ready.get(encoding)) is None:
                    joined = ready[encoding] = self._joined(encoding)
                frames, size = joined
            outbox = connection.outbox
            if outbox.closed:
                continue  # its transport removes it a moment later
            if (code := outbox.offer_all(frames, size, to_many=to_many)) is None:
                taken += 1
                connection.sent += events
            else:
                overflowed.append((connection, code))
        if encoding is not None:
            encoding.traffic.messages_out += taken * events
        return overflowed

    def _joined(self, encoding: Encoding[Any]) -> tuple[list[Any], int]:
        """Return all events in this encoding, in one frame if frames can be joined, and their size."""
        frames = self._encoded(encoding)
        if encoding.join is not None and len(frames) > 1:
            frames = [encoding.join(frames)]
        return frames, sum(map(len, frames))

    def _encoded(self, encoding: Encoding[Any]) -> list[Any]:
        """Return all events in this encoding, one frame each."""
        frames = self._frames.setdefault(encoding, [])
        for event in self._events[len(frames) :]:
            frames.append(encoding.frame(event))
        return frames
