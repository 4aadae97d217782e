"""What was written to the connections of users, of their own channels: it need not be told as undelivered.

Everything that happens to a connection is noted in the hub's `Trace`; this is one that follows, for each connection,
from where to where it was sent its user's channel. Now and then `take` says which of that was written.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from heliograph.hub.trace import PassingTrace, Trace
from heliograph.ports import Written
from heliograph.protocol.position import Position

if TYPE_CHECKING:
    from heliograph.hub.connection import Connection
    from heliograph.protocol.publication import Publication


class _Sent:
    """What one connection was sent of its user's channel, and not reported yet: from `after` to `up_to`."""

    __slots__ = ("after", "device", "earlier", "epoch", "is_live", "up_to", "user")

    def __init__(self, user: str, device: str, position: Position) -> None:
        self.user = user
        self.device = device
        self.epoch = position.epoch
        self.after = self.up_to = position.offset
        self.is_live = False  # it gets what is delivered
        self.earlier: list[Written] = []  # before a jump

    def begin(self, position: Position) -> None:
        """Continue at another position: what is between was not sent."""
        if position.offset != self.up_to or position.epoch != self.epoch:
            self.earlier = self.report()
            self.epoch = position.epoch
            self.after = self.up_to = position.offset

    def follows(self, position: Position) -> bool:
        """Return whether the message at this position is the next one."""
        return position.offset == self.up_to + 1 and position.epoch == self.epoch

    def move(self, position: Position) -> None:
        """Continue without a gap, up to this position."""
        self.epoch = position.epoch
        self.up_to = position.offset

    def report(self) -> list[Written]:
        """Return what was not reported yet."""
        found, self.earlier = self.earlier, []
        if self.up_to > self.after:
            found.append(Written(self.user, self.device, self.epoch, self.after, self.up_to))
            self.after = self.up_to
        return found


