"""One audit, from the start of its cluster to its history."""

import asyncio
import contextlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.log import RedisLog
from heliograph.backends.redis.opening import open_server
from loadtest.auditing import breakages
from loadtest.auditing.clients import Repeater, Sender, Subscriber
from loadtest.auditing.ending import API_KEY, Logs, settle
from loadtest.auditing.experiments import PROGRAMS, Plan
from loadtest.auditing.history import Counted, History, Received, Run, Unexpected, WrongVerdict, number_of
from loadtest.auditing.scene import Scene, true_within
from loadtest.auditing.topologies import TOPOLOGIES
from loadtest.auditing.topology import Breakage, Topology
from loadtest.auditing.watching import watch_readiness
from loadtest.verdicts import Number, check_verdicts
from tests.support.cluster import LocalClusterProcess

REPLICAS: Final = 3
USERS: Final = ("민지", "bob")
STARTS_S: Final = 20.0  # how long the subscribers may take until each is on its channels
ENDS_S: Final = 60.0  # how long the last breakage may take to be mended, and the last publication to be answered
AFTER_S: Final = 1.0  # how long publications go on after the last breakage: they show where each reader stands
SHORT_S: Final = 30.0  # in an audit that is shorter, what is broken seldom is broken more often
TRACEBACK: Final = re.compile(r"(?:.*\n)?.*Traceback.*(?:\n.*){0,24}")  # with what is said before it, and after it
HISTORY: Final[dict[str, dict[str, Any]]] = {
    "audit": {"history_size": 100_000, "history_ttl_s": 86_400},
    "#": {"history_size": 100_000, "history_ttl_s": 86_400, "client_publish": False},
}
SETTINGS: Final[dict[str, Any]] = {
    "HELIOGRAPH_API__KEY": API_KEY,
    "HELIOGRAPH_LIMITS__MESSAGES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS": "0",
    "HELIOGRAPH_LIMITS__USER_MESSAGES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__USER_BYTES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__RECIPIENT_MESSAGES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__CONNECTIONS_PER_USER": "0",
    "HELIOGRAPH_NAMESPACES": json.dumps(HISTORY),
    "HELIOGRAPH_TRACE__NOTES": "200000",
}


async def run(plan: Plan, directory: Path, history: History) -> None:
    """Start a cluster, break it, and note in the history what its clients see.

    Raises:
        AssertionError, RuntimeError: something did not start, or was not mended in time.
    """
    os.environ["HELIOGRAPH_TEST_SERVER"] = PROGRAMS[plan.server]
    topology = TOPOLOGIES[plan.topology](directory, plan)
    settings = {**SETTINGS, "HELIOGRAPH_REDIS__ACK": plan.ack}
    may_lose = plan.ack not in topology.keeps if plan.may_lose is None else plan.may_lose
    history.note(
        Run,
        topology=plan.topology,
        server=plan.server,
        ack=plan.ack,
        seed=plan.seed,
        seconds=plan.seconds,
        may_lose=may_lose,
        unavailable_s=plan.unavailable_s,
        refused_s=plan.refused_s,
        stays_ready=plan.stays_ready,
        two_sides=plan.two_sides,
        experiment=plan.experiment,
    )
    try:
        await asyncio.to_thread(topology.start)
        os.environ.update({**settings, **topology.environment})  # for the repeater, a program beside the cluster
        with contextlib.ExitStack() as stack:
            clusters = [
                stack.enter_context(LocalClusterProcess(directory / f"log-{i}", replicas=size, **settings, **where))
                for i, (size, where) in enumerate(_sides(plan, topology), start=1)
            ]
            try:
                await _act(plan, Scene(history, plan.seed), topology, clusters)
            finally:
                output = "\n".join(cluster.output() for cluster in clusters)
        history.note(Counted, what="repairs inside replicas", count=output.count(": repaired "))
        for text in TRACEBACK.findall(output):
            history.note(Unexpected, text=text)
    finally:
        await asyncio.to_thread(topology.stop)


