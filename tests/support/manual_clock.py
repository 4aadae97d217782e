"""Time that passes when a test says so."""


class ManualClock:
    """A `Clock`; both of its times go on together."""

    def __init__(self) -> None:
        self._elapsed_s = 0.0

    def now(self) -> float:
        return 1_700_000_000.0 + self._elapsed_s

    def monotonic(self) -> float:
        return self._elapsed_s

    def advance(self, seconds: float) -> None:
        self._elapsed_s += seconds
