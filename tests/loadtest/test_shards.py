"""What more shards bring: `python -m loadtest.shards` in short (F10)."""

import pytest

from loadtest.shards import measure

MESSAGES = 3000  # few: the long form says how much it is, this only that it is more


@pytest.mark.slow
def test_each_server_has_its_part_of_the_work() -> None:
    """Fails if a message costs far more with several servers, or one of them gets more than its part."""
    assert measure(3, MESSAGES) / measure(1, MESSAGES) > 1.3
