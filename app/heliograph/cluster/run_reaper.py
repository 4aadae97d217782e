"""Runs whose worker was killed must not stand at 40 % for ever: every replica looks for them, now and then."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from heliograph.errors import BusUnavailable
from heliograph.tasks import end

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0


class RunReaper:
    """Calls `reap` (which publishes FAILED for each lost run and says how many those were) until it is stopped."""

    def __init__(self, reap: Callable[[], Awaitable[int]]) -> None:
        self._reap = reap
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name="run-reaper")

    async def stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            await end([task])

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                lost = await self._reap()
            except BusUnavailable as error:
                logger.debug("search for lost runs failed, retrying: %s", error)
            except Exception:
                logger.exception("search for lost runs failed with an unexpected error; retrying")
            else:
                if lost:
                    logger.warning("%d runs lost their worker and were marked FAILED", lost)
