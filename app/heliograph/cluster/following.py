"""The channels that this replica follows, each by position, without a gap or a repeat, whatever the bus does.

A `Sequence` puts publications from the bus in order; then they are delivered to the subscribers. Gaps are noted in
`Gaps`, and `repair.py` reads them from the log while the clients' sockets stay open.
"""

import asyncio

from heliograph.cluster.deltas import Deltas
from heliograph.cluster.followed import MOST_HELD, Followed, just_before
from heliograph.cluster.gaps import Gaps
from heliograph.cluster.read_batcher import ReadBatcher
from heliograph.cluster.tally import Tally
from heliograph.hub.hub import Hub
from heliograph.ports import ReadRequest, Subscriptions
from heliograph.protocol.kinds.registry import kind_of
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.sequence import Missing, Sequence


class Following:
    """Know the position of each channel with subscribers here, and deliver its publications.

    It can read the log and listen to the bus, and write to neither: see `remote_delivery.py`.
    """

    def __init__(self, hub: Hub, bus: Subscriptions, reads: ReadBatcher, gaps: Gaps, namespaces: Namespaces) -> None:
        self._hub = hub
        self._bus = bus
        self._reads = reads
        self._gaps = gaps
        self._namespaces = namespaces
        self._followed: dict[str, Followed] = {}
        self.shared = Tally()  # of the shared bus channel
        self.own = Tally()  # of the inbox

    # -- channels

    def follow(self, channel: str) -> Followed:
        """Start to follow the channel, unless it is followed already. Its position is unknown until `positioned`."""
        followed = self._followed.get(channel)
        if followed is None or self._is_stale(followed):
            followed = self._followed[channel] = Followed(
                channel, kind_of(self._namespaces.of(channel)), asyncio.get_running_loop().time()
            )
        return followed

    def _is_stale(self, followed: Followed) -> bool:
        """Return whether it is a user's channel whose last connection was dropped: its position may be outdated."""
        return followed.is_users and not followed.joining and not self._hub.subscribers(followed.name)

    def idle(self, followed: Followed) -> None:
        """Note that there may be no subscriber. A user's channel is left at once, others later: clients come back."""
        if followed.joining or self._hub.subscribers(followed.name):
            return
        if followed.is_users:
            # Other replicas do not publish to a user who is not here: the position would become outdated.
            self._followed.pop(followed.name, None)
        else:
            followed.idle_since = asyncio.get_running_loop().time()

    def find_idle(self) -> None:
        """Find channels whose last connection was dropped without notice."""
        for followed in list(self._followed.values()):
            if followed.idle_since is None:
                self.idle(followed)

    async def leave_idle(self, linger_s: float) -> None:
        """Leave the channels without a subscriber for this long."""
        now = asyncio.get_running_loop().time()
        for followed in [each for each in self._followed.values() if each.idle_since is not None]:
            idle = (
                followed.idle_since is not None and not followed.joining and not self._hub.subscribers(followed.name)
            )
            if idle and now - (followed.idle_since or now) >= linger_s:
                del self._followed[followed.name]
                await self._bus.unfollow(followed.name)

    async def positioned(self, followed: Followed) -> Sequence:
        """Read the channel's position, and listen to it from there on."""
        if followed.sequence is None:
            if not followed.is_users:
                await self._bus.follow(followed.name)
            result = await self._reads.read(ReadRequest(followed.name))
            self._begin(followed, result.position)
        assert followed.sequence is not None  # noqa: S101 - begun above
        return followed.sequence

    def _begin(self, followed: Followed, position: Position) -> None:
        """Follow the channel from its position; or from before the publications that the bus brought meanwhile."""
        if followed.sequence is not None:
            return
        early, followed.early = followed.early, []
        first = early[0].position if early else None
        if first is not None and first.epoch == position.epoch and first.offset <= position.offset:
            position = just_before(first)
        followed.sequence = Sequence(position)
        for publication in early:
            self._accept(followed, publication)

    def find(self, channel: str) -> Followed | None:
        """Return the channel, if it is followed."""
        return self._followed.get(channel)

    def all(self) -> list[Followed]:
        """Return the followed channels."""
        return list(self._followed.values())

    # -- publications

    def count(self, shared: int, own: int) -> None:
        """Take the number of a publication for a user: on the shared bus channel, or in this replica's own inbox."""
        if (shared and self.shared.misses_before(shared)) or (own and self.own.misses_before(own)):
            self._gaps.doubt_all()

    def follows(self, channel: str) -> bool:
        """Return whether publications on the channel matter here."""
        return channel in self._followed

    def interrupt(self, channel: str) -> None:
        """Note that the subscribers of the channel get a publication that has no place in its order."""
        followed = self._followed.get(channel)
        if followed is not None and followed.deltas is not None:
            followed.deltas.interrupt()

    def receive(self, publication: Publication) -> None:
        """Take a publication from the bus, or one that was appended here and not published."""
        followed = self._followed.get(publication.channel)
        if followed is None:
            return
        if followed.sequence is None:
            if len(followed.early) < MOST_HELD:  # the heartbeat finds the rest
                followed.early.append(publication)
        else:
            self._accept(followed, publication)

    def doubt(self, channel: str) -> None:
        """Look at the log: an append was not answered, but may have been made."""
        if channel in self._followed:
            self._gaps.note(channel)

    def lost_track(self) -> None:
        """Note that the bus subscription began again: publications may have been missed."""
        self.shared.last = self.own.last = None
        self._gaps.doubt_all()

    def _accept(self, followed: Followed, publication: Publication) -> None:
        assert followed.sequence is not None  # noqa: S101 - the callers have looked
        accepted = followed.sequence.accept(publication)
        if isinstance(accepted, Missing):
            self._gaps.note(followed.name)
            if publication.position is not None:
                self._hub.trace.gap(followed.name, accepted.after, publication.position.offset)
        else:
            self.deliver(followed, accepted)

    def deliver(self, followed: Followed, publications: list[Publication]) -> None:
        """Deliver the next publications to the subscribers and to pending ones."""
        if followed.deltas is not None:
            self._deliver_with(followed.deltas, followed, publications)
            return
        for publication in publications:
            self._hub.trace.delivered(publication)
            self._hub.deliver(followed.name, followed.kind.render(publication))
            for pending in followed.joining.values():
                pending.held.append(publication)

    def _deliver_with(self, deltas: Deltas, followed: Followed, publications: list[Publication]) -> None:
        """Deliver likewise, where some of the subscribers get differences."""
        for publication in publications:
            self._hub.trace.delivered(publication)
            self._hub.deliver(followed.name, followed.kind.render(deltas.prepare(publication)))
            for connection in deltas.take_newcomers():
                if connection.encoding.differences is not None:
                    self._hub.encode_with(connection, followed.name, connection.encoding.differences)
            for pending in followed.joining.values():
                pending.held.append(publication)
