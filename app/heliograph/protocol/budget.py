"""How much one user's clients may write. Pure.

A user has a budget for each window: messages, bytes, and messages to any one recipient. The window begins with the
first message in it. The first message of a log takes far more memory than its bytes, so the first to each recipient
within a window counts FIRST_BYTES more.

Every replica counts what its own connections write, and refuses what exceeds the budget. Kept messages are also
charged to Redis, over all replicas (`backends/redis/lua/_budget.lua`). To charge each message would cost a fifth of
what keeping it does, so a replica charges a share of the budget at once. A user gets at most one share more on each
replica.
"""

from typing import Final, NamedTuple, Protocol

from heliograph.errors import OverBudget
from heliograph.protocol.token_bucket import Paces

WINDOW_S: Final = 10.0
FIRST_BYTES: Final = 4096
SHARES: Final = 20  # shares of a budget

# Limit -> what it counts. The script answers with these names, and the metric uses them.
EXCESSES: Final = {
    "user_messages": "messages of one user",
    "user_bytes": "bytes of one user",
    "recipient_messages": "messages of one user to this one",
}


class Rates(Protocol):
    """The rates at which one user's clients may write, per second, from the settings."""

    @property
    def user_messages_per_second(self) -> float: ...
    @property
    def user_bytes_per_second(self) -> float: ...
    @property
    def recipient_messages_per_second(self) -> float: ...


class Budget(NamedTuple):
    """What a user may spend within one window. 0: no limit."""

    messages: int
    size: int  # bytes
    to_one: int  # messages to one recipient

    def share(self) -> "Budget":
        """Return what is charged to Redis at once. 0: not counted."""
        return Budget(*(max(1, limit // SHARES) if limit else 0 for limit in self))

    @classmethod
    def of(cls, limits: Rates) -> "Budget":
        return cls(
            round(limits.user_messages_per_second * WINDOW_S),
            round(limits.user_bytes_per_second * WINDOW_S),
            round(limits.recipient_messages_per_second * WINDOW_S),
        )


# A replica reads a user's frames at this multiple of the rate at which the user may write, after a burst of this many
# seconds. A client that sends faster waits, whatever it sends. So no user spends a window's budget in one moment.
LARGE_BYTES: Final = 1024  # a larger frame is counted at once
SMALL_FRAMES: Final = 16  # this many smaller ones of a connection are counted together
REFUSED_BYTES: Final = 4096  # bytes that a refused frame counts
READ_TIMES: Final = 4.0
READ_BURST_S: Final = 1.0
LEAST_FRAMES: Final = 100.0  # small frames of a user read in a second, however low the limits are (pings count too)


class Intake(Paces):
    """How fast the frames of each user are read, in bytes a second on one replica.

    `frame_bytes`: bytes that each frame counts in addition to its size. So small frames are read at READ_TIMES the
    rate of messages, and no slower than LEAST_FRAMES a second.
    """

    def __init__(self, limits: Rates) -> None:
        rate = READ_TIMES * limits.user_bytes_per_second
        super().__init__(rate, READ_BURST_S * rate)
        frames = max(READ_TIMES * limits.user_messages_per_second, LEAST_FRAMES)
        self.frame_bytes = rate / frames if limits.user_messages_per_second else 0.0


NO_BUDGET: Final = Budget(0, 0, 0)


def over_budget(budget: Budget, excess: str, retry_s: float) -> OverBudget:
    """Return the error for a user who has reached the limit `excess` (see EXCESSES)."""
    limits = {"user_messages": budget.messages, "user_bytes": budget.size, "recipient_messages": budget.to_one}
    text = (
        f"the limit of {limits[excess]} {EXCESSES[excess]} within {WINDOW_S:g} s is reached; again in {retry_s:.1f} s"
    )
    return OverBudget(text, excess, retry_s)


class Charge(NamedTuple):
    """What to charge a user's budget in Redis, together with a message that is kept."""

    messages: int
    size: int
    to_one: int  # messages to the recipient of this one


class _Spent:
    """What one user has spent in the present window. `owed_…`: the part that Redis has not been charged yet."""

    __slots__ = ("began_at", "messages", "owed_messages", "owed_size", "owed_to", "size", "to")

    def __init__(self, now: float) -> None:
        self.began_at = now
        self.messages = 0
        self.size = 0
        self.to: dict[str, int] = {}
        self.owed_messages = 0
        self.owed_size = 0
        self.owed_to: dict[str, int] = {}


class Spending:
    """What every user has spent on this replica. Times are monotonic seconds."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._share = budget.share()
        self._spent: dict[str, _Spent] = {}
        self._swept_at = 0.0

    def spend(
        self, user: str, size: int, recipient: str, now: float, *, is_user: bool, kept: bool = True
    ) -> OverBudget | Charge | None:
        """Spend a message of `size` bytes; a refused one costs nothing. Return what to charge Redis, once due.

        `recipient`: the channel of the message, '' for none; `is_user`: it is another user's personal channel;
        `kept`: the message is kept.
        """
        budget = self.budget
        spent = self._spent.get(user)
        if spent is None or now - spent.began_at >= WINDOW_S:
            self._sweep(now)
            spent = self._spent[user] = _Spent(now)
        to_one = spent.to.get(recipient, 0) + 1
        if to_one == 1:
            size += FIRST_BYTES
        if 0 < budget.messages <= spent.messages:
            excess = "user_messages"
        elif 0 < budget.size < spent.size + size:
            excess = "user_bytes"
        elif is_user and 0 < budget.to_one < to_one:
            excess = "recipient_messages"
        else:
            spent.messages += 1
            spent.size += size
            spent.to[recipient] = to_one
            return self._owe(spent, size, recipient if is_user else "") if kept else None
        return over_budget(budget, excess, spent.began_at + WINDOW_S - now)

    def _owe(self, spent: _Spent, size: int, recipient: str) -> Charge | None:
        share = self._share
        spent.owed_messages += 1
        spent.owed_size += size
        due_to_one = 0
        if share.to_one and recipient:
            owed = spent.owed_to.get(recipient, 0) + 1
            if owed >= share.to_one:
                due_to_one, owed = owed, 0
            spent.owed_to[recipient] = owed
        if not (due_to_one or 0 < share.messages <= spent.owed_messages or 0 < share.size <= spent.owed_size):
            return None
        charge = Charge(spent.owed_messages, spent.owed_size, due_to_one)
        spent.owed_messages = spent.owed_size = 0
        return charge

    def _sweep(self, now: float) -> None:
        """Forget windows that are over, once a window."""
        if now - self._swept_at >= WINDOW_S:
            self._swept_at = now
            self._spent = {user: spent for user, spent in self._spent.items() if now - spent.began_at < WINDOW_S}
