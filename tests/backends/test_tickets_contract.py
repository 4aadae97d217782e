"""The contract of the tickets, over every backend."""

import time
from typing import Any

import pytest

from heliograph.backends.memory.tickets import MemoryTickets
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.opening import open_server
from heliograph.backends.redis.tickets import RedisTickets
from heliograph.clock import SystemClock
from heliograph.ports import Tickets
from tests.support.manual_clock import ManualClock
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


class TestKeeping:
    """What `Tickets` promises."""

    @pytest.fixture(params=["memory", "redis", "cluster"])
    async def tickets(self, request: pytest.FixtureRequest, redis_server: RedisServer, namespace: str) -> Any:
        if request.param == "memory":
            yield MemoryTickets(SystemClock())
            return
        url = redis_server.url if request.param == "redis" else request.getfixturevalue("redis_cluster").url
        opened = open_server(url, Keys(f"{namespace}:", f"{namespace}:events"))
        yield RedisTickets(opened)
        await opened.close()

    async def test_it_is_taken_once(self, tickets: Tickets) -> None:
        """Fails if two can take it, or one gets what was kept for another."""
        await tickets.keep("a", b"alice", 30)
        await tickets.keep("b", b"bob", 30)
        assert await tickets.take("a") == b"alice"
        assert await tickets.take("a") is None
        assert await tickets.take("b") == b"bob"
        assert await tickets.take("c") is None

    async def test_it_ends(self, tickets: Tickets) -> None:
        """Fails if it can be taken after its time."""
        await tickets.keep("a", b"alice", 0.05)
        began_at = time.monotonic()
        await eventually(lambda: time.monotonic() - began_at > 0.06)
        assert await tickets.take("a") is None

    async def test_counting(self, tickets: Tickets) -> None:
        """Fails if two get the same number, or a count never ends."""
        assert [await tickets.count("a", 30) for _ in range(3)] == [1, 2, 3]
        assert await tickets.count("b", 0.05) == 1
        began_at = time.monotonic()
        await eventually(lambda: time.monotonic() - began_at > 0.06)
        assert await tickets.count("b", 30) == 1

    async def test_memory_does_not_grow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if tickets that nobody uses stay in memory, or more are kept than there is room for."""
        clock = ManualClock()
        tickets = MemoryTickets(clock)
        await tickets.keep("a", b"alice", 30)
        clock.advance(31)
        await tickets.keep("b", b"bob", 30)
        assert list(tickets._kept) == ["b"]
        monkeypatch.setattr("heliograph.backends.memory.tickets.MOST_KEPT", 3)
        for name in "cdefg":
            await tickets.keep(name, b"x", 30)
        assert list(tickets._kept) == ["e", "f", "g"]
