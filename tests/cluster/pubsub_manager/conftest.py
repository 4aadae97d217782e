"""Managers that are closed after each test, and a client of the test's own beside them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from heliograph.cluster.pubsub_manager import PubSubManager
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.replicas import settings_for

MakeBus = Callable[..., PubSubManager]


@pytest.fixture
async def make_bus(namespace: str) -> AsyncIterator[MakeBus]:
    """`make_bus(url, canary_timeout_s=…)`: a manager that is not initialised yet."""
    made: list[PubSubManager] = []

    def make(
        url: str | None,
        *,
        enabled: bool = True,
        **bus: Any,
    ) -> PubSubManager:
        settings = settings_for(redis_url=url, namespace=namespace, bus={"canary_interval_s": 0.03, **bus})
        made.append(PubSubManager(redis=settings.redis, bus=settings.bus, enabled=enabled))
        return made[-1]

    yield make
    async with asyncio.timeout(5):
        await asyncio.gather(*(bus.close() for bus in made))


@pytest.fixture
async def admin(redis_server: RedisServer) -> AsyncIterator[RedisAdmin]:
    """A client of the shared Redis."""
    async with RedisAdmin(redis_server.url) as admin:
        yield admin


@pytest.fixture
async def own_admin(own_redis: RedisServer) -> AsyncIterator[RedisAdmin]:
    """A client of the test's own Redis."""
    async with RedisAdmin(own_redis.url) as admin:
        yield admin


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bus that is lost is tried again at once."""
    monkeypatch.setattr("heliograph.cluster.pubsub_manager.BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr("heliograph.cluster.pubsub_manager.BACKOFF_MOST_S", 0.02)
