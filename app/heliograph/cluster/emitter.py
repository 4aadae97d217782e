"""Emissions of clients for the workers behind the cluster."""

from dataclasses import dataclass

import msgspec

from heliograph.cluster.client_writes import ClientWrites
from heliograph.cluster.per_shard import PerShard
from heliograph.cluster.stamp import Stamp
from heliograph.errors import HeliographError, OverBudget, StorageFull
from heliograph.ports import Emission, Emissions
from heliograph.protocol.identity import personal_channel


@dataclass(frozen=True, slots=True)
class ShardEmissions:
    """What keeps the emissions of the users of one shard, and what limits them."""

    emissions: Emissions
    writes: ClientWrites


class Emitter:
    """Keep emissions of clients, within their budgets."""

    def __init__(self, shards: PerShard[ShardEmissions], stamp: Stamp) -> None:
        self._shards = shards
        self._stamp = stamp

    async def emit(self, event: str, data: msgspec.Raw, *, user_id: str, session: str | None = None) -> str:
        """Keep an emission of a client. Return its message id.

        Raises:
            OverBudget: the user's clients have used up the budget.
            StorageFull, BusUnavailable: it was not kept (after a time-out it may have been).
        """
        shard = self._shards.of(personal_channel(user_id))
        charge = shard.writes.spend(user_id, len(data), "", kept=True)
        if isinstance(charge, HeliographError):
            raise charge
        emission = Emission(
            event=event,
            data=data,
            user=user_id,
            session=session,
            replica=self._stamp.name,
            emitted_at=self._stamp.now(),
            message_id=self._stamp.next_id(),
            charge=charge,
        )
        try:
            await shard.emissions.append(emission)
        except (OverBudget, StorageFull) as error:
            shard.writes.refused(user_id, "", error)
            raise
        return emission.message_id
