"""From a callback to an `await`: what is asked with a callback on the way of a message is awaited elsewhere."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def await_callback(ask: Callable[[Callable[[_T | Exception], None]], object]) -> _T:
    """Call `ask` with a callback, and wait until that is called: with the result, or with an error, raised here.

    Who is cancelled meanwhile does not hear the answer; what was asked for goes on.
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
