"""The backends that the contract holds for."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from app.backends.keys import Keys
from app.backends.memory import MemoryDirectory
from app.backends.protocols import DirectoryBackend
from app.backends.redis_client import connect
from app.backends.redis_directory import RedisDirectory
from app.clock import SystemClock
from tests.support.redis_server import RedisServer


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """As the program itself connects to Redis."""
    client = connect(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(f"{namespace}:")


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> DirectoryBackend:
    """One after the other: every test that asks for this is part of the contract."""
    if request.param == "memory":
        return MemoryDirectory(SystemClock())
    return RedisDirectory(request.getfixturevalue("client"), request.getfixturevalue("keys"))
