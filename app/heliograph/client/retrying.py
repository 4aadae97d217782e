"""When a publisher retries, and when it gives up. Pure: it takes the failure and returns how long to wait."""

import random
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

from heliograph.errors import PublishError
from heliograph.ports import IDEMPOTENCY_TTL_S

FIRST_DELAY_S: Final = 0.05
MOST_DELAY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """The result of one attempt that failed.

    `passes`: the next attempt may succeed; otherwise the server would refuse again in the same way.
    `may_be_done`: the server may have carried it out all the same.
    """

    text: str
    passes: bool
    may_be_done: bool


class PartlyDone(Exception):
    """A part of what an attempt has sent was carried out, and the rest failed with an error: the cause."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def after(done: Sized, failures: tuple[type[Exception], ...]) -> Iterator[None]:
    """Raise one of the `failures` as `PartlyDone` if something is done by then."""
    try:
        yield
    except failures as error:
        if done and not isinstance(error, PartlyDone):
            raise PartlyDone(error) from error
        raise


class Attempts:
    """The attempts of one call, until `deadline_s` from now. `server`: its name in the text of errors."""

    def __init__(
        self, server: str, deadline_s: float, monotonic: Callable[[], float], idempotency_key: str | None
    ) -> None:
        self._server = server
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._give_up_at = monotonic() + deadline_s
        self._idempotency_key = idempotency_key
        self._made = 0
        self._unsure = False  # whether an attempt may have been carried out

    def failed(self, failure: Failure) -> float:
        """Return the seconds to wait before the next attempt: more each time, and different for each publisher.

        Raises:
            PublishError: there is no next attempt: the error does not pass, or the deadline is over.
        """
        self._made += 1
        self._unsure = self._unsure or failure.may_be_done
        if not failure.passes:
            raise self._given_up(f"{self._server} refused: {failure.text}")
        longest_s: float = min(MOST_DELAY_S, FIRST_DELAY_S * 2 ** min(self._made - 1, 10))
        delay_s = longest_s * random.uniform(0.5, 1)  # noqa: S311 - to spread, not to hide
        if self._monotonic() + delay_s >= self._give_up_at:
            times = f"{self._made} attempt{'s' if self._made > 1 else ''} in {self._deadline_s:g} s"
            raise self._given_up(f"{self._server} cannot be reached ({times}): {failure.text}")
        return delay_s

    def give_up(self, failure: Failure) -> NoReturn:
        """Raise PublishError without another attempt: the publisher was closed."""
        raise self._given_up(f"closed while {self._server} could not be reached: {failure.text}")

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
