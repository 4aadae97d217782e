"""Receipts where there are several shards: those of a user are kept in the user's shard."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from heliograph.cluster.per_shard import PerShard
from heliograph.ports import Receipt, Receipts
from heliograph.protocol.identity import personal_channel


class ShardedReceipts:
    """`Receipts` over those of all shards."""

    def __init__(self, shards: PerShard[Receipts]) -> None:
        self._shards = shards

    async def keep(self, receipts: Sequence[Receipt]) -> None:
        """See `Receipts.keep`. If a shard fails, those of the others are kept, and all may be kept once more."""
        by_shard: dict[Receipts, list[Receipt]] = defaultdict(list)
        for receipt in receipts:
            by_shard[self._of(receipt.user)].append(receipt)
        done = await asyncio.gather(*(shard.keep(own) for shard, own in by_shard.items()), return_exceptions=True)
        for error in done:
            if error is not None:
                raise error

    async def of(self, user_id: str) -> list[Receipt]:
        return await self._of(user_id).of(user_id)

    def _of(self, user_id: str) -> Receipts:
        return self._shards.of(personal_channel(user_id))
