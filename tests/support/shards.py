"""Several Redis servers, each a shard of one cluster."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Self

from heliograph.protocol.shard_map import ShardMap
from tests.support.redis_server import RedisServer


class RedisShards:
    """Real servers; `urls` is what the settings call `redis.shards`."""

    def __init__(self, directory: Path, number: int = 3) -> None:
        self.directory = directory
        self.servers = [RedisServer(directory) for _ in range(number)]
        self.urls = [server.url for server in self.servers]
        self._map = ShardMap(number)

    def start(self) -> Self:
        for server in self.servers:
            server.start()
        return self

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    @property
    def options(self) -> dict[str, Any]:
        """For `start_replica`."""
        return {"redis_url": None, "redis": {"shards": self.urls}}

    def owner(self, channel: str) -> RedisServer:
        return self.servers[self._map.of(channel)]

    def names(self, start: str) -> list[str]:
        """A name for each shard, which owns it; a user's name without the `#` before it: `names("#user-")`."""
        return [next(self._of(index, start)).removeprefix("#") for index in range(len(self.servers))]

    def _of(self, index: int, start: str) -> Iterator[str]:
        return (name for number in count() if self._map.of(name := f"{start}{number}") == index)
