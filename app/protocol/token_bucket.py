"""How much one connection may ask for."""


class TokenBucket:
    """`rate` a second on average (0: no limit), with bursts of `most` (by default one second's worth).

    Times are monotonic seconds.
    """

    __slots__ = ("_at", "_most", "_rate", "_tokens")

    def __init__(self, rate: float, now: float, most: float | None = None) -> None:
        self._rate = rate
        self._most = self._tokens = max(rate, 1.0) if most is None else most
        self._at = now

    def take(self, now: float) -> bool:
        """Use one token if there is one."""
        if self._rate == 0:
            return True
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def charge(self, tokens: float, now: float) -> float:
        """Take what something has cost, on credit if need be; returns in how many seconds there is a token again."""
        if self._rate == 0:
            return 0.0
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate) - tokens
        self._at = now
        return max(0.0, (1 - self._tokens) / self._rate)
