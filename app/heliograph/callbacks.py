"""Await a call that takes a callback. The path of a message uses callbacks; other code awaits the same calls."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def await_callback(ask: Callable[[Callable[[_T | Exception], None]], object]) -> _T:
    """Call `ask` with a callback, wait for the callback, and return its result or raise its error.

    A caller that is cancelled meanwhile gets no answer; the call itself goes on.
    """
    future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

    def done(result: _T | Exception) -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    ask(done)
    return await future
