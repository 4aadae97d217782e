"""Close codes: who comes back, and who stays away."""

import pytest

from heliograph.client.connection.link import may_reconnect
from heliograph.protocol.codes import CloseCode


@pytest.mark.parametrize("code", CloseCode)
def test_the_range_says_whether_to_come_back(code: CloseCode) -> None:
    """Fails if a code of ours stands in the wrong range, or the Python client reads the range in another way."""
    stays_away = {"INVALID_TOKEN", "BAD_REQUEST", "FORCED", "NOT_ALLOWED", "TOO_MANY_ERRORS"}
    assert may_reconnect(code) == (code.name not in stays_away)
    if code >= 3000:
        assert may_reconnect(code) == (code < 3500)


def test_the_numbers_that_clients_know() -> None:
    """Fails if a number changes: clients are built against them (docs/protocol.md)."""
    assert {code.name: code.value for code in CloseCode} == {
        "UNSUPPORTED_DATA": 1003,
        "INTERNAL_ERROR": 1011,
        "TRY_AGAIN_LATER": 1013,
        "SHUTDOWN": 3001,
        "EXPIRED": 3005,
        "SLOW": 3008,
        "CONNECTION_LIMIT": 3010,
        "NO_PONG": 3012,
        "INVALID_TOKEN": 3500,
        "BAD_REQUEST": 3501,
        "FORCED": 3503,
        "NOT_ALLOWED": 3507,
        "TOO_MANY_ERRORS": 3509,
    }
