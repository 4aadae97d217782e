"""Repair of gaps: missing publications are read from the log and delivered, while the clients' sockets stay open."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from heliograph.cluster.followed import Followed
from heliograph.cluster.following import Following
from heliograph.cluster.gaps import Gaps
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.ports import LogReader, ReadRequest, ReadResult
from heliograph.protocol.events import Subscribed
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.telemetry import Telemetry

logger = logging.getLogger(__name__)

DRAIN_POLL_S = 0.01  # how often to look whether a client has read
PATIENCE_S = 0.1  # how long a repair waits for a client before that client catches up by itself
SLICE_BYTES = 32_768  # of missing publications, delivered at once
FRAME_OVERHEAD_BYTES = 256  # what a frame adds to a publication's data, roughly

SetAside = Callable[[Followed, Connection], None]  # lets a connection catch up by itself


class Page:
    """Publications that a repair has read from one channel and is delivering."""

    __slots__ = ("blocked_since", "followed", "publications", "repaired_from", "result")

    def __init__(self, followed: Followed, result: ReadResult, repaired_from: Position) -> None:
        self.followed = followed
        self.result = result
        self.publications = deque(result.publications)  # not delivered yet
        self.repaired_from = repaired_from
        self.blocked_since: float | None = None  # since when a client has not read; seconds by the loop's clock


class Repair:
    """Read missing publications from the log, and tell clients if they are no longer kept.

    `page`: how many publications of one channel are read at once.
    """

    def __init__(
        self,
        hub: Hub,
        log: LogReader,
        following: Following,
        gaps: Gaps,
        telemetry: Telemetry,
        page: int,
    ) -> None:
        self._hub = hub
        self._log = log
        self._following = following
        self._gaps = gaps
        self._telemetry = telemetry
        self._page = page

    async def fill(self, followed: list[Followed], set_aside: SetAside) -> None:
        """Read missing publications from the log and deliver them, as fast as the subscribers read.

        A client that does not read in time does not delay the others: it catches up by itself.
        """
        asked = [each.sequence.position for each in followed if each.sequence is not None]
        requests = [
            ReadRequest(
                each.name,
                after=position,
                limit=self._page,
                with_state=each.kind.keeps_state,
                is_own=True,
            )
            for each, position in zip(followed, asked, strict=True)
        ]
        results = await self._log.read(requests)
        pages = []
        for each, position, result in zip(followed, asked, results, strict=True):
            if not self._is_current(each):
                continue
            begins = self._repair_from(each, position, result)
            if begins is not None:
                pages.append(Page(each, result, begins))
        pages = [page for page in pages if self._hand_out(page, set_aside)]
        while pages:
            is_blocked = any(page.blocked_since is not None for page in pages)
            await asyncio.sleep(DRAIN_POLL_S if is_blocked else 0)
            pages = [page for page in pages if self._hand_out(page, set_aside)]

    def _is_current(self, followed: Followed) -> bool:
        """Return False if the last subscriber has left: others that came since have their own positions."""
        return self._following.find(followed.name) is followed

    def _repair_from(self, followed: Followed, asked: Position, result: ReadResult) -> Position | None:
        """Return the position from which a read after `asked` continues; None if the gap has changed meanwhile."""
        sequence = followed.sequence
        assert sequence is not None  # noqa: S101 - what has no position is not repaired
        if result.complete and result.position.epoch == asked.epoch:
            return sequence.position
        if sequence.position != asked:
            self._gaps.note(followed.name)  # the bus was faster
            return None
        begins = result.start
        # A state is sent again if subscribers have seen updates that were never acknowledged and are not part of it.
        if result.complete and not (followed.kind.keeps_state and begins.offset < asked.offset):
            logger.info("%s goes on in epoch %s after %s", followed.name, begins.epoch, asked)
            self._hub.resubscribe(followed.name)
            self._following.deliver(followed, sequence.restart(begins))
            return begins
        begins = self._tell_of_gap(followed, result)
        self._following.deliver(followed, sequence.restart(begins))
        self._telemetry.unfilled_gaps += 1
        self._hub.trace.lost(followed.name, begins)
        about = {"channel": followed.name}
        logger.warning(
            "gap not filled: publications after %s may be lost; continuing at %s", asked, begins, extra=about
        )
        return begins

    def _hand_out(self, page: Page, set_aside: SetAside) -> bool:
        """Deliver the next slice of the page, or wait for slow clients. Return whether there is more."""
        followed = page.followed
        if not self._is_current(followed):
            return False
        slow = [each for each in self._hub.subscribers(followed.name) if not each.outbox.is_drained]
        if slow and page.publications:
            now = asyncio.get_running_loop().time()
            if page.blocked_since is None:
                page.blocked_since = now
            if now - page.blocked_since < PATIENCE_S:
                return True
            for connection in slow:
                set_aside(followed, connection)
        page.blocked_since = None
        sequence = followed.sequence
        assert sequence is not None  # noqa: S101 - what has no position is not repaired
        ready = sequence.fill(_slice(page.publications), over_gaps=not page.result.complete)
        self._following.deliver(followed, ready)
        if page.publications:
            return True
        before, now_at = page.repaired_from, sequence.position
        if now_at != before:
            self._telemetry.repairs += 1
            self._hub.trace.repaired(followed.name, before, now_at)
            about = {"channel": followed.name}
            logger.info(
                "repaired a gap: offsets %d to %d of epoch %s",
                before.offset + 1,
                now_at.offset,
                now_at.epoch,
                extra=about,
            )
            if sequence.has_gap or now_at.offset < page.result.position.offset:
                self._gaps.note(followed.name)
        return False

    def _tell_of_gap(self, followed: Followed, result: ReadResult) -> Position:
        """Tell all subscribers of a gap that cannot be filled. Return the position from which it continues.

        A channel with a state sends its state again, which includes all updates.
        """
        name, kind = followed.name, followed.kind
        position = result.position if kind.keeps_state else result.start
        self._hub.deliver_gap(name, Subscribed(name, position, recovered=False, state_follows=kind.keeps_state))
        if kind.keeps_state:
            self._hub.deliver(name, kind.open(name, position, result.state))
        return position


def size_of(publication: Publication) -> int:
    """Return the bytes that a publication takes in an outbox, roughly."""
    return len(publication.data) + FRAME_OVERHEAD_BYTES


def _slice(publications: deque[Publication]) -> list[Publication]:
    """Take the first publications: at least one, and at most SLICE_BYTES."""
    taken: list[Publication] = []
    size = 0
    while publications and (not taken or size + size_of(publications[0]) <= SLICE_BYTES):
        publication = publications.popleft()
        size += size_of(publication)
        taken.append(publication)
    return taken
