"""Await a call that takes a callback. The path of a message uses callbacks; other code awaits the same calls."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def await_callback(call: Callable[[Callable[[_T | Exception], None]], object]) -> _T:
    """Pass a callback to `call`, wait until it is called, and return its result or raise its error.

    A caller that is cancelled meanwhile gets no answer; the call itself continues.
    """
    future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

    def done(result: _T | Exception) -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    call(done)
    return await future
