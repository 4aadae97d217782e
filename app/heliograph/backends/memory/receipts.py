"""Receipts in this process's memory."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from heliograph.clock import Clock
from heliograph.ports import MOST_RECEIPTS, Receipt

MOST_USERS: Final = 10_000  # with receipts; those whose last is oldest are forgotten

_OfUser = dict[tuple[str, str], Receipt]  # by device and channel


class MemoryReceipts:
    """`Receipts` in this process's memory. They are forgotten `ttl_s` seconds after a user's last."""

    def __init__(self, clock: Clock, *, ttl_s: float) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._kept: OrderedDict[str, tuple[float, _OfUser]] = OrderedDict()  # user -> (expiry, monotonic; receipts)

    async def keep(self, receipts: Sequence[Receipt]) -> None:
        now = self._clock.monotonic()
        for receipt in receipts:
            kept = self._of(receipt.user)
            place = receipt.device, receipt.channel
            known = kept.get(place)
            if known is None or _is_news(receipt, known):
                kept[place] = receipt
            while len(kept) > MOST_RECEIPTS:
                del kept[min(kept, key=lambda each: kept[each].at)]
            self._kept[receipt.user] = now + self._ttl_s, kept
            self._kept.move_to_end(receipt.user)
        while self._kept and (len(self._kept) > MOST_USERS or next(iter(self._kept.values()))[0] <= now):
            self._kept.popitem(last=False)

    async def of(self, user_id: str) -> list[Receipt]:
        return list(self._of(user_id).values())

    def _of(self, user_id: str) -> _OfUser:
        until, kept = self._kept.get(user_id, (0.0, {}))
        return kept if self._clock.monotonic() < until else {}


def _is_news(receipt: Receipt, known: Receipt) -> bool:
    here, there = receipt.position, known.position
    return here.epoch != there.epoch or here.offset > there.offset
