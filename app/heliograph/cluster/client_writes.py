"""How much clients may write now: the budgets of their users, and the room in Redis.

The budget is counted twice: here for everything that a user's clients write on this replica, ephemeral messages too,
so that a flood goes no further; and in Redis, in larger amounts, for kept messages over all replicas.
"""

import logging
from collections.abc import Callable

from heliograph.cluster.memory_watch import MemoryWatch
from heliograph.errors import HeliographError, OverBudget, StorageFull
from heliograph.protocol.budget import NO_BUDGET, Charge, Spending, over_budget
from heliograph.telemetry import Telemetry

logger = logging.getLogger(__name__)

LOG_EVERY_S = 10.0


class ClientWrites:
    """Refuse writes of clients into one Redis beyond their limits.

    `spending`: what users have spent on this replica, whichever Redis it went to. `monotonic`: seconds.
    """

    def __init__(
        self, spending: Spending, memory: MemoryWatch | None, telemetry: Telemetry, monotonic: Callable[[], float]
    ) -> None:
        self._budget = spending.budget
        self._is_limited = spending.budget != NO_BUDGET
        self._spending = spending
        self._memory = memory
        self._refused = telemetry.client_writes_refused
        self._monotonic = monotonic
        # User and recipient ('': any) -> the limit that Redis has reported, and until when.
        self._known: dict[tuple[str, str], tuple[str, float]] = {}
        self._unsaid: dict[str, int] = {}  # reason -> refusals since the last log line
        self._said_at: dict[str, float] = {}

    def spend(self, user: str, size: int, recipient: str, *, kept: bool) -> OverBudget | StorageFull | Charge | None:
        """Count a write of the user's client. Return why it is refused, or what to charge Redis.

        `recipient`: the channel of the message, '' for none; `size`: bytes; `kept`: it takes memory of Redis.
        """
        if kept and self._memory is not None and self._memory.is_full:
            self._note("memory", user)
            return StorageFull("Redis is too full for what clients write")
        if not self._is_limited:
            return None
        now = self._monotonic()
        spent: OverBudget | Charge | None = self._refused_by_redis(user, recipient, now) if self._known else None
        if spent is None:
            is_user = recipient.startswith("#")
            spent = self._spending.spend(user, size, recipient, now, is_user=is_user, kept=kept)
        if isinstance(spent, OverBudget):
            self._note(spent.excess, user)
        return spent

    def refused(self, user: str, recipient: str, error: HeliographError) -> None:
        """Note that Redis has refused a write of the user's client: do not ask again before there is room."""
        if isinstance(error, StorageFull):
            self._note("emit_full", user)
        elif isinstance(error, OverBudget):
            self._note(error.excess, user)
            whom = recipient if error.excess == "recipient_messages" else ""
            self._known[user, whom] = (error.excess, self._monotonic() + error.retry_s)

    def _refused_by_redis(self, user: str, recipient: str, now: float) -> OverBudget | None:
        known = self._known.get((user, "")) or self._known.get((user, recipient))
        if known is None:
            return None
        excess, until = known
        if until > now:
            return over_budget(self._budget, excess, until - now)
        self._known = {whom: each for whom, each in self._known.items() if each[1] > now}
        return self._refused_by_redis(user, recipient, now)

    def _note(self, reason: str, user: str) -> None:
        """Count a refusal, and log some of them."""
        self._refused[reason] += 1
        self._unsaid[reason] = self._unsaid.get(reason, 0) + 1
        now = self._monotonic()
        if now - self._said_at.get(reason, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._said_at[reason] = now
            count = self._unsaid.pop(reason)
            text = "refused %d writes of clients (%s) since the last line like this"
            logger.warning(text, count, reason, extra={"user": user})
