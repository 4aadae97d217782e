"""Who fails to prove who they are, again and again, is answered late: a client in a loop, or somebody who guesses.

Only failures are slowed. Whoever comes from the same address with a good token is let in as ever.
"""

import asyncio
from collections import Counter
from time import monotonic
from typing import Final

from heliograph.protocol.token_bucket import TokenBucket
from heliograph.telemetry import Telemetry

DELAY_S = 1.0  # by which an answer is late
MOST_HELD: Final = 20  # late answers of one address under way; beyond them it is told to come back later
MOST_ADDRESSES: Final = 10_000  # that are remembered; who failed the longest ago is forgotten
TOO_MANY: Final = (
    "too many failed attempts from your address (HELIOGRAPH_LIMITS__FAILED_ATTEMPTS_PER_MINUTE); try again later"
)


class FailedAttempts:
    """Counts by address, on this replica. `per_minute`: failures that are answered at once (0: any number)."""

    def __init__(self, per_minute: float, telemetry: Telemetry) -> None:
        self._per_minute = per_minute
        self._telemetry = telemetry
        self._buckets: dict[str, TokenBucket] = {}  # by address, in the order of the last failure
        self._held: Counter[str] = Counter()

    async def failed(self, address: str) -> bool:
        """One more failure of this address; returns when it is to be answered. False: with 'come back later'."""
        if self._per_minute == 0 or self._take(address):
            self._telemetry.failed_attempts["at_once"] += 1
            return True
        if self._held[address] >= MOST_HELD:
            self._telemetry.failed_attempts["refused"] += 1
            return False
        self._telemetry.failed_attempts["late"] += 1
        self._held[address] += 1
        try:
            await asyncio.sleep(DELAY_S)
        finally:
            self._held[address] -= 1
            if not self._held[address]:
                del self._held[address]
        return True

    def _take(self, address: str) -> bool:
        now = monotonic()
        bucket = self._buckets.pop(address, None)
        if bucket is None:
            while len(self._buckets) >= MOST_ADDRESSES:
                del self._buckets[next(iter(self._buckets))]
            bucket = TokenBucket(self._per_minute / 60, now, self._per_minute)
        self._buckets[address] = bucket
        return bucket.take(now)
