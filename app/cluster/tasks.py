"""Ending tasks for certain."""

import asyncio
from collections.abc import Iterable

AGAIN_S = 0.5


async def cancel_and_wait(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait until they have ended, however they do.

    One cancellation may not be enough: a client library that is just about to time out can swallow it, and a loop
    that goes on for ever would go on.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
