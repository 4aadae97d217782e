"""This replica as a member of the cluster: how it starts, drains and stops."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from heliograph.cluster.directory import Directory
from heliograph.cluster.drain import Drain
from heliograph.cluster.health import Health
from heliograph.cluster.status import Status
from heliograph.errors import BusUnavailable
from heliograph.ports import Backends, Handler, ReplicaInfo

logger = logging.getLogger(__name__)


class Service(Protocol):
    """A part of the replica that works between `start` and `stop`; both may be called more than once."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...


class Node:
    """One replica.

    `services` run while the replica is a member; they start and stop in this order. `handler` takes envelopes from
    the bus, `on_resubscribed` is called when some may have been missed: see `Bus`.
    """

    def __init__(
        self,
        backends: Backends,
        directory: Directory,
        status: Status,
        health: Health,
        drain: Drain,
        services: Sequence[Service],
        *,
        handler: Handler,
        on_resubscribed: Callable[[], object],
    ) -> None:
        self.name = status.name
        self.node_id = backends.bus.node_id
        self.was_started = False
        self._backends = backends
        self._directory = directory
        self._status = status
        self._health = health
        self._drain = drain
        self._services = tuple(services)
        self._handler = handler
        self._on_resubscribed = on_resubscribed

    @property
    def ready(self) -> bool:
        """See `Health.ready`."""
        return self._health.ready

    @property
    def reason(self) -> str:
        """See `Health.reason`."""
        return self._health.reason

    @property
    def draining(self) -> bool:
        return self._health.draining

    @property
    def gave_up(self) -> str | None:
        """Why this process must be restarted; None as long as it can heal."""
        return self._health.breakdown.why

    def describe(self) -> ReplicaInfo:
        """Return the report for the other replicas and the console."""
        return self._status.describe()

    async def start(self) -> None:
        """Join the cluster. Without Redis the replica serves its own users, and joins when Redis is there."""
        bus = self._backends.bus
        try:
            await bus.initialize()
        except BusUnavailable as error:
            logger.warning("started without the bus (%s); not ready until Redis can be reached", error)
        give_up = self._health.breakdown.give_up
        bus.start_listening(self._handler, on_resubscribed=self._on_resubscribed, on_died=give_up)
        await self._directory.start(self._status.describe)
        for service in self._services:
            service.start()
        self.was_started = True

    async def stop(self) -> None:
        """Leave the cluster: the users first, then the listener, the subscriptions, the connections."""
        for service in self._services:
            await service.stop()
        await self._directory.stop()
        await self._backends.bus.stop_listening()
        await self._backends.close()

    async def drain(self) -> None:
        """Refuse new clients, and let the present ones reconnect elsewhere: see `Drain.send_off`."""
        self._health.begin_draining()
        await self._drain.send_off(first=self._directory.renew_now)
