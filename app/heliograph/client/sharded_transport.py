"""Send a publisher's drafts to the shards of a cluster: each to the Redis that owns its channel."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from heliograph.client.drafts import Drafting, Published
from heliograph.client.forks import leave_alone
from heliograph.client.redis_transport import (
    AsyncRedisTransport,
    RedisFailures,
    RedisTransport,
    Target,
    async_clients,
    sync_clients,
)
from heliograph.ports import Draft
from heliograph.protocol.run import channel_of_run
from heliograph.protocol.shard_map import ShardMap

logger = logging.getLogger(__name__)

_Shard = TypeVar("_Shard")
_T = TypeVar("_T")


class ShardedTransport(RedisFailures):
    """A `Transport` over those of all shards, in their order. The drafts of one call are all for one channel."""

    def __init__(self, targets: Sequence[Target], drafting: Drafting) -> None:
        self._targets, self._drafting = targets, drafting
        self._map = ShardMap(len(targets))
        self._looked = False  # at the layout of every shard
        self._connect()

    def _connect(self) -> None:
        clients = sync_clients()
        self._shards = [RedisTransport(target, self._drafting, clients) for target in self._targets]

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        leave_alone(self._shards)
        self._connect()

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        self._look()
        return self._shards[self._map.of(drafts[0].channel)].send(drafts, kept=kept)

    def shard_of(self, channel: str) -> int:
        """Return the number of the shard that has the channel."""
        return self._map.of(channel)

    def lease_runs(self, run_ids: Sequence[str], ttl_s: float) -> None:
        by_shard: dict[int, list[str]] = defaultdict(list)
        for run_id in run_ids:
            by_shard[self._map.of(channel_of_run(run_id))].append(run_id)
        _all_done([partial(self._shards[shard].lease_runs, own, ttl_s) for shard, own in by_shard.items()])

    def release_run(self, run_id: str) -> None:
        self._shards[self._map.of(channel_of_run(run_id))].release_run(run_id)

    def reap_lost_runs(self) -> int:
        return sum(_all_done([shard.reap_lost_runs for shard in self._shards]))

    def _look(self) -> None:
        """Ask every Redis once which shard it is: a list with one mistake is wrong. A dead one is asked later.

        Of a cluster the first virtual shard is asked: it is the one that shows another number of them.
        """
        if self._looked:
            return
        self._looked = True
        for shard in _one_of_each(self._targets, self._shards):
            try:
                shard.check_layout()
            except self.failures as error:
                logger.debug("the layout of a shard was not checked: %s", error)


class AsyncShardedTransport(RedisFailures):
    """An `AsyncTransport` over those of all shards: see `ShardedTransport`."""

    def __init__(self, targets: Sequence[Target], drafting: Drafting) -> None:
        self._targets, self._drafting = targets, drafting
        self._map = ShardMap(len(targets))
        self._looked = False
        self._connect()

    def _connect(self) -> None:
        clients = async_clients()
        self._shards = [AsyncRedisTransport(target, self._drafting, clients) for target in self._targets]

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        leave_alone(self._shards)
        self._connect()

    async def close(self) -> None:
        for shard in self._shards:
            await shard.close()

    async def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        await self._look()
        return await self._shards[self._map.of(drafts[0].channel)].send(drafts, kept=kept)

    async def _look(self) -> None:
        """See `ShardedTransport._look`."""
        if self._looked:
            return
        self._looked = True
        shards = _one_of_each(self._targets, self._shards)
        answers = await asyncio.gather(*(shard.check_layout() for shard in shards), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                if not isinstance(answer, self.failures):
                    raise answer
                logger.debug("the layout of a shard was not checked: %s", answer)


def _all_done(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """Make all calls, and return what they do. A shard that is away raises only after the others had theirs."""
    results: list[_T] = []
    failure: Exception | None = None
    for call in calls:
        try:
            results.append(call())
        except RedisFailures.failures as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return results


def _one_of_each(targets: Sequence[Target], shards: Sequence[_Shard]) -> list[_Shard]:
    """Return the first shard of each URL."""
    first: dict[str, _Shard] = {}
    for target, shard in zip(targets, shards, strict=True):
        first.setdefault(target.url, shard)
    return list(first.values())
