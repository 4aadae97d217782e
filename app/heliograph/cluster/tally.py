"""The numbers of kept publications for users: whether all of them have arrived."""


class Tally:
    """Follow the numbers of kept publications on one bus channel, which show a missing one for any user."""

    __slots__ = ("last", "seen")

    def __init__(self) -> None:
        self.last: int | None = None  # the highest number that has arrived; unknown after a new subscription
        self.seen = 0  # the number that had been sent at the last heartbeat

    def misses_before(self, number: int) -> bool:
        """Take the number of a publication. Return True if one between it and the last is missing."""
        last = self.last
        if last is None or number > last:
            self.last = number
        return last is not None and number > last + 1

    def is_behind(self, last: int | None, count: int) -> bool:
        """Take how many had been sent when `last` had arrived. Return True if one of a heartbeat ago is missing."""
        behind = self.last is not None and (self.last < self.seen or count < (last or 0))
        if behind or self.last is None:
            self.last = count
        self.seen = count
        return behind
