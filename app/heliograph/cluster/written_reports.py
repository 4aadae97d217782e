"""Says twice a second what was written to users' connections here, so that it is not told as undelivered.

A replica that is killed loses at most the last of that: then a message may be told though it was written, unless the
client comes back with its position within the time.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from heliograph.cluster.per_shard import PerShard
from heliograph.cluster.periodic import Periodic
from heliograph.errors import BusUnavailable
from heliograph.hub.connection import Connection
from heliograph.hub.written import WrittenWatch
from heliograph.ports import Undelivered, Written
from heliograph.protocol.identity import personal_channel

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5
MOST_PENDING: Final = 100_000  # that wait while they cannot be noted; the oldest are dropped


class WrittenReports:
    """Take what `watch` has seen, and have it noted by the backend of the user's shard."""

    def __init__(
        self,
        watch: WrittenWatch,
        connections_of: Callable[[str], Sequence[Connection]],
        backends: PerShard[Undelivered],
    ) -> None:
        self._watch = watch
        self._connections_of = connections_of
        self._backends = backends
        self._pending: dict[Undelivered, list[Written]] = defaultdict(list)
        self._work = Periodic("written-reports", "noting what was written", self._report, INTERVAL_S)

    def start(self) -> None:
        self._work.start()

    async def stop(self) -> None:
        await self._work.stop()
        await self._report()

    async def _report(self) -> None:
        for each in self._watch.take(self._connections_of):
            self._pending[self._backends.of(personal_channel(each.user))].append(each)
        await asyncio.gather(*(self._note(backend, pending) for backend, pending in self._pending.items() if pending))

    async def _note(self, backend: Undelivered, pending: list[Written]) -> None:
        del pending[:-MOST_PENDING]
        try:
            await backend.note(tuple(pending))
        except BusUnavailable as error:
            logger.debug("what was written is not noted, retrying: %s", error)
        else:
            pending.clear()
