"""Numbers that kept publications for users carry: whether all of them have come."""


class Tally:
    """Follows the numbers of kept publications on one bus channel: what is missing for whomever shows there."""

    __slots__ = ("last", "seen")

    def __init__(self) -> None:
        self.last: int | None = None  # the highest number that has come; unknown after a new subscription
        self.seen = 0  # what had been sent at the last heartbeat

    def misses_before(self, number: int) -> bool:
        """Take the number of what has come; True if something between it and the one before it is missing."""
        last = self.last
        if last is None or number > last:
            self.last = number
        return last is not None and number > last + 1

    def is_behind(self, last: int | None, count: int) -> bool:
        """Take what had been sent when `last` had come; True if what had been sent one heartbeat ago is missing."""
        behind = self.last is not None and (self.last < self.seen or count < (last or 0))
        if behind or self.last is None:
            self.last = count
        self.seen = count
        return behind
