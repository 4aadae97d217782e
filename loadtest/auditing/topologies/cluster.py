"""A Redis Cluster of three masters: alone, or with a replica each."""

import asyncio
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

from loadtest.auditing.clients import Subscriber
from loadtest.auditing.experiments import Plan
from loadtest.auditing.failovers import PROMOTED
from loadtest.auditing.scene import Scene, true_within
from loadtest.auditing.topologies.shards import CHANNELS
from loadtest.auditing.topology import Breakage, Topology
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

VIRTUAL_SHARDS: Final = 16
PROMOTED_WITHIN_S: Final = 20.0


class ClusterTopology(Topology):
    name = "cluster"
    channels = CHANNELS
    keeps = frozenset({"managed"})  # nothing here dies: slots move
    replicas: ClassVar[bool] = False

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan)
        self._cluster = RedisCluster(directory, replicas=self.replicas, virtual_shards=VIRTUAL_SHARDS)

    def start(self) -> Self:
        self._cluster.start()
        return self

    def stop(self) -> None:
        self._cluster.stop()

    @property
    def servers(self) -> Sequence[RedisServer]:
        return self._cluster.servers

    @property
    def environment(self) -> Mapping[str, str]:
        return {"HELIOGRAPH_REDIS__URL": self._cluster.url}

    def breakages(self, readers: Sequence[Subscriber]) -> Mapping[str, Breakage]:
        slots = itertools.cycle(self._cluster.slots)

        async def move(scene: Scene, dice: random.Random) -> None:
            """The next slot goes to another master, with its keys."""
            slot = next(slots)
            scene.note_fault("slots moved", str(slot))
            await asyncio.to_thread(self._cluster.move, slot)

        return {"slots": Breakage(move, 2.0)}


class ReplicatedClusterTopology(ClusterTopology):
    name = "cluster-replicas"
    keeps = frozenset({"replica"})
    replicas = True

    def breakages(self, readers: Sequence[Subscriber]) -> Mapping[str, Breakage]:
        cluster = self._cluster

        async def chosen(dice: random.Random) -> RedisServer:
            return await asyncio.to_thread(cluster.owner, dice.choice(cluster.slots))

        async def kill(scene: Scene, dice: random.Random) -> None:
            """A master dies, and comes back as a replica."""
            master = await chosen(dice)
            replica = await asyncio.to_thread(cluster.replica_of, master)
            scene.note_fault("masters killed", str(master.port))
            began = time.monotonic()
            await asyncio.to_thread(master.stop)

            async def is_promoted() -> bool:
                return (await asyncio.to_thread(replica.command, "ROLE")).startswith("master")

            if not await true_within(is_promoted, PROMOTED_WITHIN_S):
                raise RuntimeError(f"the replica of port {master.port} does not replace it")
            scene.note_took(PROMOTED, began)
            await asyncio.to_thread(master.start)
            await asyncio.to_thread(cluster.wait_until_whole)

        async def replace(scene: Scene, dice: random.Random) -> None:
            """An orderly failover, as an operator asks for it."""
            master = await chosen(dice)
            scene.note_fault("masters replaced in order", str(master.port))
            await asyncio.to_thread(cluster.fail_over, master)
            await asyncio.to_thread(cluster.wait_until_whole)

        others = {"kill": Breakage(kill, 20.0), "replace": Breakage(replace, 20.0)}
        return {**super().breakages(readers), **others}
