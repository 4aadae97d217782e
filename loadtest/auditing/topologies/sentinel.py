"""A master with a replica, and three Sentinels that replace the master."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from loadtest.auditing import failovers
from loadtest.auditing.clients import Subscriber
from loadtest.auditing.experiments import Plan
from loadtest.auditing.topology import Breakage, Topology
from tests.support.redis_server import RedisServer


class SentinelTopology(Topology):
    name = "sentinel"
    keeps = frozenset({"replica"})

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan)
        self._group = failovers.make_group(directory, self.appendfsync, two_sides=plan.two_sides)

    def start(self) -> Self:
        self._group.start()
        return self

    def stop(self) -> None:
        self._group.stop()

    @property
    def servers(self) -> Sequence[RedisServer]:
        return self._group.servers

    @property
    def environment(self) -> Mapping[str, str]:
        return {"HELIOGRAPH_REDIS__URL": self._group.url}

    @property
    def other_side(self) -> Mapping[str, str]:
        return {"HELIOGRAPH_REDIS__URL": self._group.url_of(self._group.observer_ports)}

    def breakages(self, readers: Sequence[Subscriber]) -> Mapping[str, Breakage]:
        return failovers.of_groups([self._group])
