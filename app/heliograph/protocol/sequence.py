"""Putting the publications of one channel in order, whatever order they come in: no gap, no repeat. Pure.

What the bus brings is a hint: it may come late, twice or never. A `Sequence` lets through what is next, drops what
was there before, and keeps what is too early until the missing range has been read from the log.
"""

from collections.abc import Iterable
from typing import NamedTuple

from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication

MOST_EARLY = 1024  # publications kept while a range is missing; what does not fit is read from the log instead
MOST_EARLY_BYTES = 65_536  # of their data: they are handed out at once when the range is complete


class Missing(NamedTuple):
    """The publications after `after`, to be read from the log. `epoch_changed`: the log has begun anew."""

    after: Position
    epoch_changed: bool = False


class Sequence:
    """The order of one channel, from `position` on."""

    __slots__ = ("_early", "_early_bytes", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self._early: dict[int, Publication] = {}
        self._early_bytes = 0

    @property
    def has_gap(self) -> bool:
        """True while something that came is held back for something that has not."""
        return bool(self._early)

    def accept(self, publication: Publication) -> list[Publication] | Missing:
        """What may be delivered now, in order; or what must be read first."""
        position = publication.position
        assert position is not None  # noqa: S101 - an ephemeral publication has no place in an order
        last = self.position
        if position.epoch != last.epoch:
            return Missing(last, epoch_changed=True)
        if position.offset <= last.offset:
            return []
        if position.offset > last.offset + 1:
            self._hold_back(position.offset, publication)
            return Missing(last)
        self.position = position
        if not self._early:
            return [publication]
        return [publication, *self._release()]

    def fill(self, publications: Iterable[Publication], *, over_gaps: bool = False) -> list[Publication]:
        """What may be delivered now that these have been read from the log, in order.

        They begin at or before the next offset; ones that were there before are dropped. Behind a gap nothing is
        taken, unless the log has no more than this (`over_gaps`).
        """
        ready = []
        for publication in publications:
            accepted = self.accept(publication)
            if not isinstance(accepted, Missing):
                ready += accepted
            elif over_gaps and (position := publication.position) is not None:
                ready += self.restart(Position(position.epoch, position.offset - 1))
                if not isinstance(accepted := self.accept(publication), Missing):
                    ready += accepted  # there was no room to keep it until now
            else:
                break
        return ready

    def restart(self, position: Position) -> list[Publication]:
        """Go on from `position`, leaving behind whatever is missing before it; returns what follows it already."""
        self.position = position
        self._early = {offset: early for offset, early in self._early.items() if self._follows(early)}
        return self._release()

    def _hold_back(self, offset: int, publication: Publication) -> None:
        size = len(publication.data)
        is_room = len(self._early) < MOST_EARLY and self._early_bytes + size <= MOST_EARLY_BYTES
        if is_room and offset not in self._early:
            self._early[offset] = publication
            self._early_bytes += size

    def _follows(self, publication: Publication) -> bool:
        position = publication.position
        return (
            position is not None and position.epoch == self.position.epoch and position.offset > self.position.offset
        )

    def _release(self) -> list[Publication]:
        """What was held back and follows without a gap; what is behind the position by now is dropped."""
        top = self.position.offset
        released = []
        while (early := self._early.pop(top + 1, None)) is not None:
            released.append(early)
            top += 1
        self.position = Position(self.position.epoch, top)
        self._early = {offset: early for offset, early in self._early.items() if offset > top}
        self._early_bytes = sum(len(early.data) for early in self._early.values())
        return released
