"""Whether this replica can do its work, and if not, why."""

import logging
from collections.abc import Sequence
from typing import Final

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


class Health:
    """The health of a replica's parts, in one answer."""

    def __init__(
        self, bus: Bus, probes: Sequence[WriteProbe], memory: MemoryWatch | None, breakdown: Breakdown
    ) -> None:
        self.draining = False
        self.breakdown = breakdown
        self._bus = bus
        self._probes = tuple(probes)
        self._memory = memory

    def begin_draining(self) -> None:
        """From now on refuse new clients."""
        self.draining = True

    @property
    def ready(self) -> bool:
        """True if new clients are welcome: the bus delivers, and Redis accepts writes."""
        vital = all(probe.fault is None for probe in self._probes if probe.is_vital)
        return vital and self._bus.ready and not self.draining and self.breakdown.why is None

    @property
    def reason(self) -> str:
        """Why it is not ready, or is degraded, as one of `REASONS`; empty if all is well."""
        if self.breakdown.why is not None:
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
