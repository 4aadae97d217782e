"""Stopping a coroutine at each of the places where it waits, one after the other.

What is to happen when a task is cancelled has to happen wherever it is cancelled, and a library below may have dozens
of awaits: `Watch` finds them all by counting, so that none has to be known by name.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any

Function = Callable[..., Coroutine[Any, Any, Any]]


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel these tasks and wait, again if need be: `wait_for` of Python 3.11 (in redis-py) may swallow one."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=0.01)
    await asyncio.gather(*tasks, return_exceptions=True)


class Watch:
    """Follows a coroutine to the `at`-th place where it waits (counted from 1).

    `await watch.place()` returns there: True in the turn of the loop in which the coroutine began to wait, False if
    `over` was called before it came that far.
    """

    def __init__(self, at: int) -> None:
        self._at = at
        self._waits = 0
        self._there = asyncio.Event()
        self._reached = False
        self.where = ""  # the functions that wait for each other at that place, from the outermost in

    def around(self, function: Function) -> Function:
        """What `function` does, watched: put this in its place."""

        async def watched(*arguments: Any, **named: Any) -> Any:
            return await _Watched(function(*arguments, **named), self._waits_now)

        return watched

    def over(self) -> None:
        """Nothing more is going to happen."""
        self._there.set()

    async def place(self) -> bool:
        await self._there.wait()
        return self._reached

    def _waits_now(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._waits += 1
        if self._waits == self._at and not self._there.is_set():
            self._reached = True
            self.where = " > ".join(_functions(coroutine))
            self._there.set()


class _Watched:
    """Awaits a coroutine and tells each time that it is about to wait."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], tell: Callable[[Coroutine[Any, Any, Any]], None]) -> None:
        self._coroutine = coroutine
        self._tell = tell

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        try:
            awaited = next(steps)
            while True:
                self._tell(self._coroutine)
                try:
                    value = yield awaited
                except BaseException as error:  # noqa: BLE001 - handed on
                    awaited = steps.throw(error)
                else:
                    awaited = steps.send(value)
        except StopIteration as end:
            return end.value


def _functions(awaitable: object) -> list[str]:
    names = []
    while isinstance(awaitable, CoroutineType):
        names.append(awaitable.__name__)
        awaitable = awaitable.cr_await
    return names
