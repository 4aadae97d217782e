"""How long to wait between attempts to connect."""

from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.3
LONGEST_S: Final = 20.0


class Backoff:
    """Delays that are drawn from 0 to a ceiling, which doubles with each attempt.

    They have no fixed part: the clients of a replica that died all start at the same moment, and would come back as
    one wave.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` returns a number in [0, 1)."""
        self._random = random
        self._attempts = 0

    def next(self) -> float:
        """Return how many seconds to wait before the next attempt."""
        ceiling_s: float = min(LONGEST_S, FIRST_S * 2 ** min(self._attempts, 10))
        self._attempts += 1
        return self._random() * ceiling_s

    def reset(self) -> None:
        """Begin with short delays again."""
        self._attempts = 0
