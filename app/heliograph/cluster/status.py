"""A replica's report: for the other replicas, with each renewal of its lease, and for the console."""

import math
from importlib import metadata

from heliograph.clock import Clock, iso8601
from heliograph.cluster.health import Health
from heliograph.cluster.pulse import Pulse
from heliograph.hub.hub import Hub
from heliograph.ports import Bus, ReplicaInfo

VERSION = metadata.version("heliograph")


class Status:
    """`name` is for people and stays the same; the bus's `node_id` is new at each start."""

    def __init__(self, name: str, hub: Hub, bus: Bus, health: Health, pulse: Pulse, clock: Clock) -> None:
        self.name = name
        self._hub = hub
        self._bus = bus
        self._health = health
        self._pulse = pulse
        self._clock = clock
        self._started_at = iso8601(clock.now())

    def describe(self) -> ReplicaInfo:
        """Return the report for the other replicas and the console."""
        messages_in, messages_out = self._pulse.messages_per_second
        return ReplicaInfo(
            name=self.name,
            node_id=self._bus.node_id,
            ready=self._health.ready,
            draining=self._health.draining,
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
            reason=self._health.reason,
        )


def _milliseconds(seconds: float) -> float | None:
    return round(1000 * seconds, 2) if math.isfinite(seconds) else None
