"""Put the publications of one channel in order, without a gap or a repeat, in whatever order they arrive. Pure.

The bus brings hints, which may come late, twice or never. A `Sequence` lets the next publication through, drops those
that it has seen, and keeps those that are early until the missing range has been read from the log.
"""

from collections.abc import Iterable
from typing import NamedTuple

from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication

MOST_EARLY = 1024  # publications kept while a range is missing; further ones are read from the log
MOST_EARLY_BYTES = 65_536  # of their data: they are delivered all at once when the range is complete


class Missing(NamedTuple):
    """The publications after `after` must be read from the log."""

    after: Position


class Sequence:
    """The order of one channel, from `position` on."""

    __slots__ = ("_early", "_early_bytes", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self._early: dict[int, Publication] = {}
        self._early_bytes = 0

    @property
    def has_gap(self) -> bool:
        """Return whether publications are held back because earlier ones are missing."""
        return bool(self._early)

    def accept(self, publication: Publication) -> list[Publication] | Missing:
        """Return the publications that may be delivered now, in order, or the range that must be read first."""
        position = publication.position
        assert position is not None  # noqa: S101 - an ephemeral publication has no place in an order
        last = self.position
        if position.epoch != last.epoch:
            return Missing(last)
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
        """Take publications from the log. Return those that may be delivered now, in order.

        They begin at or before the next offset; those that were seen are dropped. Publications behind a gap are
        refused, unless the log has no others (`over_gaps`).
        """
        ready = []
        for publication in publications:
            accepted = self.accept(publication)
            if not isinstance(accepted, Missing):
                ready += accepted
            elif over_gaps and (position := publication.position) is not None:
                ready += self.restart(Position(position.epoch, position.offset - 1))
                if not isinstance(accepted := self.accept(publication), Missing):
                    ready += accepted  # there was no room to keep it before
            else:
                break
        return ready

    def restart(self, position: Position) -> list[Publication]:
        """Continue from `position` without what is missing before it. Return the publications that follow it."""
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
        """Return held publications that follow without a gap; drop those that the position has passed."""
        top = self.position.offset
        released = []
        while (early := self._early.pop(top + 1, None)) is not None:
            released.append(early)
            top += 1
        self.position = Position(self.position.epoch, top)
        self._early = {offset: early for offset, early in self._early.items() if offset > top}
        self._early_bytes = sum(len(early.data) for early in self._early.values())
        return released
