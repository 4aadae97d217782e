"""The connections of this replica and their subscriptions, and the fan-out to them."""

import logging
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from heliograph.hub.batch import Batch
from heliograph.hub.connection import Connection
from heliograph.hub.outbox import FlushScheduler
from heliograph.hub.trace import NO_TRACE, Trace
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import MESSAGES, Event
from heliograph.protocol.identity import user_of
from heliograph.protocol.publication import Publication
from heliograph.telemetry import Telemetry

if TYPE_CHECKING:
    from heliograph.hub.frames import Encoding

logger = logging.getLogger(__name__)

FEW = 8  # up to this number of subscribers a batch would not pay


class Hub:
    """This replica's connections by user and by channel. It knows nothing of other replicas.

    Events that an event-loop iteration brings to a channel with many subscribers are held, and delivered together at
    the end of the iteration, or when another channel gets an event. A subscriber still gets all its events in order.

    `trace`: where it is noted what becomes of messages here; the parts that work with the hub note theirs there too.
    """

    def __init__(self, telemetry: Telemetry, flush_scheduler: FlushScheduler, trace: Trace = NO_TRACE) -> None:
        self.trace = trace
        self._telemetry = telemetry
        self._flush_scheduler = flush_scheduler
        self._batch: Batch | None = None
        self._by_user: dict[str, set[Connection]] = {}
        # With the encoding of each subscription. Iterated in the order of joining, which is roughly that in memory.
        self._by_channel: dict[str, dict[Connection, Encoding[Any]]] = {}
        self._connections = 0
        self._subscriptions = 0
        self._changed_channels: set[str] = set()  # joined or left since the last `take_changed_channels`

    @property
    def connections(self) -> int:
        return self._connections

    @property
    def users(self) -> int:
        return len(self._by_user)

    @property
    def channels(self) -> int:
        return len(self._by_channel)

    @property
    def subscriptions(self) -> int:
        """The number of subscriptions of all connections."""
        return self._subscriptions

    def channel_names(self) -> Iterator[str]:
        return iter(self._by_channel)

    def take_changed_channels(self) -> set[str]:
        """Return the channels that a connection has joined or left since the last call."""
        changed, self._changed_channels = self._changed_channels, set()
        return changed

    def note_changed_channels(self, channels: Iterable[str]) -> None:
        """Return these channels again with the next call."""
        self._changed_channels.update(channels)

    def user_ids(self) -> Iterator[str]:
        return iter(self._by_user)

    def __iter__(self) -> Iterator[Connection]:
        """Return all connections, as they were when the iteration began."""
        return iter([connection for mine in self._by_user.values() for connection in mine])

    def count(self, user_id: str) -> int:
        """Return how many connections the user has here."""
        return len(self._by_user.get(user_id, ()))

    def connections_of(self, user_id: str) -> list[Connection]:
        """Return the present connections of the user."""
        return list(self._by_user.get(user_id, ()))

    def subscribers(self, channel: str) -> Collection[Connection]:
        """Return the connections that are subscribed to the channel here."""
        return self._by_channel.get(channel, ())

    def reach_of(self, publication: Publication) -> int:
        """Return how many connections here a publication goes to."""
        user_id = None if publication.position is not None else user_of(publication.channel)
        return len(self.subscribers(publication.channel)) if user_id is None else self.count(user_id)

    def add(self, connection: Connection) -> None:
        mine = self._by_user.setdefault(connection.user, set())
        if connection not in mine:
            mine.add(connection)
            self._connections += 1
            connection.encoding.traffic.connections += 1
            self.trace.connected(connection.id, connection.user, connection.device)

    def remove(self, connection: Connection) -> bool:
        """Forget the connection and its subscriptions; False if it was not here."""
        for channel in list(connection.channels):
            self.unsubscribe(connection, channel)
        mine = self._by_user.get(connection.user)
        if mine is None or connection not in mine:
            return False
        mine.remove(connection)
        self._connections -= 1
        connection.encoding.traffic.connections -= 1
        self.trace.disconnected(connection.id, connection.user, connection.device, int(connection.close_code or 0))
        if not mine:
            del self._by_user[connection.user]
        return True

    def subscribe(self, connection: Connection, channel: str, encoding: "Encoding[Any] | None" = None) -> None:
        """Subscribe the connection. `encoding`: that of this subscription, if it is not the connection's own."""
        listening = self._by_channel.setdefault(channel, {})
        if connection in listening:
            return
        if self._batch is not None and self._batch.listeners is listening:
            self._batch.pass_over(connection)
        listening[connection] = connection.encoding if encoding is None else encoding
        self._subscriptions += 1
        connection.channels.add(channel)
        self._changed_channels.add(channel)

    def encode_with(self, connection: Connection, channel: str, encoding: "Encoding[Any]") -> None:
        """Encode further events of this subscription in another way."""
        if self._batch is not None:
            self._catch_up(connection)  # drops a slow connection
        listening = self._by_channel.get(channel)
        if listening is not None and connection in listening:
            listening[connection] = encoding

    def unsubscribe(self, connection: Connection, channel: str) -> None:
        connection.channels.discard(channel)
        if channel in connection.told_of:
            connection.told_of -= {channel}
        listening = self._by_channel.get(channel)
        if listening is None:
            return
        if self._batch is not None and self._batch.listeners is listening:
            self._catch_up(connection)  # drops a slow connection: then this is done already
        if connection in listening:
            del listening[connection]
            self._subscriptions -= 1
            self._changed_channels.add(channel)
            self.trace.unsubscribed(connection.id, connection.user, channel)
            if not listening:
                del self._by_channel[channel]

    def deliver_to_user(self, user_id: str, event: Event) -> int:
        """Deliver the event to every connection of the user here. Return how many accepted it."""
        return self.deliver_to(self._by_user.get(user_id, ()), event)

    def deliver(self, channel: str, event: Event) -> int:
        """Deliver the event to every subscriber of the channel here. Return how many there are."""
        listening = self._by_channel.get(channel)
        if listening is None:
            return 0
        if len(listening) < FEW:
            return self._send_each(list(listening.items()), event)
        if self._batch is None or self._batch.listeners is not listening:
            self._hand_out()
            self._batch = Batch(listening)
            self._flush_scheduler.before_writing(self._hand_out)
        self._batch.add(event)
        return len(listening)

    def deliver_gap(self, channel: str, event: Event) -> None:
        """Tell every subscriber of the channel here that publications on it are lost."""
        self.resubscribe(channel)
        self.deliver(channel, event)

    def resubscribe(self, channel: str) -> None:
        """Have those subscribers of the channel here that must do so subscribe again; see `Connection.on_gap`."""
        for connection in tuple(self._by_channel.get(channel, ())):
            if connection.on_gap is not None:
                connection.on_gap(channel)

    def deliver_to(self, connections: Collection[Connection], event: Event) -> int:
        """Deliver the event to these connections. Return how many accepted it."""
        return self._send_each([(each, each.encoding) for each in connections], event)

    def send(self, connection: Connection, event: Event, encoding: "Encoding[Any] | None" = None) -> None:
        """Deliver one event to one connection, unless its wire format has nothing for it.

        `encoding`: if it is not the connection's own.
        """
        if isinstance(event, MESSAGES):
            connection.encoding.traffic.messages_out += 1  # a publication that it had missed
            connection.sent += 1
        if self._batch is not None:
            self._catch_up(connection)
        frame = (connection.encoding if encoding is None else encoding).frame(event)
        if len(frame) and (code := connection.outbox.offer(frame)) is not None:
            self._drop(connection, code)

    def _send_each(self, subscriptions: "list[tuple[Connection, Encoding[Any]]]", event: Event) -> int:
        """Encode once for each encoding, not for each connection.

        A connection whose outbox is over its limit is closed and dropped at once.
        """
        frames: dict[Encoding[Any], Any] = {}
        taken = 0
        for connection, encoding in subscriptions:
            outbox = connection.outbox
            if self._batch is not None:
                self._catch_up(connection)
            if outbox.closed:
                continue  # its transport removes it a moment later
            if (frame := frames.get(encoding)) is None:
                frame = frames[encoding] = encoding.frame(event)
            if (code := outbox.offer(frame)) is None:
                taken += 1
                encoding.traffic.messages_out += 1
                connection.sent += 1
            else:
                self._drop(connection, code)
        return taken

    def _catch_up(self, connection: Connection) -> None:
        """Deliver held events to the connection before its next event."""
        batch = self._batch
        if batch is not None and connection in batch.listeners and (code := batch.hand_to(connection)) is not None:
            self._drop(connection, code)

    def _hand_out(self) -> None:
        """Deliver all held events."""
        batch, self._batch = self._batch, None
        if batch is not None:
            for connection, code in batch.hand_out():
                self._drop(connection, code)

    def _drop(self, connection: Connection, code: CloseCode) -> None:
        """Close a connection whose outbox is over its limit, and forget it."""
        self._telemetry.slow_closes += 1
        about = {"user": connection.user, "connection": connection.id}
        logger.info("closed a slow consumer: more than the outbox limit was waiting for it", extra=about)
        if connection.on_dropped is None:
            self.remove(connection)
        else:
            connection.on_dropped(connection)
        connection.close(code, "the connection did not read what was sent to it")
