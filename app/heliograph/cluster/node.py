"""This replica as a member of the cluster: how it starts, drains and stops."""

import asyncio
import logging
import math
import random
from collections.abc import Sequence
from importlib import metadata
from typing import Final, Protocol

from heliograph.clock import Clock, iso8601
from heliograph.cluster.channels import Channels
from heliograph.cluster.directory import Directory
from heliograph.cluster.memory_watch import MemoryWatch
from heliograph.cluster.pubsub_manager import BusState, PubSubManager
from heliograph.cluster.pulse import Pulse
from heliograph.cluster.write_probe import WriteProbe
from heliograph.errors import BusUnavailable
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.ports import Fault, ReplicaInfo
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Reconnect
from heliograph.settings import DrainSettings

logger = logging.getLogger(__name__)

VERSION = metadata.version("heliograph")
# Why a replica is not ready, or degraded.
MEMORY_LOW: Final = "redis_memory_low"  # so nothing that clients write is kept
REASONS: Final = ("broken", "draining", "bus_lost", "bus_silent", *(fault.value for fault in Fault), MEMORY_LOW)
SLICE_S = 0.05  # a drain tells and closes its clients in slices of this length


class Service(Protocol):
    """A part of the replica that works by itself, between `start` and `stop`; both may be called more than once."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...


class Node:
    """One replica. `name` is for people and stays, `node_id` is new at each boot.

    `services`: what runs while the replica is a member, in the order in which it is started and stopped.
    """

    def __init__(
        self,
        name: str,
        hub: Hub,
        bus: PubSubManager,
        directory: Directory,
        channels: Channels,
        pulse: Pulse,
        probes: Sequence[WriteProbe],
        services: Sequence[Service],
        *,
        memory: MemoryWatch | None = None,
        drain: DrainSettings,
        clock: Clock,
    ) -> None:
        self.name = name
        self.node_id = bus.node_id
        self.draining = False
        self.was_started = False
        self.gave_up: str | None = None  # why this process has to be started anew
        self._hub = hub
        self._bus = bus
        self._directory = directory
        self._joining = channels.joining
        self._pulse = pulse
        self._probes = tuple(probes)
        self._memory = memory
        watches = () if memory is None else (memory,)
        self._services: tuple[Service, ...] = (*probes, *watches, channels, pulse, *services)
        bus.on_died = self.give_up
        for probe in probes:
            probe.give_up = self.give_up
        self._drain_settings = drain
        self._clock = clock
        self._started_at = iso8601(clock.now())

    @property
    def ready(self) -> bool:
        """True if new clients are welcome here: what is published arrives, and Redis takes what is written."""
        vital = all(probe.fault is None for probe in self._probes if probe.is_vital)
        return vital and self._bus.ready and not self.draining and self.gave_up is None

    @property
    def reason(self) -> str:
        """Why it is not ready, or is but cannot do all that it should, as one of `REASONS`; empty if all is well."""
        if self.gave_up is not None:
            return "broken"
        if self.draining:
            return "draining"
        faults = [probe.fault for probe in self._probes if probe.fault is not None]
        refusals = [fault for fault in faults if fault is not Fault.UNREACHABLE]
        if refusals:
            return refusals[0].value
        if not self._bus.ready:
            return "bus_silent" if self._bus.state is BusState.RUNNING else "bus_lost"
        if faults:
            return faults[0].value
        return MEMORY_LOW if self._memory is not None and self._memory.is_full else ""

    def give_up(self, why: str) -> None:
        """Note that this process cannot heal: its server drains it and ends it, so that it is started anew."""
        if self.gave_up is None:
            self.gave_up = why
            logger.critical("this replica cannot recover and exits with status 1, to be restarted: %s", why)

    def describe(self) -> ReplicaInfo:
        """What the other replicas, and the console, may know."""
        messages_in, messages_out = self._pulse.messages_per_second
        return ReplicaInfo(
            name=self.name,
            node_id=self.node_id,
            ready=self.ready,
            draining=self.draining,
            connections=self._hub.connections,
            users=self._hub.users,
            started_at=self._started_at,
            renewed_at=self._clock.now(),
            version=VERSION,
            messages_in_per_second=round(messages_in, 1),
            messages_out_per_second=round(messages_out, 1),
            bus_lag_ms=_milliseconds(self._bus.lag_s),
            canary_age_ms=_milliseconds(self._bus.canary_age_s),
            channels=self._hub.channels,
            subscriptions=self._hub.subscriptions,
            reason=self.reason,
        )

    async def start(self) -> None:
        """Join the cluster. Without Redis the replica serves its own users, and joins when Redis is there."""
        try:
            await self._bus.initialize()
        except BusUnavailable as error:
            logger.warning("started without the bus (%s); not ready until Redis can be reached", error)
        self._bus.start_listening()
        await self._directory.start(self.describe)
        for service in self._services:
            service.start()
        self.was_started = True

    async def stop(self) -> None:
        """Leave the cluster: the users first, then the listener, the subscriptions, the connections."""
        for service in self._services:
            await service.stop()
        await self._directory.stop()
        await self._bus.stop_listening()
        await self._bus.close()

    async def drain(self) -> None:
        """Refuse new clients and send off those that are here, spread over the drain window.

        Each is told when to come back, and closed (3001) if it has not left a while after that. Returns when nobody
        is left, or at the deadline.
        """
        self.draining = True
        try:
            async with asyncio.timeout(self._drain_settings.deadline_s):
                await self._directory.renew_now()
                await self._send_off(list(self._hub))
        except TimeoutError:
            logger.warning(
                "drain deadline (HELIOGRAPH_DRAIN__DEADLINE_S) passed with %d connections left; they are cut",
                self._hub.connections,
            )

    async def _send_off(self, connections: list[Connection]) -> None:
        if not connections:
            return
        settings = self._drain_settings
        window_s = min(settings.window_s, len(connections) / settings.per_second)
        logger.info("draining %d connections over %.1f s", len(connections), window_s)
        random.shuffle(connections)  # neighbours in the registry are often one office behind one address
        slices = max(1, round(window_s / SLICE_S))
        for i, connection in enumerate(connections):
            in_ms = round(1000 * window_s * i / len(connections))
            self._hub.send(connection, Reconnect(in_ms=in_ms, cursor=self._joining.cursor_of(connection)))
            if i % 1000 == 999:
                await asyncio.sleep(0)  # pongs and acks go on meanwhile
        await asyncio.sleep(settings.grace_s)
        for i in range(slices):
            for connection in _part(connections, i, slices):
                connection.close(CloseCode.SHUTDOWN, "this replica is shutting down")
            await asyncio.sleep(SLICE_S)
        while self._hub.connections:  # noqa: ASYNC110 - the hub has no events, and the deadline bounds this
            await asyncio.sleep(SLICE_S)


def _part(connections: list[Connection], i: int, parts: int) -> list[Connection]:
    """The i-th of so many parts of the list, in order."""
    return connections[len(connections) * i // parts : len(connections) * (i + 1) // parts]


def _milliseconds(seconds: float) -> float | None:
    return round(1000 * seconds, 2) if math.isfinite(seconds) else None
