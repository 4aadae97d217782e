"""Reads of the log: requests at one moment share a round trip."""

import asyncio
import logging
from collections.abc import Iterable

from heliograph.errors import BusUnavailable
from heliograph.ports import LogReader, ReadRequest, ReadResult
from heliograph.tasks import end

logger = logging.getLogger(__name__)

READ_BATCH = 200  # channels read in one round trip ...
PAGES_BATCH = 32  # ... and how many of them may bring a page


class ReadBatcher:
    """A task that reads for all requests; a storm of connects costs a handful of commands."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._wanted: list[tuple[ReadRequest, asyncio.Future[ReadResult]]] = []
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name="channels-read")

    async def stop(self) -> None:
        """Stop, and fail the waiting requests."""
        if self._task is not None:
            task, self._task = self._task, None
            await end([task])
        wanted, self._wanted = self._wanted, []
        _fail((future for _, future in wanted), BusUnavailable("this replica is stopping"))

    async def read(self, request: ReadRequest) -> ReadResult:
        """Return a channel's position, and the publications that were requested.

        Raises:
            BusUnavailable: the log cannot be read, or this replica is stopping.
        """
        if self._task is None:
            raise BusUnavailable("this replica is stopping")
        future: asyncio.Future[ReadResult] = asyncio.get_running_loop().create_future()
        self._wanted.append((request, future))
        self._due.set()
        return await future

    def _next(self) -> list[tuple[ReadRequest, asyncio.Future[ReadResult]]]:
        """Return the requests of the next round trip, in order."""
        count = pages = 0
        for request, _ in self._wanted[:READ_BATCH]:
            pages += request.replay or request.after is not None
            if pages > PAGES_BATCH:
                break
            count += 1
        wanted, self._wanted = self._wanted[:count], self._wanted[count:]
        return wanted

    async def _loop(self) -> None:
        while True:
            await self._due.wait()
            wanted = self._next()
            if not self._wanted:
                self._due.clear()
            futures = [future for _, future in wanted]
            try:
                results = await self._log.read([request for request, _ in wanted])
            except BusUnavailable as error:
                _fail(futures, error)
            except asyncio.CancelledError:
                _fail(futures, BusUnavailable("this replica is stopping"))
                raise
            except Exception:
                logger.exception("reading the log failed with an unexpected error")
                _fail(futures, BusUnavailable("the log could not be read"))
            else:
                for future, result in zip(futures, results, strict=True):
                    if not future.done():
                        future.set_result(result)


def _fail(futures: Iterable[asyncio.Future[ReadResult]], error: BusUnavailable) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
