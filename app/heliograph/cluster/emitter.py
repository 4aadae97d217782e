"""Emissions of clients for the workers behind the cluster."""

import msgspec

from heliograph.cluster.client_writes import ClientWrites
from heliograph.cluster.stamp import Stamp
from heliograph.errors import HeliographError, OverBudget, StorageFull
from heliograph.ports import Emission, Emissions


class Emitter:
    """Keep emissions of clients, within their budgets."""

    def __init__(self, emissions: Emissions, writes: ClientWrites, stamp: Stamp) -> None:
        self._emissions = emissions
        self._writes = writes
        self._stamp = stamp

    async def emit(self, event: str, data: msgspec.Raw, *, user_id: str, session: str | None = None) -> str:
        """Keep an emission of a client. Return its message id.

        Raises:
            OverBudget: the user's clients have used up the budget.
            StorageFull, BusUnavailable: it was not kept (after a time-out it may have been).
        """
        charge = self._writes.spend(user_id, len(data), "", kept=True)
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
            await self._emissions.append(emission)
        except (OverBudget, StorageFull) as error:
            self._writes.refused(user_id, "", error)
            raise
        return emission.message_id
