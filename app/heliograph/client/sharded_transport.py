"""Send a publisher's drafts to the shards of a cluster: each to the Redis that owns its channel."""

import asyncio
import logging
from collections.abc import Sequence
from typing import TypeVar

from heliograph.client.drafts import Published
from heliograph.client.redis_transport import AsyncRedisTransport, RedisFailures, RedisTransport
from heliograph.ports import Draft
from heliograph.protocol.run import channel_of_run
from heliograph.protocol.shard_map import ShardMap

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class ShardedTransport(RedisFailures):
    """A `Transport` over those of all shards, in their order.

    If one shard fails, so does the call, after the others have published their part. The publisher repeats it as a
    whole, and what was published is recognised by its idempotency key.
    """

    def __init__(self, shards: Sequence[RedisTransport]) -> None:
        self._shards = tuple(shards)
        self._map = ShardMap(len(self._shards))
        self._looked = False  # at the layout of every shard

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        for shard in self._shards:
            shard.renew_in_child()

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        self._look()
        parts = _parts(self._map, [draft.channel for draft in drafts])
        found: dict[int, Published] = {}
        failed: Exception | None = None
        for shard, places in parts.items():
            try:
                answers = self._shards[shard].send([drafts[place] for place in places], kept=kept)
            except self.failures as error:
                failed = error
            else:
                found.update(zip(places, answers, strict=True))
        if failed is not None:
            raise failed
        return _in_order(found)

    def lease_runs(self, run_ids: Sequence[str], ttl_s: float) -> None:
        for shard, places in _parts(self._map, list(map(channel_of_run, run_ids))).items():
            self._shards[shard].lease_runs([run_ids[place] for place in places], ttl_s)

    def release_run(self, run_id: str) -> None:
        self._shards[self._map.of(channel_of_run(run_id))].release_run(run_id)

    def reap_lost_runs(self) -> int:
        return sum(shard.reap_lost_runs() for shard in self._shards)

    def _look(self) -> None:
        """Ask all shards once which they are: a list with one mistake is wrong. A dead one is asked later."""
        if self._looked:
            return
        self._looked = True
        for shard in self._shards:
            try:
                shard.check_layout()
            except self.failures as error:
                logger.debug("the layout of a shard was not checked: %s", error)


class AsyncShardedTransport(RedisFailures):
    """An `AsyncTransport` over those of all shards: see `ShardedTransport`."""

    def __init__(self, shards: Sequence[AsyncRedisTransport]) -> None:
        self._shards = tuple(shards)
        self._map = ShardMap(len(self._shards))
        self._looked = False

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        for shard in self._shards:
            shard.renew_in_child()

    async def close(self) -> None:
        for shard in self._shards:
            await shard.close()

    async def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        await self._look()
        parts = _parts(self._map, [draft.channel for draft in drafts])
        calls = [
            self._shards[shard].send([drafts[place] for place in places], kept=kept)
            for shard, places in parts.items()
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        found: dict[int, Published] = {}
        for places, answer in zip(parts.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            found.update(zip(places, answer, strict=True))
        return _in_order(found)

    async def _look(self) -> None:
        """See `ShardedTransport._look`."""
        if self._looked:
            return
        self._looked = True
        answers = await asyncio.gather(*(shard.check_layout() for shard in self._shards), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                if not isinstance(answer, self.failures):
                    raise answer
                logger.debug("the layout of a shard was not checked: %s", answer)


def _parts(shard_map: ShardMap, channels: Sequence[str]) -> dict[int, list[int]]:
    """Return the places of the channels in the sequence, by the index of their shard."""
    places: dict[int, list[int]] = {}
    for place, channel in enumerate(channels):
        places.setdefault(shard_map.of(channel), []).append(place)
    return places


def _in_order(found: dict[int, _T]) -> list[_T]:
    return [found[place] for place in range(len(found))]
