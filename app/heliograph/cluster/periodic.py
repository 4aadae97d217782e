"""Periodic work of a replica. Any number of replicas may do the same work at the same time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from heliograph.errors import BusUnavailable
from heliograph.tasks import end

logger = logging.getLogger(__name__)


class Periodic:
    """Await `work()` every `interval_s` seconds until it is stopped. Log a failure, and retry.

    `name` is the name of its task, `purpose` the name of the work in log lines.
    """

    def __init__(self, name: str, purpose: str, work: Callable[[], Awaitable[object]], interval_s: float) -> None:
        self._name = name
        self._purpose = purpose
        self._work = work
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start; the work is first done after one interval."""
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name=self._name)

    async def stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            await end([task])

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self._work()
            except BusUnavailable as error:
                logger.debug("%s failed, retrying: %s", self._purpose, error)
            except Exception:
                logger.exception("%s failed with an unexpected error; retrying", self._purpose)
