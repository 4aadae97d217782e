"""When a publisher tries again, and when it gives up. Pure: it is told what happened and says how long to wait."""

import random
import socket
from collections.abc import Callable
from typing import Final, NoReturn

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from heliograph.backends.redis.link_errors import NotSent
from heliograph.errors import PublishError
from heliograph.ports import IDEMPOTENCY_TTL_S

FIRST_DELAY_S: Final = 0.05
MOST_DELAY_S: Final = 1.0

# What passes by itself: the network, a restart, a fail-over. All else will be refused again in the same way.
_PASSING = (
    ConnectionError,  # LOADING too
    TimeoutError,
    NoScriptError,
    ReadOnlyError,
    ClusterDownError,  # MASTERDOWN too
    TryAgainError,
    OSError,
)
_PASSING_REPLIES = ("NOREPLICAS ", "BUSY ")  # which redis-py has no class for
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
        self._unsure = False  # whether one of them may have been carried out

    def failed(self, error: Exception) -> float:
        """Seconds to wait before the next attempt: more each time, and never the same for all publishers.

        Raises:
            PublishError: there will be none: the error is of the kind that stays, or the time is over.
        """
        self._made += 1
        text = str(error) or type(error).__name__
        if not _passes(error):
            raise self._given_up(f"Redis refused: {text}") from error
        self._unsure = self._unsure or not _was_not_carried_out(error)
        longest_s: float = min(MOST_DELAY_S, FIRST_DELAY_S * 2 ** min(self._made - 1, 10))
        delay_s = longest_s * random.uniform(0.5, 1)  # noqa: S311 - to spread, not to hide
        if self._monotonic() + delay_s >= self._give_up_at:
            times = f"{self._made} attempt{'s' if self._made > 1 else ''} in {self._deadline_s:g} s"
            raise self._given_up(f"Redis cannot be reached ({times}): {text}") from error
        return delay_s

    def give_up(self, error: Exception) -> NoReturn:
        """There will be no other attempt: the publisher was closed."""
        raise self._given_up(f"closed while Redis could not be reached: {error}") from error

    def _given_up(self, message: str) -> PublishError:
        key = self._idempotency_key
        if not self._unsure:
            return PublishError(message, key)
        advice = "it may have been carried out"
        if key is not None:
            advice = (
                "it may have been published: to make sure, publish it again with the idempotency key "
                f"{key!r} within {IDEMPOTENCY_TTL_S} s"
            )
        return PublishError(message, key, advice)


def _passes(error: Exception) -> bool:
    if isinstance(error, ResponseError) and str(error).startswith(_PASSING_REPLIES):
        return True
    return isinstance(error, _PASSING) and not isinstance(error, _REFUSED)


def _was_not_carried_out(error: Exception) -> bool:
    """Whether it is certain that Redis has not done what it was asked to: it said so, or there was no connection."""
    if isinstance(error, ResponseError | BusyLoadingError | NotSent):
        return True
    return isinstance(error.__context__, ConnectionRefusedError | socket.gaierror)