def _sides(plan: Plan, topology: Topology) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield how many replicas there are on each side of the network, and how they reach Redis."""
    if not plan.two_sides:
        yield REPLICAS, topology.environment
        return
    if topology.other_side is None:
        raise RuntimeError(f"{topology.name} cannot be cut in two")
    yield REPLICAS - 1, topology.environment
    yield 1, topology.other_side


async def _act(plan: Plan, scene: Scene, topology: Topology, clusters: list[LocalClusterProcess]) -> None:
    scene.ports = [port for cluster in clusters for port in cluster.replica_ports]
    readers = _subscribers(plan, scene, topology)
    channels = [*topology.channels, *(f"#{user}" for user in USERS)]
    senders = [
        Sender(f"sender-{i + 1}", scene, _rotated(scene.ports, i), channels, plan.rate) for i in range(REPLICAS)
    ]
    async with asyncio.TaskGroup() as group:
        reading = [group.create_task(reader.run(), name=reader.name) for reader in readers]
        await _until_subscribed(readers)
        writing = [group.create_task(each.run()) for each in senders]
        writing.append(group.create_task(Repeater("repeater", scene, channels, plan.rate).run()))
        watching = group.create_task(watch_readiness(scene))
        breaking = [group.create_task(each) for each in _breaking(plan, scene, topology, clusters[0], readers)]
        await asyncio.sleep(plan.seconds)
        scene.over.set()
        await asyncio.wait_for(asyncio.gather(*breaking), ENDS_S)
        watching.cancel()
        for reader in readers:
            reader.come_back()
        await asyncio.sleep(AFTER_S)
        scene.publishing = False
        await asyncio.wait_for(asyncio.gather(*writing), ENDS_S)
        logs = Logs(clusters[0].url)
        try:
            await settle(readers, {channel: await logs.top(channel) for channel in channels})
            if plan.verdicts:
                await _ask_for_verdicts(plan.verdicts, scene, readers, channels, topology)
            for task in reading:
                task.cancel()
            for channel in channels:
                await logs.note(scene.history, channel)
        finally:
            await logs.aclose()


async def _ask_for_verdicts(
    count: int, scene: Scene, readers: list[Subscriber], channels: list[str], topology: Topology
) -> None:
    """Note how the replicas' verdicts on random messages compare with what the subscribers got.

    Raises:
        RuntimeError: the messages stand in several servers.
    """
    url = topology.environment.get("HELIOGRAPH_REDIS__URL")
    if url is None:
        raise RuntimeError(f"verdicts are asked for only where there is one Redis, and not with {topology.name}")
    users = {reader.name: reader.user for reader in readers}
    got: dict[tuple[str, str], set[Number]] = defaultdict(set)
    for event in scene.history.events:
        if isinstance(event, Received):
            got[users[event.reader], event.channel].add(number_of(event))
    server = open_server(url, Keys("heliograph:", "events"))
    try:
        urls = [f"http://127.0.0.1:{port}" for port in scene.ports]
        found = await check_verdicts(urls, API_KEY, RedisLog(server), USERS, channels, got, count)
    finally:
        await server.close()
    scene.history.note(Counted, what="verdicts that agree", count=found.agreeing)
    scene.history.note(Counted, what="verdicts not known", count=found.not_known)
    for text in found.wrong:
        scene.history.note(WrongVerdict, text=text)


def _subscribers(plan: Plan, scene: Scene, topology: Topology) -> list[Subscriber]:
    """Return the subscribers: every second one comes and goes; the first channel has the most."""
    channels = topology.channels
    return [
        Subscriber(
            f"subscriber-{i}",
            scene,
            _rotated(scene.ports, i),
            user=USERS[i // REPLICAS % len(USERS)],
            channel=channels[i % len(channels)] if i % 4 else channels[0],
            leaves=i % 2 == 1,
        )
        for i in range(plan.subscribers)
    ]


async def _until_subscribed(readers: list[Subscriber]) -> None:
    """Nothing is published before: who comes later has no right to it."""
    if not await true_within(lambda: all(all(reader.positions.values()) for reader in readers), STARTS_S):
        raise RuntimeError(f"not every subscriber is on its channels after {STARTS_S:g} s")


def _rotated(ports: list[int], by: int) -> list[int]:
    return ports[by % len(ports) :] + ports[: by % len(ports)]


def _breaking(
    plan: Plan, scene: Scene, topology: Topology, cluster: LocalClusterProcess, readers: list[Subscriber]
) -> list[Any]:
    """Return what breaks things, in each way that the plan names.

    Raises:
        RuntimeError: the plan names a way that this topology does not have.
    """
    ways: dict[str, Breakage] = {
        **breakages.of_replicas(cluster),
        **breakages.of_the_bus(topology.servers),
        **topology.breakages(readers),
    }
    every_s = plan.break_every_s or _usual(ways, plan.seconds)
    if unknown := sorted(every_s.keys() - ways.keys()):
        raise RuntimeError(f"{topology.name} cannot be broken with {unknown[0]!r}, but with {', '.join(ways)}")
    return [_break(scene, name, ways[name], mean_s) for name, mean_s in every_s.items() if mean_s]


def _usual(ways: Mapping[str, Breakage], seconds: float) -> dict[str, float]:
    scale = min(1.0, seconds / SHORT_S)
    return {name: way.every_s * (scale if way.every_s > 2 else 1) for name, way in ways.items()}


async def _break(scene: Scene, name: str, way: Breakage, mean_s: float) -> None:
    """Break something again and again, until the scene is over."""
    dice = scene.dice(f"break {name}")
    while await scene.pause(mean_s * dice.uniform(0.5, 1.5)):
        if not way.alone:
            await way.occur(scene, dice)
            continue
        async with scene.mending:
            if not scene.over.is_set():
                await way.occur(scene, dice)
