"""What the clients and the faults of one audit share."""

import asyncio
import inspect
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from loadtest.auditing.history import Fault, History, Mended, Took

HURT_S: Final = 3.0  # a socket that ends so soon after its replica was killed was ended by that


@dataclass
class Scene:
    """`ports`: of the replicas. `mending`: held by the one fault after which Redis must recover before the next."""

    history: History
    seed: int
    ports: list[int] = field(default_factory=list)
    killed_at: dict[int, float] = field(default_factory=dict)  # port -> when the replica there was last killed
    publishing: bool = True
    over: asyncio.Event = field(default_factory=asyncio.Event)  # no more faults
    mending: asyncio.Lock = field(default_factory=asyncio.Lock)

    def dice(self, whose: str) -> random.Random:
        """Dice that fall in the same way in each run with this seed, whatever the others throw."""
        return random.Random(f"{self.seed} {whose}")  # noqa: S311 - dice, not secrets

    def note_fault(self, what: str, target: str = "", count: int = 1) -> None:
        self.history.note(Fault, what=what, target=target, count=count)

    def note_mended(self, what: str, target: str = "") -> None:
        self.history.note(Mended, what=what, target=target)

    def note_took(self, what: str, since: float) -> None:
        """`since`: when the fault was, by the monotonic clock."""
        self.history.note(Took, what=what, seconds=time.monotonic() - since)

    def excuse(self, port: int, within_s: float = HURT_S) -> str:
        """Return why a connection to the replica on this port may have ended; nothing if nothing explains it."""
        since = time.monotonic() - self.killed_at.get(port, -within_s)
        return f"its replica was killed {since:.1f} s ago" if since < within_s else ""

    async def pause(self, seconds: float) -> bool:
        """Wait, but only while there are faults; return False when there shall be no more."""
        try:
            await asyncio.wait_for(self.over.wait(), seconds)
        except TimeoutError:
            return True
        return False


async def true_within(condition: Callable[[], Any], within_s: float) -> bool:
    """Wait until `condition()`, or what it returns once awaited, is true; return False after so many seconds."""
    deadline = time.monotonic() + within_s
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result or time.monotonic() > deadline:
            return bool(result)
        await asyncio.sleep(0.05)
