"""How full Redis is. Writes of clients are refused first: the server API, commands, tickets and leases go on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from heliograph.errors import BusUnavailable
from heliograph.tasks import end

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
MARGIN = 0.05  # the share must fall this far below the limit before writes are kept again


class MemoryWatch:
    """Ask `share` every second which part of its memory limit Redis uses; None if it has none or does not say.

    `limit`: from this share on nothing that clients write is kept (0: no limit).
    """

    def __init__(self, share: Callable[[], Awaitable[float | None]], limit: float) -> None:
        self._ask = share
        self._limit = limit
        self.share: float | None = None  # the last answer
        self.is_full = False  # for writes of clients
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name="memory-watch")

    async def stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            await end([task])

    async def look(self) -> None:
        """Ask once.

        Raises:
            BusUnavailable: not now; the last answer still counts.
        """
        self.share = await self._ask()
        was_full = self.is_full
        if self.share is None or self._limit == 0:
            self.is_full = False
        else:
            self.is_full = self.share >= (self._limit - MARGIN if was_full else self._limit)
        if self.is_full and not was_full:
            logger.warning(
                "Redis uses %.0f %% of its maxmemory; from %.0f %% on nothing that clients send, publish or emit is"
                " kept (HELIOGRAPH_LIMITS__CLIENT_MEMORY_PERCENT); raise maxmemory, or keep less",
                100 * (self.share or 0),
                100 * self._limit,
            )
        elif was_full and not self.is_full:
            logger.warning("Redis has room again; messages of clients are kept again")

    async def _loop(self) -> None:
        while True:
            try:
                await self.look()
            except BusUnavailable as error:
                logger.debug("reading the memory use of Redis failed, retrying: %s", error)
            except Exception:
                logger.exception("reading the memory use of Redis failed with an unexpected error; retrying")
            await asyncio.sleep(INTERVAL_S)
