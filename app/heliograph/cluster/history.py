"""Histories over any number of pages of the log, forwards or backwards, up to a number of bytes."""

from collections.abc import Iterable
from typing import Final

from heliograph.errors import Unrecoverable
from heliograph.ports import LogReader, ReadRequest, ReadResult
from heliograph.protocol.position import Position
from heliograph.protocol.publication import PUBLICATION_BYTES, Publication

MOST_BYTES: Final = 262_144  # of one answer, or one publication
CHUNK: Final = 200  # publications read at once
FIRST: Final = 16  # likewise backwards, until their size is known: none that is read should be in vain


async def read_history(
    log: LogReader, channel: str, since: Position | None, limit: int | None, *, reverse: bool
) -> ReadResult:
    """Return what is kept of the channel after `since`, oldest first; with `reverse` before it, newest first.

    At most `limit` publications (None: any number), and MOST_BYTES of them. An empty epoch of `since` is any epoch.

    Raises:
        Unrecoverable: `since` is of another epoch.
        BusUnavailable: the log cannot be read.
    """
    [top] = await log.read([ReadRequest(channel)])
    position = top.position
    if since is not None and since.epoch not in ("", position.epoch):
        raise Unrecoverable(f"the position in {channel!r} is of an epoch that is over")
    found = _Found(limit)
    if reverse:
        before = position.offset + 1 if since is None else min(since.offset, position.offset + 1)
        await _read_backwards(log, channel, Position(position.epoch, before), found)
    else:
        after = Position(position.epoch, 0 if since is None else since.offset)
        await _read_forwards(log, channel, after, found)
    return ReadResult(position, complete=True, publications=found.publications)


class _Found:
    """The publications of an answer so far."""

    def __init__(self, limit: int | None) -> None:
        self.publications: list[Publication] = []
        self._limit = limit
        self._bytes = 0
        self.is_full = limit == 0

    @property
    def wanted(self) -> int:
        """How many to read next."""
        return CHUNK if self._limit is None else min(CHUNK, self._limit - len(self.publications))

    @property
    def fitting(self) -> int:
        """How many of the present average size to read next."""
        if not self.publications:
            return min(FIRST, self.wanted)
        average = self._bytes // len(self.publications)
        return min(self.wanted, max((MOST_BYTES - self._bytes) // average + 1, 1))

    def add(self, publications: Iterable[Publication]) -> None:
        for each in publications:
            size = len(each.data) + PUBLICATION_BYTES
            if self.is_full or (self.publications and self._bytes + size > MOST_BYTES):
                self.is_full = True
                return
            self.publications.append(each)
            self._bytes += size
            self.is_full = len(self.publications) == self._limit


async def _read_forwards(log: LogReader, channel: str, after: Position, found: _Found) -> None:
    while not found.is_full:
        [result] = await log.read([ReadRequest(channel, after=after, limit=found.wanted)])
        found.add(result.publications)
        last = result.publications[-1].position if result.publications else None
        if last is None or last.offset >= result.position.offset:
            return
        after = last


async def _read_backwards(log: LogReader, channel: str, before: Position, found: _Found) -> None:
    """Offsets have no gaps where everything is kept: so many before a position begin so far before it."""
    span = found.fitting
    while not found.is_full and before.offset > 1:
        begin = Position(before.epoch, max(before.offset - 1 - span, 0))
        read = await _between(log, channel, begin, before.offset)
        found.add(reversed(read))
        span = found.fitting if len(read) == span else 2 * span  # some are no longer kept: look further
        before = Position(before.epoch, begin.offset + 1)


async def _between(log: LogReader, channel: str, after: Position, before: int) -> list[Publication]:
    """Return what is kept of one epoch between two offsets."""
    found: list[Publication] = []
    epoch = after.epoch
    while True:
        [result] = await log.read([ReadRequest(channel, after=after, limit=before - after.offset - 1)])
        for each in result.publications:
            if each.position is None or each.position.epoch != epoch or each.position.offset >= before:
                return found
            found.append(each)
            after = each.position
        if not result.publications or after.offset >= before - 1 or after.offset >= result.position.offset:
            return found
