"""Who is kept out, as one replica knows it."""

from heliograph.cluster.blocked_users import REMEMBER_LIFTED_S, BlockedUsers
from tests.support.manual_clock import ManualClock


def test_a_block_begins_and_ends() -> None:
    """Fails if a block lasts longer or shorter than was said, or cannot be lifted."""
    clock = ManualClock()
    blocked = BlockedUsers(clock)
    assert blocked.remaining_s("bob") == 0
    blocked.block("bob", 10)
    clock.advance(9)
    assert 0 < blocked.remaining_s("bob") <= 1
    clock.advance(1)
    assert blocked.remaining_s("bob") == 0
    blocked.block("bob", 10)
    blocked.block("bob", 0)
    assert blocked.remaining_s("bob") == 0


def test_a_list_adds_and_takes_nothing_away() -> None:
    """Fails if a Redis that has lost its list lets everybody in, or what was lifted meanwhile comes back."""
    clock = ManualClock()
    blocked = BlockedUsers(clock)
    blocked.block("bob", 100)
    assert blocked.merge({"carol": 50.0}) == ["carol"]
    assert blocked.remaining_s("bob") > 90
    assert blocked.remaining_s("carol") > 40
    blocked.block("carol", 0)
    assert blocked.merge({"carol": 50.0}) == []  # an answer that was on its way when she was let in again
    assert blocked.remaining_s("carol") == 0
    clock.advance(REMEMBER_LIFTED_S)
    assert blocked.merge({"carol": 5.0, "bob": 5.0}) == ["carol"]


def test_what_has_ended_is_forgotten() -> None:
    """Fails if each user who was ever blocked takes memory for ever."""
    clock = ManualClock()
    blocked = BlockedUsers(clock)
    for number in range(100):
        blocked.block(f"user-{number}", 1)
    clock.advance(REMEMBER_LIFTED_S + 1)
    blocked.merge({})
    assert not blocked._until
    assert not blocked._lifted_at
