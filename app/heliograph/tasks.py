"""Ending tasks. The owner of a task cancels it and waits until it has ended."""

import asyncio
from collections.abc import Iterable
from typing import Any

CANCEL_AGAIN_S = 0.05


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until all have ended, with or without an error.

    Repeat the cancellation if necessary: some awaits in redis-py lose it (`asyncio.wait_for` on Python 3.11,
    gh-86296).
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
