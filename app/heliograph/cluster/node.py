"""This replica as a member of the cluster: how it starts, drains and stops."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from heliograph.cluster.directory import Directory
from heliograph.cluster.drain import Drain
from heliograph.cluster.health import Health, ShardInfo
from heliograph.cluster.status import Status
from heliograph.errors import BusUnavailable
from heliograph.ports import Backends, Handler, ReplicaInfo

logger = logging.getLogger(__name__)


class Service(Protocol):
    """A part of the replica that works between `start` and `stop`; both may be called more than once."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Membership:
    """The replica as a member of one shard.

    `handler` takes envelopes from the bus, `on_resubscribed` is called when some may have been missed: see `Bus`.
    """

    backends: Backends
    directory: Directory
    handler: Handler
    on_resubscribed: Callable[[], object]


class Node:
    """One replica.

    `services` run while the replica is a member; they start and stop in this order.
    """

    def __init__(
        self,
        memberships: Sequence[Membership],
        status: Status,
        health: Health,
        drain: Drain,
        services: Sequence[Service],
    ) -> None:
        self.name = status.name
        self.node_id = status.node_id
        self.was_started = False
        self._memberships = tuple(memberships)
        self._status = status
        self._health = health
        self._drain = drain
        self._services = tuple(services)

    @property
    def ready(self) -> bool:
        """See `Health.ready`."""
        return self._health.ready

    @property
    def reason(self) -> str:
        """See `Health.reason`."""
        return self._health.reason

    @property
    def detail(self) -> str:
        """See `Health.detail`."""
        return self._health.detail

    @property
    def shards(self) -> list[ShardInfo]:
        """What this replica sees of each shard; empty if there is only one."""
        shards = self._health.shards
        return [shard.describe(number) for number, shard in enumerate(shards, start=1)] if len(shards) > 1 else []

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
        await _together(self._connect(each) for each in self._memberships)
        await _together(self._join(each) for each in self._memberships)
        for service in self._services:
            service.start()
        self.was_started = True

    async def stop(self) -> None:
        """Leave the cluster: the users first, then the listener, the subscriptions, the connections."""
        for service in self._services:
            await service.stop()
        await _together(self._leave(each) for each in self._memberships)

    async def drain(self) -> None:
        """Refuse new clients, and let the present ones reconnect elsewhere: see `Drain.send_off`."""
        self._health.begin_draining()
        await self._drain.send_off(first=self._report)

    async def _connect(self, membership: Membership) -> None:
        try:
            await membership.backends.bus.initialize()
        except BusUnavailable as error:
            logger.warning("started without the bus (%s); not ready until Redis can be reached", error)

    async def _join(self, membership: Membership) -> None:
        bus = membership.backends.bus
        give_up = self._health.breakdown.give_up
        bus.start_listening(membership.handler, on_resubscribed=membership.on_resubscribed, on_died=give_up)
        await membership.directory.start(self._status.describe)

    async def _leave(self, membership: Membership) -> None:
        await membership.directory.stop()
        await membership.backends.bus.stop_listening()
        await membership.backends.close()

    async def _report(self) -> None:
        """Tell the other replicas of a change at once."""
        await _together(each.directory.renew_now() for each in self._memberships)


async def _together(calls: Iterable[Awaitable[None]]) -> None:
    """Await all of them: one Redis that does not answer keeps none of the others waiting."""
    await asyncio.gather(*calls)
