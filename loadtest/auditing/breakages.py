"""Ways to break the replicas, the bus, and the servers of any topology."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final

from loadtest.auditing.clients import Subscriber
from loadtest.auditing.scene import Scene
from loadtest.auditing.topology import Breakage
from tests.support.cluster import LocalClusterProcess
from tests.support.redis_server import RedisServer

STALL_MS: Final = 400
MISSED_S: Final = 0.5  # how long subscribers stay away before Redis fails them
DOWN_S: Final = 0.2
DEAD_S: Final = 60.0
HANGS_S: Final = (2.0, 3.0)


def of_replicas(cluster: LocalClusterProcess) -> Mapping[str, Breakage]:
    """Return the ways to break the replicas of a cluster, which restarts them."""

    async def kill(scene: Scene, dice: random.Random) -> None:
        port = dice.choice(cluster.replica_ports)
        name = f"replica-{cluster.replica_ports.index(port) + 1}"
        pids = await asyncio.to_thread(cluster.pids)
        if name in pids:
            scene.killed_at[port] = time.monotonic()
            os.kill(pids[name], signal.SIGKILL)
            scene.note_fault("replicas killed", name)

    return {"replicas": Breakage(kill, 10.0, alone=False)}


def of_the_bus(servers: Sequence[RedisServer]) -> Mapping[str, Breakage]:
    """Return the ways to break what goes between the replicas and the servers."""

    async def kill(scene: Scene, dice: random.Random) -> None:
        server = dice.choice(servers)
        killed = await command(server, "CLIENT", "KILL", "TYPE", "pubsub")
        if killed.isdigit():
            scene.note_fault("bus connections killed", str(server.port), int(killed))

    async def stall(scene: Scene, dice: random.Random) -> None:
        server = dice.choice(servers)
        if await command(server, "CLIENT", "PAUSE", str(STALL_MS), "ALL") == "OK":
            scene.note_fault("Redis stalled", str(server.port))

    return {"bus": Breakage(kill, 0.3, alone=False), "stall": Breakage(stall, 2.0, alone=False)}


async def command(server: RedisServer, *words: str) -> str:
    """Have a server carry out a command; return what it says, or nothing if it does not answer."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return await asyncio.to_thread(server.command, *words)
    return ""


def of_servers(servers: Sequence[RedisServer], readers: Sequence[Subscriber]) -> Mapping[str, Breakage]:
    """Return the ways to break servers that nothing replaces: each comes back with what it has on its disk."""
    gently, hanging = itertools.cycle([True, False]), itertools.cycle([True, False])

    async def restart(scene: Scene, dice: random.Random) -> None:
        server = dice.choice(servers)
        scene.note_fault("Redis restarted", str(server.port))
        await asyncio.to_thread(server.restart, gently=next(gently))

    async def fail_those_who_return(scene: Scene, dice: random.Random) -> None:
        """Let some subscribers leave, miss a few messages, and come back just as Redis hangs or is down."""
        server, hangs = dice.choice(servers), next(hanging)
        some = [reader for reader in readers if reader.leaves]
        await asyncio.gather(*(reader.stay_away() for reader in some))
        await asyncio.sleep(MISSED_S)
        scene.note_fault(f"Redis {'hung' if hangs else 'was down'} as users came back", str(server.port))
        if hangs:
            server.freeze()
        else:
            await asyncio.to_thread(server.stop)
        try:
            for reader in some:
                reader.come_back()
            await asyncio.sleep(dice.uniform(*HANGS_S) if hangs else DOWN_S)
        finally:
            if hangs:
                server.thaw()
            else:
                server.start()

    return {"restart": Breakage(restart, 13.0), "returns": Breakage(fail_those_who_return, 5.0)}


def of_shards(servers: Sequence[RedisServer]) -> Mapping[str, Breakage]:
    """Return the way to lose one of several independent servers for long."""

    async def die(scene: Scene, dice: random.Random) -> None:
        server = dice.choice(servers)
        what, which = "shards dead for a while", str(server.port)
        scene.note_fault(what, which)
        await asyncio.to_thread(server.stop)
        try:
            await scene.pause(DEAD_S)
        finally:
            scene.note_mended(what, which)
            await asyncio.to_thread(server.start)

    return {"dead": Breakage(die, 60.0)}
