"""What has been kept for long enough is dropped, now and then; any number of replicas may do that."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from heliograph.errors import BusUnavailable
from heliograph.tasks import end

logger = logging.getLogger(__name__)

INTERVAL_S = 60.0


class Sweeper:
    """Calls `sweep` until it is stopped."""

    def __init__(self, sweep: Callable[[], Awaitable[None]]) -> None:
        self._sweep = sweep
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name="sweeper")

    async def stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            await end([task])

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self._sweep()
            except BusUnavailable as error:
                logger.debug("sweeping old entries failed, retrying: %s", error)
            except Exception:
                logger.exception("sweeping old entries failed with an unexpected error; retrying")
