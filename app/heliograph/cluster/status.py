"""A replica's report: for the other replicas, with each renewal of its lease, and for the console."""

from collections.abc import Sequence
from importlib import metadata

from heliograph.clock import Clock, iso8601
from heliograph.cluster.health import Health, milliseconds
from heliograph.cluster.pulse import Pulse
from heliograph.hub.hub import Hub
from heliograph.ports import Bus, ReplicaInfo

VERSION = metadata.version("heliograph")


class Status:
    """`name` is for people and stays the same; the `node_id` of its buses is new at each start."""

    def __init__(self, name: str, hub: Hub, buses: Sequence[Bus], health: Health, pulse: Pulse, clock: Clock) -> None:
        self.name = name
        self._hub = hub
        self.node_id = buses[0].node_id
        self._buses = tuple(buses)
        self._health = health
        self._pulse = pulse
        self._clock = clock
        self._started_at = iso8601(clock.now())

    def describe(self) -> ReplicaInfo:
        """Return the report for the other replicas and the console."""
        messages_in, messages_out = self._pulse.messages_per_second
        return ReplicaInfo(
            name=self.name,
            node_id=self.node_id,
            ready=self._health.ready,
            draining=self._health.draining,
            connections=self._hub.connections,
            users=self._hub.users,
            started_at=self._started_at,
            renewed_at=self._clock.now(),
            version=VERSION,
            messages_in_per_second=round(messages_in, 1),
            messages_out_per_second=round(messages_out, 1),
            bus_lag_ms=milliseconds(max(bus.lag_s for bus in self._buses)),
            canary_age_ms=milliseconds(max(bus.canary_age_s for bus in self._buses)),
            channels=self._hub.channels,
            subscriptions=self._hub.subscriptions,
            reason=self._health.reason,
        )
