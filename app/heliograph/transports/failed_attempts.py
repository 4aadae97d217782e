"""Repeated bad credentials from one address are answered late: from a client in a loop, or from an attacker.

Only failures are slowed. A client with a valid token from the same address is not.
"""

import asyncio
from collections import Counter
from time import monotonic
from typing import Final

from heliograph.protocol.token_bucket import TokenBucket
from heliograph.telemetry import Telemetry

DELAY_S = 1.0  # by which an answer is delayed
MOST_HELD: Final = 20  # delayed answers of one address; beyond them clients are told to come back later
MOST_ADDRESSES: Final = 10_000  # remembered addresses; the one that failed longest ago is forgotten
TOO_MANY: Final = (
    "too many failed attempts from your address (HELIOGRAPH_LIMITS__FAILED_ATTEMPTS_PER_MINUTE); try again later"
)


class FailedAttempts:
    """Count failures by address, on this replica. `per_minute`: failures that are answered at once (0: no limit)."""

    def __init__(self, per_minute: float, telemetry: Telemetry) -> None:
        self._per_minute = per_minute
        self._telemetry = telemetry
        self._buckets: dict[str, TokenBucket] = {}  # by address, in the order of the last failure
        self._held: Counter[str] = Counter()

    async def failed(self, address: str) -> bool:
        """Count a failure of this address, and return when to answer it. False: with 'come back later'."""
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
