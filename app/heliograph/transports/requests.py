"""How many HTTP requests one user, and one address, may make on this replica."""

from collections import OrderedDict
from time import monotonic
from typing import Final

from heliograph.errors import ErrorCode, HeliographError
from heliograph.protocol.token_bucket import TokenBucket
from heliograph.telemetry import Telemetry

BURST_S: Final = 5.0  # this many seconds' worth may come at once
MOST_KEYS: Final = 10_000  # keys with a bucket; the one used longest ago is forgotten
CONTINUED: Final = 0.1  # cost of a poll that continues the last one
PER_CHANNEL: Final = 0.1  # cost of each channel that a request opens


class TooManyRequests(HeliographError):
    """A request over the rate: it was not carried out. Temporary, the client may retry."""

    code = ErrorCode.RATE_LIMITED


class RequestRate:
    """`rate` requests a second for each key, in bursts (0: no limit). `setting`: the variable that sets it."""

    def __init__(self, rate: float, what: str, setting: str, telemetry: Telemetry) -> None:
        self._rate = rate
        self._telemetry = telemetry
        self._refusal = f"more than {rate:g} requests a second of one {what} (HELIOGRAPH_LIMITS__{setting})"
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, key: str, cost: float = 1.0) -> None:
        """Count a request.

        Raises:
            TooManyRequests: the request is over the rate.
        """
        if not self.try_to_take(key, cost):
            self._telemetry.requests_refused += 1
            raise TooManyRequests(self._refusal)

    def try_to_take(self, key: str, cost: float = 1.0) -> bool:
        """Count a request; False if it is over the rate, and was not counted."""
        if self._rate == 0:
            return True
        now = monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, now, max(1.0, self._rate * BURST_S))
            if len(self._buckets) > MOST_KEYS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        if not bucket.take(now):
            return False
        bucket.charge(cost - 1, now)
        return True
