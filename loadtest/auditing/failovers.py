"""Ways to lose the master of a group of servers that Sentinels watch."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from loadtest.auditing.breakages import command
from loadtest.auditing.scene import Scene, true_within
from loadtest.auditing.topology import Breakage
from tests.support.redis_pair import has_copied, written
from tests.support.redis_server import RedisServer
from tests.support.sentinel_group import NAME, SentinelGroup

DOWN_AFTER_MS: Final = 1000  # how long a master may not answer
PROMOTED_WITHIN_S: Final = 20.0
WHOLE_WITHIN_S: Final = 40.0  # the Sentinels wait before they take an old master back
AWAY_S: Final = (0.0, 1.0)  # how long after the promotion a killed master stays away: something restarts it
FROZEN_S: Final = 20.0
CUT_S: Final = 20.0
LAG_S: Final = 0.5
EVERY_S: Final = 20.0
PROMOTED: Final = "until a replica was the master"


def make_group(directory: Path, appendfsync: str, *, two_sides: bool = False) -> SentinelGroup:
    """Return a group that is not started: a master and a replica.

    `two_sides`: for a network that is cut in two. A master that nobody copies takes no writes for long then, so there
    is one replica more; and a Sentinel on the side of the master.
    """
    options = ["--appendonly", "yes", "--appendfsync", appendfsync]
    if not two_sides:
        return SentinelGroup(directory, options=options, down_after_ms=DOWN_AFTER_MS)
    options += ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "2"]
    return SentinelGroup(directory, options=options, down_after_ms=DOWN_AFTER_MS, size=3, observers=1)


def of_groups(groups: Sequence[SentinelGroup]) -> Mapping[str, Breakage]:
    """Return the ways to lose the master of any of the groups."""

    async def kill(scene: Scene, dice: random.Random) -> None:
        """The master dies, and comes back as a replica."""
        group, master = await _chosen(groups, dice)
        scene.note_fault("masters killed", str(master.port))
        began = time.monotonic()
        await asyncio.to_thread(master.stop)
        await _come_back(scene, group, master, dice, began)

    async def lag(scene: Scene, dice: random.Random) -> None:
        """The same, after its replicas have heard nothing for a while: what was written meanwhile is lost."""
        group, master = await _chosen(groups, dice)
        replicas = await asyncio.to_thread(group.replicas)
        scene.note_fault("masters killed whose replica lagged", str(master.port))
        for replica in replicas:
            await asyncio.to_thread(group.hold_back, replica)
        await asyncio.sleep(LAG_S)
        began = time.monotonic()
        await asyncio.to_thread(master.stop)
        await _until_promoted(group, master)
        for replica in replicas:
            await asyncio.to_thread(group.let_copy, replica)
        await _come_back(scene, group, master, dice, began)

    async def freeze(scene: Scene, dice: random.Random) -> None:
        """The master hangs, is replaced, and goes on as if nothing had happened."""
        group, master = await _chosen(groups, dice)
        scene.note_fault("masters frozen", str(master.port))
        began = time.monotonic()
        master.freeze()
        try:
            await _until_promoted(group, master)
            scene.note_took(PROMOTED, began)
            await asyncio.sleep(max(0.0, FROZEN_S - (time.monotonic() - began)))
        finally:
            master.thaw()
        await _until_whole(group)

    async def cut(scene: Scene, dice: random.Random) -> None:
        """Neither Sentinels nor replicas reach the master, but programs do: also those that hear of no other."""
        group, master = await _chosen(groups, dice)
        scene.note_fault("masters cut off", str(master.port))
        began = time.monotonic()
        await asyncio.to_thread(group.cut_off, master)
        try:
            await _until_promoted(group, master)
            scene.note_took(PROMOTED, began)
            await asyncio.sleep(CUT_S)
        finally:
            await asyncio.to_thread(group.reconnect, master)
        await _until_whole(group)

    async def replace(scene: Scene, dice: random.Random) -> None:
        """An orderly failover, as an operator asks for it."""
        group, master = await _chosen(groups, dice)
        scene.note_fault("masters replaced in order", str(master.port))
        answer = await asyncio.to_thread(group.ask_sentinel, "SENTINEL", "FAILOVER", NAME)
        if answer != "OK":
            raise RuntimeError(f"the Sentinels refuse a failover: {answer}")
        await _until_promoted(group, master)
        await _until_whole(group)

    return {
        "kill": Breakage(kill, EVERY_S),
        "lag": Breakage(lag, EVERY_S),
        "freeze": Breakage(freeze, EVERY_S),
        "cut": Breakage(cut, EVERY_S),
        "replace": Breakage(replace, EVERY_S),
    }


async def _chosen(groups: Sequence[SentinelGroup], dice: random.Random) -> tuple[SentinelGroup, RedisServer]:
    group = dice.choice(groups)
    return group, await asyncio.to_thread(group.master)


async def _come_back(
    scene: Scene, group: SentinelGroup, dead: RedisServer, dice: random.Random, began: float
) -> None:
    """Let the Sentinels replace a master that died when the monotonic clock was at `began`; start it again."""
    await _until_promoted(group, dead)
    scene.note_took(PROMOTED, began)
    await asyncio.sleep(dice.uniform(*AWAY_S))
    await asyncio.to_thread(group.revive, dead)

    master = await asyncio.to_thread(group.master)
    top = await asyncio.to_thread(written, master)
    if not await true_within(lambda: asyncio.to_thread(has_copied, master, top), WHOLE_WITHIN_S):
        raise RuntimeError(f"port {dead.port} does not copy the new master within {WHOLE_WITHIN_S:g} s")
    scene.note_took("until the old one copied it", began)
    await _until_whole(group)


async def _until_promoted(group: SentinelGroup, old: RedisServer) -> None:
    """Wait until the Sentinels name another master than `old`, and it takes writes."""

    async def is_promoted() -> bool:
        master = await asyncio.to_thread(group.master)
        return master is not old and (await command(master, "ROLE")).startswith("master")

    if not await true_within(is_promoted, PROMOTED_WITHIN_S):
        raise RuntimeError(f"the Sentinels have not replaced port {old.port} within {PROMOTED_WITHIN_S:g} s")


async def _until_whole(group: SentinelGroup) -> None:
    if not await true_within(lambda: asyncio.to_thread(group.is_whole), WHOLE_WITHIN_S):
        raise RuntimeError(f"the replica does not follow its master after {WHOLE_WITHIN_S:g} s")
