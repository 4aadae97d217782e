"""The backends that the contract holds for."""

from collections.abc import AsyncIterator

import pytest

from heliograph.backends.memory.directory import MemoryDirectory
from heliograph.backends.redis import server
from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.directory import RedisDirectory
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.opening import open_server
from heliograph.clock import SystemClock
from heliograph.ports import DirectoryBackend
from tests.support.lifecycle import Teller
from tests.support.redis_cluster import RedisCluster
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


@pytest.fixture
def single(client: Client, keys: Keys) -> server.RedisServer:
    """A server without a cluster."""
    return server.RedisServer(client, keys)


@pytest.fixture
async def shard(redis_cluster: RedisCluster, keys: Keys) -> AsyncIterator[server.RedisServer]:
    """A virtual shard of a cluster."""
    opened = open_server(redis_cluster.url, keys)
    yield opened
    await opened.close()


@pytest.fixture(params=["memory", "redis", "cluster", "events", "events in a cluster"])
def backend(request: pytest.FixtureRequest) -> DirectoryBackend:
    """One after the other: every test that asks for this is part of the contract."""
    if request.param == "memory":
        return MemoryDirectory(SystemClock())
    name = "shard" if "cluster" in request.param else "single"
    opened: server.RedisServer = request.getfixturevalue(name)
    return Teller(opened).directory if "events" in request.param else RedisDirectory(opened)
