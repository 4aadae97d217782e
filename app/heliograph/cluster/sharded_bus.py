"""The bus over several shards: what is for a user or a channel goes over the bus of its shard."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final

from heliograph.errors import BusUnavailable
from heliograph.ports import Bus, BusState, Closable, Handler, OnPosted, OnRelayed
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.events import Delivery
from heliograph.protocol.shard_map import ShardMap
from heliograph.telemetry import BusStats, Histogram

MOST_POSTS: Final = 3  # shards over which one envelope is sent, until it is received

# The state of several buses is that of the one which is worst off.
_WORST_FIRST = (BusState.NEW, BusState.LOST, BusState.INITIALIZED, BusState.RUNNING)


class ShardedBus:
    """A `Bus` over those of all shards, in their order. `servers`: those that `close` closes too.

    A replica has parts of its own for each shard, which use the `shards` directly. This is for programs that publish
    over the process's manager, and for what does not belong to a shard.
    """

    enabled = True

    def __init__(self, shards: Sequence[Bus], servers: Sequence[Closable] = ()) -> None:
        self.shards = tuple(shards)
        self._servers = tuple(servers)
        self._map = ShardMap(len(self.shards))

    @property
    def node_id(self) -> str:
        return self.shards[0].node_id

    @property
    def stats(self) -> BusStats:
        """The sums of all shards, at this moment."""
        total = BusStats()
        for shard in self.shards:
            _add(total, shard.stats)
        return total

    @property
    def state(self) -> BusState:
        return min((shard.state for shard in self.shards), key=_WORST_FIRST.index)

    @property
    def ready(self) -> bool:
        return all(shard.ready for shard in self.shards)

    @property
    def unheard_s(self) -> float:
        return max(shard.unheard_s for shard in self.shards)

    @property
    def canary_age_s(self) -> float:
        return max(shard.canary_age_s for shard in self.shards)

    @property
    def lag_s(self) -> float:
        return max(shard.lag_s for shard in self.shards)

    async def initialize(self) -> None:
        """See `Bus.initialize`. A shard that cannot be reached keeps none of the others from it."""
        outcomes = await asyncio.gather(*(shard.initialize() for shard in self.shards), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def start_listening(
        self,
        handler: Handler | None = None,
        *,
        on_resubscribed: Callable[[], object] | None = None,
        on_died: Callable[[str], object] | None = None,
    ) -> None:
        for shard in self.shards:
            shard.start_listening(handler, on_resubscribed=on_resubscribed, on_died=on_died)

    async def stop_listening(self) -> None:
        await asyncio.gather(*(shard.stop_listening() for shard in self.shards))

    async def close(self) -> None:
        await asyncio.gather(*(shard.close() for shard in self.shards))
        for server in self._servers:
            await server.close()

    async def follow(self, channel: str) -> None:
        await self._of(channel).follow(channel)

    async def unfollow(self, channel: str) -> None:
        await self._of(channel).unfollow(channel)

    def relay(self, envelope: Envelope, lease: str, done: OnRelayed) -> None:
        self._of(envelope.address).relay(envelope, lease, done)

    def relay_on(self, envelope: Envelope, done: OnRelayed) -> None:
        self._of(envelope.address).relay_on(envelope, done)

    def post(self, node_id: str, envelope: Envelope, done: OnPosted) -> None:
        """See `Bus.post`: a replica listens in every shard, so any that works for both will do.

        The other one may not listen in one of them at the moment. So a few are tried, far apart in the list, because
        virtual shards that follow each other share a server.
        """
        working = [each for each in self.shards if each.ready] or [self.shards[0]]
        self._post(working[:: math.ceil(len(working) / MOST_POSTS)], node_id, envelope, done)

    def _post(self, shards: Sequence[Bus], node_id: str, envelope: Envelope, done: OnPosted) -> None:
        first, others = shards[0], shards[1:]

        def posted(receivers: int | BusUnavailable) -> None:
            has_nobody = not receivers.is_unsure if isinstance(receivers, BusUnavailable) else receivers == 0
            if others and has_nobody:
                self._post(others, node_id, envelope, done)
            else:
                done(receivers)

        first.post(node_id, envelope, posted)

    async def publish(self, envelope: Envelope, *, lease: str) -> Delivery | None:
        return await self._of(envelope.address).publish(envelope, lease=lease)

    def _of(self, channel: str) -> Bus:
        return self.shards[self._map.of(channel)]


def _add(total: BusStats, part: BusStats) -> None:
    total.received += part.received
    total.malformed += part.malformed
    total.handler_errors += part.handler_errors
    total.published += part.published
    total.publish_errors += part.publish_errors
    total.connection_losses += part.connection_losses
    total.resubscriptions += part.resubscriptions
    _add_times(total.publish_time, part.publish_time)
    _add_times(total.lag, part.lag)


def _add_times(total: Histogram, part: Histogram) -> None:
    total.counts = [one + other for one, other in zip(total.counts, part.counts, strict=True)]
    total.total_s += part.total_s
