"""The backends that the contract holds for."""

from collections.abc import AsyncIterator

import pytest

from heliograph.backends.memory.directory import MemoryDirectory
from heliograph.backends.redis import server
from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.directory import RedisDirectory
from heliograph.backends.redis.keys import Keys
from heliograph.clock import SystemClock
from heliograph.ports import DirectoryBackend
from tests.support.redis_server import RedisServer


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Client]:
    """As the program itself connects to Redis."""
    client = connect(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(f"{namespace}:", f"{namespace}:events")


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> DirectoryBackend:
    """One after the other: every test that asks for this is part of the contract."""
    if request.param == "memory":
        return MemoryDirectory(SystemClock())
    return RedisDirectory(server.RedisServer(request.getfixturevalue("client"), request.getfixturevalue("keys")))
