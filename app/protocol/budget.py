"""How much one user's clients may write. Pure; `backends/lua/_budget.lua` counts by the same rules for all replicas.

A user may spend so much in each window: messages, bytes, and messages to any one recipient. The window begins with
the first message in it. The first message of a log takes far more memory than its bytes: so the first to each
recipient within a window counts as FIRST_BYTES more.
"""

from typing import Final, NamedTuple

from app.errors import OverBudget
from app.protocol.token_bucket import Paces
from app.settings import LimitSettings

WINDOW_S: Final = 10.0
FIRST_BYTES: Final = 4096

# Which limit -> what it counts. The names are those of the metric, and what the script answers.
EXCESSES: Final = {
    "user_messages": "messages of one user",
    "user_bytes": "bytes of one user",
    "recipient_messages": "messages of one user to this one",
}


class Budget(NamedTuple):
    """What a user may spend within one window. 0: any amount."""

    messages: int
    size: int  # bytes
    to_one: int  # messages to one recipient

    @classmethod
    def of(cls, limits: LimitSettings) -> "Budget":
        return cls(
            round(limits.user_messages_per_second * WINDOW_S),
            round(limits.user_bytes_per_second * WINDOW_S),
            round(limits.recipient_messages_per_second * WINDOW_S),
        )


# Large frames, and refused ones, are read at so many times the rate at which a user may write, after a burst of so
# many seconds of that. Who sends faster waits, whatever it is that they send.
LARGE_BYTES: Final = 1024
REFUSED_BYTES: Final = 4096  # that a refusal counts
READ_TIMES: Final = 4.0
READ_BURST_S: Final = 2.0


def intake(limits: LimitSettings) -> Paces:
    """How fast the large frames of each user are read, in bytes a second on one replica."""
    rate = READ_TIMES * limits.user_bytes_per_second
    return Paces(rate, READ_BURST_S * rate)


NO_BUDGET: Final = Budget(0, 0, 0)


def over_budget(budget: Budget, excess: str, retry_s: float) -> OverBudget:
    """The error for who has reached the limit `excess` (see EXCESSES)."""
    limits = {"user_messages": budget.messages, "user_bytes": budget.size, "recipient_messages": budget.to_one}
    text = (
        f"the limit of {limits[excess]} {EXCESSES[excess]} within {WINDOW_S:g} s is reached; again in {retry_s:.1f} s"
    )
    return OverBudget(text, excess, retry_s)


class _Spent:
    """What one user has spent in the present window."""

    __slots__ = ("began_at", "messages", "size", "to")

    def __init__(self, now: float) -> None:
        self.began_at = now
        self.messages = 0
        self.size = 0
        self.to: dict[str, int] = {}


class Spending:
    """What every user has spent. Times are monotonic seconds."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._spent: dict[str, _Spent] = {}
        self._swept_at = 0.0

    def charge(self, user: str, size: int, recipient: str, now: float, *, is_user: bool) -> OverBudget | None:
        """Charge a message of `size` bytes to the user; what is refused is not charged.

        `recipient`: the channel that it goes to, '' for none; `is_user`: that is another user's own.
        """
        budget = self._budget
        spent = self._spent.get(user)
        if spent is None or now - spent.began_at >= WINDOW_S:
            self._sweep(now)
            spent = self._spent[user] = _Spent(now)
        to_one = spent.to.get(recipient, 0) + 1
        messages = spent.messages + 1
        size += spent.size + (FIRST_BYTES if to_one == 1 else 0)
        if 0 < budget.messages < messages:
            excess = "user_messages"
        elif 0 < budget.size < size:
            excess = "user_bytes"
        elif is_user and 0 < budget.to_one < to_one:
            excess = "recipient_messages"
        else:
            spent.messages = messages
            spent.size = size
            spent.to[recipient] = to_one
            return None
        return over_budget(budget, excess, spent.began_at + WINDOW_S - now)

    def _sweep(self, now: float) -> None:
        """Forget windows that are over, once a window."""
        if now - self._swept_at >= WINDOW_S:
            self._swept_at = now
            self._spent = {user: spent for user, spent in self._spent.items() if now - spent.began_at < WINDOW_S}
