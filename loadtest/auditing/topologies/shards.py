"""Several independent shards: each one server, or a group that Sentinels watch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from loadtest.auditing import breakages, failovers, layouts
from loadtest.auditing.clients import Subscriber
from loadtest.auditing.experiments import Plan
from loadtest.auditing.topologies.single import make_server
from loadtest.auditing.topology import Breakage, Topology
from tests.support.redis_server import RedisServer

SHARDS: Final = 3
CHANNELS: Final = tuple(f"audit:{letter}" for letter in "abcdefghi")  # each shard has some


class ShardsTopology(Topology):
    name = "shards"
    channels = CHANNELS
    keeps = frozenset({"disk"})

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan)
        self._servers = [make_server(directory / f"shard-{i + 1}", self.appendfsync) for i in range(SHARDS)]

    def start(self) -> Self:
        for server in self._servers:
            server.start()
        return self

    def stop(self) -> None:
        for server in self._servers:
            server.stop()

    @property
    def servers(self) -> Sequence[RedisServer]:
        return self._servers

    @property
    def environment(self) -> Mapping[str, str]:
        return {"HELIOGRAPH_REDIS__SHARDS": json.dumps([server.url for server in self._servers])}

    def breakages(self, readers: Sequence[Subscriber]) -> Mapping[str, Breakage]:
        return {
            **breakages.of_servers(self.servers, readers),
            **breakages.of_shards(self.servers),
            **layouts.of_layouts(self.servers),
        }


class SentinelShardsTopology(Topology):
    name = "shards-sentinel"
    channels = CHANNELS
    keeps = frozenset({"replica"})

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan)
        self._groups = [failovers.make_group(directory / f"shard-{i + 1}", self.appendfsync) for i in range(SHARDS)]

    def start(self) -> Self:
        for group in self._groups:
            group.start()
        return self

    def stop(self) -> None:
        for group in self._groups:
            group.stop()

    @property
    def servers(self) -> Sequence[RedisServer]:
        return [server for group in self._groups for server in group.servers]

    @property
    def environment(self) -> Mapping[str, str]:
        return {"HELIOGRAPH_REDIS__SHARDS": json.dumps([group.url for group in self._groups])}

    def breakages(self, readers: Sequence[Subscriber]) -> Mapping[str, Breakage]:
        return failovers.of_groups(self._groups)
