"""How long an operator's session is believed, with Redis and without: the Operators alone."""

import msgspec
import pytest

from heliograph.auth.authenticator import Authenticator
from heliograph.auth.operators import BELIEVED_S, Operators
from heliograph.backends.memory.tickets import MemoryTickets
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.errors import BusUnavailable
from heliograph.settings import ApiSettings, AuthSettings
from tests.support.manual_clock import ManualClock


class Kept(MemoryTickets):
    """What Redis keeps for all replicas, and whether it can be reached."""

    is_away = False

    async def take(self, name: str) -> bytes | None:
        self._check()
        return await super().take(name)

    async def read(self, name: str) -> bytes | None:
        self._check()
        return await super().read(name)

    def _check(self) -> None:
        if self.is_away:
            raise BusUnavailable("Redis cannot be reached")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def kept(clock: ManualClock) -> Kept:
    return Kept(clock)


@pytest.fixture
def two(kept: Kept, clock: ManualClock) -> list[Operators]:
    """The operators of two replicas in open mode."""
    authenticator = Authenticator(AuthSettings(mode="open"), kept, BlockedUsers(clock))
    return [
        Operators(authenticator, kept, ApiSettings(), session_s=3600, is_open=True, monotonic=clock.monotonic)
        for _ in range(2)
    ]


async def test_an_outage_does_not_bring_back_who_has_logged_out(
    two: list[Operators], kept: Kept, clock: ManualClock
) -> None:
    """Fails if a logout on another replica is undone for hours by an outage of Redis."""
    here, there = two
    secret, _ = await here.log_in("127.0.0.1")
    assert await there.recognise(secret) is not None
    await there.log_out(secret)
    kept.is_away = True
    assert await there.recognise(secret) is None
    clock.advance(BELIEVED_S + 1)
    assert await here.recognise(secret) is None


async def test_an_outage_is_bridged_for_a_minute(two: list[Operators], kept: Kept, clock: ManualClock) -> None:
    """Fails if an operator is locked out as an outage begins, is believed for ever in it, or stays out after it."""
    here, there = two
    secret, _ = await here.log_in("127.0.0.1")
    clock.advance(10 * BELIEVED_S)
    assert await here.recognise(secret) is not None
    kept.is_away = True
    for _ in range(5):
        clock.advance(BELIEVED_S / 6)
        assert await here.recognise(secret) is not None
        assert await there.recognise(secret) is None
    clock.advance(BELIEVED_S / 6)
    assert await here.recognise(secret) is None
    kept.is_away = False
    assert await here.recognise(secret) is not None


async def test_a_logout_that_redis_does_not_get(two: list[Operators], kept: Kept) -> None:
    """Fails if whoever logs out in an outage is not told that the session goes on after it."""
    here, there = two
    secret, _ = await here.log_in("127.0.0.1")
    kept.is_away = True
    with pytest.raises(BusUnavailable):
        await here.log_out(secret)
    assert await here.recognise(secret) is None
    kept.is_away = False
    assert await there.recognise(secret) is not None
    await here.log_out(secret)
    assert await there.recognise(secret) is None


@pytest.mark.parametrize("value", [b"{}", b"no JSON", b'{"name":"\xff"}', b'{"name":"","way":"badge","ends_at":9e9}'])
async def test_a_session_of_another_version(
    two: list[Operators], kept: Kept, monkeypatch: pytest.MonkeyPatch, value: bytes
) -> None:
    """Fails if a session that another version has written is an error instead of no session."""
    with monkeypatch.context() as patch:
        patch.setattr(msgspec.json, "encode", lambda _: value)
        secret, _ = await two[0].log_in("127.0.0.1")
    assert await two[1].recognise(secret) is None
    assert await two[0].recognise(secret) is None
