"""Whether this replica can do its work, and if not, why."""

import logging
import math
from collections.abc import Sequence
from typing import Final

import msgspec

from heliograph.cluster.memory_watch import MemoryWatch
from heliograph.cluster.write_probe import WriteProbe
from heliograph.ports import Bus, BusState, Fault

logger = logging.getLogger(__name__)

# Why a replica is not ready, or degraded.
MEMORY_LOW: Final = "redis_memory_low"  # nothing that clients write is kept
REASONS: Final = ("broken", "draining", "bus_lost", "bus_silent", *(fault.value for fault in Fault), MEMORY_LOW)


class Breakdown:
    """Whether this process cannot heal: then its server drains and ends it, so that it is restarted."""

    def __init__(self) -> None:
        self.why: str | None = None

    def give_up(self, why: str) -> None:
        """Note that it cannot heal."""
        if self.why is None:
            self.why = why
            logger.critical("this replica cannot recover and exits with status 1, to be restarted: %s", why)


class ShardInfo(msgspec.Struct, frozen=True):
    """What this replica sees of one shard. `shard`: its number, from 1 on.

    `bus`: the state of the bus; `unheard_ms`: how long ago the last message came over it; `canary_age_ms`,
    `bus_lag_ms`: see `ReplicaInfo`; `memory_ratio`: the used part of Redis' maxmemory. None: unknown, never, or there
    is no limit. `received`, `published`: messages since the start.
    """

    shard: int
    works: bool
    reason: str
    bus: str
    unheard_ms: float | None
    canary_age_ms: float | None
    bus_lag_ms: float | None
    memory_ratio: float | None
    received: int
    published: int


class ShardHealth:
    """The health of this replica's part in one shard.

    `deaf_after_s`: how long Redis may answer while no canary is heard.
    """

    def __init__(
        self, bus: Bus, probes: Sequence[WriteProbe], memory: MemoryWatch | None, *, deaf_after_s: float
    ) -> None:
        self._bus = bus
        self._probes = tuple(probes)
        self._memory = memory
        self._deaf_after_s = deaf_after_s

    @property
    def works(self) -> bool:
        """True if the bus delivers, and Redis accepts writes."""
        return self._bus.ready and all(probe.fault is None for probe in self._probes if probe.is_vital)

    @property
    def is_missing(self) -> bool:
        """True if it does not work because its Redis fails: on another replica it would not work either.

        If Redis answers and yet nothing is heard from it, this replica is deaf. That is so before the first canary
        too. After a failure the bus gets as long as the canary to come back.
        """
        vital = [probe for probe in self._probes if probe.is_vital]
        failures = [probe.failure.fault for probe in vital if probe.failure is not None]
        if failures:
            return Fault.LAYOUT not in failures  # that may be this replica's own mistake
        unheard_s = self._bus.unheard_s
        answered_s = max((probe.answered_s(unheard_s) for probe in vital), default=0.0)
        return math.isfinite(unheard_s) and answered_s < self._deaf_after_s

    def describe(self, number: int) -> ShardInfo:
        bus = self._bus
        return ShardInfo(
            shard=number,
            works=self.works,
            reason=self.reason,
            bus=bus.state.name.lower(),
            unheard_ms=milliseconds(bus.unheard_s),
            canary_age_ms=milliseconds(bus.canary_age_s),
            bus_lag_ms=milliseconds(bus.lag_s),
            memory_ratio=None if self._memory is None else self._memory.share,
            received=bus.stats.received,
            published=bus.stats.published,
        )

    @property
    def detail(self) -> str:
        """What the Redis of another layout says; empty for every other reason."""
        failures = [probe.failure for probe in self._probes if probe.failure is not None]
        return next((failure.text for failure in failures if failure.fault is Fault.LAYOUT), "")

    @property
    def reason(self) -> str:
        """Why it does not work, or is degraded, as one of `REASONS`; empty if all is well."""
        faults = [probe.fault for probe in self._probes if probe.fault is not None]
        refusals = [fault for fault in faults if fault is not Fault.UNREACHABLE]
        if refusals:
            return refusals[0].value
        if not self._bus.ready:
            return "bus_silent" if self._bus.state is BusState.RUNNING else "bus_lost"
        if faults:
            return faults[0].value
        return MEMORY_LOW if self._memory is not None and self._memory.is_full else ""


class Health:
    """The health of a replica's parts, in one answer."""

    def __init__(self, shards: Sequence[ShardHealth], breakdown: Breakdown) -> None:
        self.draining = False
        self.breakdown = breakdown
        self.shards = tuple(shards)

    def begin_draining(self) -> None:
        """From now on refuse new clients."""
        self.draining = True

    @property
    def ready(self) -> bool:
        """True if new clients are welcome: every shard works, or fails for all replicas; and one of them works."""
        if self.draining or self.breakdown.why is not None:
            return False
        return any(shard.works for shard in self.shards) and all(
            shard.works or shard.is_missing for shard in self.shards
        )

    @property
    def reason(self) -> str:
        """Why it is not ready, or is degraded, as one of `REASONS`; empty if all is well.

        A shard that this replica does not reach counts before one that fails for all.
        """
        if self.breakdown.why is not None:
            return "broken"
        if self.draining:
            return "draining"
        troubled = [shard for shard in self.shards if shard.reason]
        if not troubled:
            return ""
        return min(troubled, key=lambda shard: shard.is_missing).reason

    @property
    def detail(self) -> str:
        """More about the reason, for an operator; mostly empty."""
        return next((shard.detail for shard in self.shards if shard.detail), "")


def milliseconds(seconds: float) -> float | None:
    """Return None for an infinite time."""
    return round(1000 * seconds, 2) if math.isfinite(seconds) else None
