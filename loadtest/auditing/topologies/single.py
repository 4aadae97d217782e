"""One Redis server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from loadtest.auditing import breakages, devices
from loadtest.auditing.clients import Subscriber
from loadtest.auditing.experiments import Plan
from loadtest.auditing.topology import Breakage, Topology
from tests.support.redis_server import RedisServer


def make_server(directory: Path, appendfsync: str) -> RedisServer:
    """Return a server that is not started. It keeps its data in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    return RedisServer(directory, appendonly=True, options=("--appendfsync", appendfsync))


class SingleTopology(Topology):
    name = "single"
    keeps = frozenset({"disk"})

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan)
        self._server = make_server(directory / "redis", self.appendfsync)

    def start(self) -> Self:
        self._server.start()
        return self

    def stop(self) -> None:
        self._server.stop()

    @property
    def servers(self) -> Sequence[RedisServer]:
        return [self._server]

    @property
    def environment(self) -> Mapping[str, str]:
        return {"HELIOGRAPH_REDIS__URL": self._server.url}

    def breakages(self, readers: Sequence[Subscriber]) -> Mapping[str, Breakage]:
        return {**breakages.of_servers(self.servers, readers), **devices.of_devices(self._server)}
