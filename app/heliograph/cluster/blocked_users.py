"""Users whom the server keeps out for a while: this replica's copy of the list in Redis."""

from collections.abc import Mapping

from heliograph.clock import Clock

REMEMBER_LIFTED_S = 60.0  # how long an older list is ignored for a user whose block was lifted


class BlockedUsers:
    """The end of each user's block. No I/O."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}  # monotonic seconds
        self._lifted_at: dict[str, float] = {}

    def remaining_s(self, user: str) -> float:
        """Return for how many seconds the user is still blocked; 0 if they are not."""
        until = self._until.get(user)
        return 0.0 if until is None else max(0.0, until - self._clock.monotonic())

    def listed(self) -> dict[str, float]:
        """Return the blocked users, and for how many seconds more."""
        now = self._clock.monotonic()
        return {user: until - now for user, until in self._until.items() if until > now}

    def block(self, user: str, for_s: float) -> None:
        """Block the user from now on, for `for_s` seconds; 0 lifts the block."""
        now = self._clock.monotonic()
        if for_s > 0:
            self._until[user] = now + for_s
            self._lifted_at.pop(user, None)
        else:
            self._until.pop(user, None)
            self._lifted_at[user] = now

    def merge(self, kept: Mapping[str, float]) -> list[str]:
        """Merge a list (user -> seconds) from Redis. Return the users who were not known to be blocked.

        A user who is missing in the list stays blocked: a Redis that has lost the list must not lift a block.
        """
        now = self._clock.monotonic()
        self._until = {user: until for user, until in self._until.items() if until > now}
        self._lifted_at = {user: at for user, at in self._lifted_at.items() if now - at < REMEMBER_LIFTED_S}
        new = [user for user in kept if user not in self._until and user not in self._lifted_at]
        for user in new:
            self._until[user] = now + kept[user]
        return new