class WrittenWatch(PassingTrace):
    """Note what is written to connections of their users' own channels."""

    def __init__(self, inner: Trace) -> None:
        super().__init__(inner)
        self._devices: dict[str, str] = {}  # connection -> device
        self._sent: dict[str, dict[str, _Sent]] = {}  # channel -> connection
        self._tops: dict[str, Position] = {}  # channel -> the last message that was delivered since the last look
        self._open: set[str] = set()  # channels of which something was sent, and perhaps not written yet
        self._left: dict[str, _Sent] = {}  # connection that has left -> what it was sent last
        self._channels: dict[str, str] = {}  # connection -> its user's channel, while it is on it
        self._paused: set[str] = set()
        self._ended: set[str] = set()  # connections that are still there, and get nothing more
        self._claimed: list[Written] = []  # what clients had already, as they have said

    def take(self, connections_of: "Callable[[str], Sequence[Connection]]") -> list[Written]:
        """Return what was written since the last call. `connections_of`: the present connections of a user."""
        found, self._claimed = self._claimed, []
        left, self._left = self._left, {}
        for connection, sent in left.items():
            if connection in self._paused:
                self._left[connection] = sent  # it is still to be seen what becomes of it
            else:
                found += sent.report()
        for channel in list(self._tops):
            self._look(channel)
        opened, self._open = self._open, set()
        for channel in opened:
            found += self._written(channel, connections_of)
        return found

    def _written(self, channel: str, connections_of: "Callable[[str], Sequence[Connection]]") -> list[Written]:
        found: list[Written] = []
        of_channel = self._sent.get(channel, {})
        present: dict[str, Connection] = {}
        for connection, sent in of_channel.items():
            if not present:
                present = {each.id: each for each in connections_of(sent.user)}
            place = present.get(connection)
            if place is not None and place.outbox.waiting_bytes == 0:
                found += sent.report()
            else:
                self._open.add(channel)
        return found

    def _look(self, channel: str) -> None:
        """Have the channel's connections follow it up to the last message that was delivered."""
        top = self._tops.pop(channel, None)
        if top is not None:
            for sent in self._sent.get(channel, {}).values():
                if sent.is_live:
                    sent.move(top)
            self._open.add(channel)

    def _jump(self, channel: str, position: Position) -> None:
        """Have the channel's connections go on with the message at this position, whatever was before."""
        for sent in self._sent[channel].values():
            if sent.is_live and not sent.follows(position):
                sent.begin(Position(position.epoch, position.offset - 1))

    def _begin(self, connection: str, user: str, channel: str, position: Position) -> _Sent:
        self._look(channel)
        of_channel = self._sent.setdefault(channel, {})
        sent = of_channel.get(connection)
        if sent is None:
            sent = of_channel[connection] = _Sent(user, self._devices.get(connection, ""), position)
        else:
            sent.begin(position)
            self._open.add(channel)
        self._channels[connection] = channel
        return sent

    # -- notes

    def delivered(self, publication: "Publication") -> None:
        super().delivered(publication)
        channel, position = publication.channel, publication.position
        if position is None or channel not in self._sent:
            return
        top = self._tops.get(channel)
        if top is None:
            self._jump(channel, position)
        elif position.offset != top.offset + 1 or position.epoch != top.epoch:
            self._look(channel)
            self._jump(channel, position)
        self._tops[channel] = position

    def connected(self, connection: str, user: str, device: str) -> None:
        super().connected(connection, user, device)
        self._devices[connection] = device

    def disconnected(self, connection: str, user: str, device: str, code: int) -> None:
        super().disconnected(connection, user, device, code)
        self._devices.pop(connection, None)
        self._ended.discard(connection)
        if connection not in self._left:
            self._paused.discard(connection)

    def joined(
        self, connection: str, user: str, channel: str, position: Position, since: Position | None, recovered: bool
    ) -> None:
        super().joined(connection, user, channel, position, since, recovered)
        if not channel.startswith("#"):
            return
        if connection not in self._ended:
            self._begin(connection, user, channel, position)
        if since is not None:
            had = position if recovered else Position(since.epoch or position.epoch, since.offset)
            device = self._devices.get(connection, "")
            self._claimed.append(Written(user, device, had.epoch, 0, had.offset))

    def caught_up(self, connection: str, user: str, channel: str, first: Position, last: Position) -> None:
        super().caught_up(connection, user, channel, first, last)
        sent = self._sent.get(channel, {}).get(connection)
        if sent is not None and connection not in self._ended:
            sent.begin(Position(first.epoch, first.offset - 1))
            sent.move(last)
            self._open.add(channel)

    def subscribed(self, connection: str, user: str, channel: str, position: Position | None) -> None:
        super().subscribed(connection, user, channel, position)
        if position is not None and channel.startswith("#") and connection not in self._ended:
            self._begin(connection, user, channel, position).is_live = True

    def unsubscribed(self, connection: str, user: str, channel: str) -> None:
        super().unsubscribed(connection, user, channel)
        if self._channels.get(connection) != channel:
            return
        self._look(channel)
        del self._channels[connection]
        of_channel = self._sent[channel]
        sent = of_channel.pop(connection)
        if not of_channel:
            del self._sent[channel]
        if (before := self._left.get(connection)) is not None:
            sent.earlier = before.report() + sent.earlier
        self._left[connection] = sent

    def paused(self, connection: str) -> None:
        super().paused(connection)
        if connection in self._devices:
            self._paused.add(connection)

    def resumed(self, connection: str) -> None:
        super().resumed(connection)
        self._paused.discard(connection)

    def ended(self, connection: str, frames: Sequence[Any], buffered: int = 0) -> None:
        super().ended(connection, frames, buffered)
        self._paused.discard(connection)
        if connection in self._devices:
            self._ended.add(connection)
        is_unwritten = bool(frames) or buffered > 0
        channel = self._channels.get(connection)
        if channel is not None:
            self._look(channel)
            sent = self._sent[channel][connection]
            sent.is_live = False
            if is_unwritten:
                sent.report()  # any of it may be among what was not written
        if is_unwritten:
            self._left.pop(connection, None)
