"""What one user's clients may write, with time passed in."""

import pytest

from heliograph.errors import OverBudget
from heliograph.protocol.budget import FIRST_BYTES, NO_BUDGET, SHARES, WINDOW_S, Budget, Charge, Spending
from heliograph.settings import LimitSettings


def excess_of(spending: Spending, user: str = "a", to: str = "#b", size: int = 1, now: float = 0.0) -> str | None:
    spent = spending.spend(user, size, to, now, is_user=to.startswith("#"))
    return spent.excess if isinstance(spent, OverBudget) else None


def test_the_settings_are_rates_over_the_window() -> None:
    """Fails if a setting and what is counted have different units."""
    limits = LimitSettings(user_messages_per_second=2, user_bytes_per_second=100, recipient_messages_per_second=0.5)
    assert Budget.of(limits) == Budget(messages=20, size=1000, to_one=5)


def test_nobody_ordinary_is_refused_by_default() -> None:
    """Fails if the defaults refuse a person who types, a page that moves a cursor, or a picture now and then."""
    spending = Spending(Budget.of(LimitSettings()))
    for second in range(60):
        for n in range(40):
            assert excess_of(spending, to="#partner", size=200, now=second + n / 40) is None
        assert excess_of(spending, to="chat:1", size=60_000, now=second) is None


@pytest.mark.parametrize(
    ("budget", "to", "allowed", "excess"),
    [
        (Budget(5, 0, 0), "#b", 5, "user_messages"),
        (Budget(0, FIRST_BYTES + 500, 0), "#b", 5, "user_bytes"),
        (Budget(0, 0, 3), "#b", 3, "recipient_messages"),
        (Budget(9, 0, 3), "chat:1", 9, "user_messages"),  # a channel is nobody's mailbox
    ],
)
def test_each_limit(budget: Budget, to: str, allowed: int, excess: str) -> None:
    """Fails if a limit refuses too early or too late, costs somebody else anything, or has no end."""
    spending = Spending(budget)
    assert [excess_of(spending, to=to, size=100) for _ in range(allowed)] == [None] * allowed
    assert excess_of(spending, to=to, size=100, now=WINDOW_S - 0.1) == excess
    assert excess_of(spending, user="other", to=to) is None
    error = spending.spend("a", 100, to, WINDOW_S - 2, is_user=to.startswith("#"))
    assert isinstance(error, OverBudget)
    assert error.retry_s == pytest.approx(2)
    assert "again in 2.0 s" in str(error)
    assert excess_of(spending, to=to, now=WINDOW_S) is None


def test_what_is_refused_is_not_spent() -> None:
    """Fails if a message that is too large for what is left uses that up."""
    spending = Spending(Budget(3, FIRST_BYTES + 100, 0))
    assert excess_of(spending, size=60) is None
    for _ in range(5):
        assert excess_of(spending, size=60) == "user_bytes"
    assert [excess_of(spending, size=20) for _ in range(3)] == [None, None, "user_messages"]


def test_each_new_recipient_costs_what_their_log_does() -> None:
    """Fails if made-up recipients, whose logs take kilobytes each, cost no more than their few bytes."""
    spending = Spending(Budget(0, 10 * FIRST_BYTES, 0))
    refused = [excess_of(spending, to=f"#ghost-{n}") for n in range(20)]
    assert refused == [None] * 9 + ["user_bytes"] * 11


def test_nothing_stays_of_who_writes_no_more() -> None:
    """Fails if memory grows with every user who ever wrote."""
    spending = Spending(NO_BUDGET)
    for n in range(100):
        spending.spend(f"user-{n}", 1, "#b", n * WINDOW_S, is_user=True)
    assert len(spending._spent) <= 2


@pytest.mark.parametrize("budget", [Budget(1000, 0, 0), Budget(0, 1_000_000, 0), Budget(500, 1_000_000, 200)])
def test_redis_is_charged_with_shares(budget: Budget) -> None:
    """Fails if a message costs a charge of its own, or what is kept is charged twice, late, or not at all."""
    spending, charges = Spending(budget), []
    share = budget.share()
    for n in range(90):
        spent = spending.spend("al", 700, "#bob", 0, is_user=True)
        assert not isinstance(spent, OverBudget)
        if spent is not None:
            charges.append((n, spent))
        assert spending.spend("al", 700, "#bob", 0, is_user=True, kept=False) is None, "Redis keeps nothing of that"
        if isinstance(spent, Charge) and spent.to_one:
            assert spent.to_one == share.to_one
    messages = sum(charge.messages for _, charge in charges)
    size = sum(charge.size for _, charge in charges)
    assert 0 <= 90 - messages < (share.messages or 1000)
    assert 0 <= 90 * 700 + FIRST_BYTES - size < (share.size or 10**9)
    assert 1 <= len(charges) <= 3 * SHARES


def test_a_small_budget_is_charged_exactly() -> None:
    """Fails if a share is nothing, or more than a message where the budget holds few."""
    assert Budget(5, 19, 0).share() == Budget(1, 1, 0)
    assert NO_BUDGET.share() == NO_BUDGET
    assert Spending(Budget(5, 0, 0)).spend("al", 1, "#bob", 0, is_user=True) == Charge(1, 1 + FIRST_BYTES, 0)
