"""Limits for how much one connection, or one user, may do in a time."""


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
        """Take `tokens`, on credit if necessary. Return in how many seconds there is a token again."""
        if self._rate == 0:
            return 0.0
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate) - tokens
        self._at = now
        return max(0.0, (1 - self._tokens) / self._rate)


class Pace:
    """A pace of `rate` a second (0: no limit), after the first `burst`. Times are monotonic seconds."""

    __slots__ = ("_burst_s", "_done_at", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst_s = burst / rate if rate else 0.0
        self._done_at = 0.0  # when everything taken so far would be done at this rate

    def take(self, amount: float, now: float) -> float:
        """Take `amount`. Return for how many seconds to take no more."""
        if self._rate == 0:
            return 0.0
        self._done_at = max(self._done_at, now) + amount / self._rate
        return max(0.0, self._done_at - now - self._burst_s)

    def is_idle(self, now: float) -> bool:
        """Return whether it is in its initial state again."""
        return self._done_at <= now


class Paces:
    """One pace for each name, shared by all callers; a name is forgotten once it is idle."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._by_name: dict[str, Pace] = {}
        self._sweep_at = 1000  # entries

    def new(self) -> Pace:
        """Return a pace for a client that has no name yet."""
        return Pace(self._rate, self._burst)

    def of(self, name: str, now: float) -> Pace:
        pace = self._by_name.get(name)
        if pace is None:
            if len(self._by_name) >= self._sweep_at:
                self._by_name = {each: known for each, known in self._by_name.items() if not known.is_idle(now)}
                self._sweep_at = 1000 + 2 * len(self._by_name)
            pace = self._by_name[name] = Pace(self._rate, self._burst)
        return pace
