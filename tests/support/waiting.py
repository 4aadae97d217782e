"""Waiting for what must come, with a deadline instead of a guess."""

import asyncio
import inspect
from collections.abc import Callable


async def eventually(condition: Callable[..., object], *, within_s: float = 15.0) -> None:
    """Return as soon as `condition()`, or what it returns once awaited, is true; fail after `within_s` seconds."""
    deadline = asyncio.get_running_loop().time() + within_s
    pause_s = 0.001
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        assert asyncio.get_running_loop().time() < deadline, f"not true within {within_s} s"
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.01)
