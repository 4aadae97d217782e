"""Cancelling a task at each of its awaits, one after the other.

`asyncio` can deliver a cancellation at two moments of an await: while what is awaited is still under way, or when it
is done and the task has not been resumed yet. Code that handles the first well may swallow the second (`wait_for` of
Python 3.11 does), and then whoever waits for the task waits for ever.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from enum import Enum
from types import CoroutineType
from typing import Any


class Moment(Enum):
    """When in an await the cancellation comes."""

    WAITING = "waiting"  # for what is awaited
    WOKEN = "woken"  # it is done, the task has not gone on yet


class CancelAt:
    """Runs a coroutine and cancels its task at the `at`-th place where it waits (counted from 1).

    `reached` tells whether the coroutine came that far, `where` in which functions it then was.
    """

    def __init__(self, at: int, moment: Moment) -> None:
        self._at = at
        self._moment = moment
        self.waits = 0
        self.reached = asyncio.Event()
        self.where = ""

    def around(self, function: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
        """What `function` does, under watch; put it in the place of `function`."""

        async def watched() -> None:
            await _Watched(function(), self._waits)

        return watched

    def _waits(self, coroutine: Coroutine[Any, Any, None], awaited: "asyncio.Future[object] | None") -> None:
        self.waits += 1
        if self.waits != self._at:
            return
        task = asyncio.current_task()
        assert task is not None
        self.where = " > ".join(_frames(coroutine))
        if awaited is None or self._moment is Moment.WAITING:
            self._cancel(task)
        else:
            # The task's own wake-up call is added after this one, and so comes after it.
            awaited.add_done_callback(lambda _: self._cancel(task))

    def _cancel(self, task: "asyncio.Task[object]") -> None:
        self.reached.set()
        task.cancel()


class _Watched(Awaitable[None]):
    """Awaits a coroutine and tells of each future that it waits for (None: it only lets others run)."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        tell: Callable[[Coroutine[Any, Any, None], "asyncio.Future[object] | None"], None],
    ) -> None:
        self._coroutine = coroutine
        self._tell = tell

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._coroutine.__await__()
        try:
            awaited = next(steps)
            while True:
                self._tell(self._coroutine, awaited)
                try:
                    value = yield awaited
                except BaseException as error:  # noqa: BLE001 - handed on
                    awaited = steps.throw(error)
                else:
                    awaited = steps.send(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()


def _frames(awaitable: object) -> list[str]:
    """The functions that wait for each other, from the outermost in."""
    names = []
    while isinstance(awaitable, CoroutineType):
        names.append(
            awaitable.cr_code.co_qualname if hasattr(awaitable.cr_code, "co_qualname") else awaitable.__name__
        )
        awaitable = awaitable.cr_await
    return names
