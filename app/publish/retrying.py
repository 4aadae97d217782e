"""When a publisher tries again, and when it gives up. Pure: it is told what happened and says how long to wait."""

import random
from collections.abc import Callable
from typing import Final, NoReturn

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
)

from app.errors import PublishError

FIRST_DELAY_S: Final = 0.05
MOST_DELAY_S: Final = 1.0

# What passes by itself: the network, a restart, a fail-over. All else will be refused again in the same way.
_PASSING = (ConnectionError, TimeoutError, NoScriptError, ReadOnlyError, MasterDownError, OSError)
_REFUSED = (AuthenticationError, AuthorizationError)  # redis-py counts these among the connection's errors

FAILURES: Final = (RedisError, OSError)  # all that redis-py and the network raise


class Attempts:
    """The attempts of one call, until `deadline_s` from now."""

    def __init__(self, deadline_s: float, monotonic: Callable[[], float], idempotency_key: str | None) -> None:
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._give_up_at = monotonic() + deadline_s
        self._idempotency_key = idempotency_key
        self._made = 0

    def failed(self, error: Exception) -> float:
        """Seconds to wait before the next attempt: more each time, and never the same for all publishers.

        Raises:
            PublishError: there will be none: the error is of the kind that stays, or the time is over.
        """
        self._made += 1
        text = str(error) or type(error).__name__
        if not isinstance(error, _PASSING) or isinstance(error, _REFUSED):
            raise PublishError(f"Redis refused: {text}", self._idempotency_key) from error
        longest_s: float = min(MOST_DELAY_S, FIRST_DELAY_S * 2 ** min(self._made - 1, 10))
        delay_s = longest_s * random.uniform(0.5, 1)  # noqa: S311 - to spread, not to hide
        if self._monotonic() + delay_s >= self._give_up_at:
            times = f"{self._made} attempt{'s' if self._made > 1 else ''} in {self._deadline_s:g} s"
            raise PublishError(f"Redis cannot be reached ({times}): {text}", self._idempotency_key) from error
        return delay_s

    def give_up(self, error: Exception) -> NoReturn:
        """There will be no other attempt: the publisher was closed."""
        raise PublishError(f"closed while Redis could not be reached: {error}", self._idempotency_key) from error
