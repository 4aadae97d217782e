"""What clients say that they have received: gathered here, and written once a second for all connections.

A replica that is killed loses at most the last second: then a receipt comes late, with the client's next one.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from heliograph.clock import Clock
from heliograph.cluster.periodic import Periodic
from heliograph.errors import BusUnavailable
from heliograph.ports import Receipt, Receipts
from heliograph.protocol.position import Position

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
MOST_PENDING: Final = 100_000  # receipts that wait while they cannot be written; the oldest are dropped


_Pending = dict[tuple[str, str, str], Receipt]  # by user, device and channel


class ReceiptWriter:
    """Take the receipts of this replica's connections, and write them now and then."""

    def __init__(self, backend: Receipts, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._pending: _Pending = {}
        self._writing: _Pending = {}
        self._work = Periodic("receipts-writer", "writing receipts", self._write, INTERVAL_S)

    def start(self) -> None:
        self._work.start()

    async def stop(self) -> None:
        await self._work.stop()
        await self._write()

    def take(self, user: str, device: str, positions: Mapping[str, Position]) -> None:
        """Note that the device has received everything up to these positions, by channel."""
        at = self._clock.now()
        for channel, position in positions.items():
            self._put(Receipt(user, device, channel, position, at))

    async def of(self, user: str) -> list[Receipt]:
        """Return what the user's devices have received, by device and channel; up to a second or two late.

        Raises:
            BusUnavailable: it cannot be read now.
        """
        # What is being written may be there or not when the backend looks.
        here = [*self._writing.items(), *self._pending.items()]
        kept = {(each.device, each.channel): each for each in await self._backend.of(user)}
        for place, receipt in here:
            if place[0] == user and _is_newer(receipt, kept.get(place[1:])):
                kept[place[1:]] = receipt
        return [kept[place] for place in sorted(kept)]

    def _put(self, receipt: Receipt) -> None:
        place = receipt.user, receipt.device, receipt.channel
        if _is_newer(receipt, self._pending.get(place)):
            self._pending[place] = receipt
            if len(self._pending) > MOST_PENDING:
                del self._pending[next(iter(self._pending))]

    async def _write(self) -> None:
        """Write what waits. What cannot be written waits for the next time, unless a newer one has come."""
        due, self._pending = self._pending, {}
        if not due:
            return
        self._writing = due
        try:
            await self._backend.keep(list(due.values()))
        except BusUnavailable as error:
            logger.debug("%d receipts not written, retrying: %s", len(due), error)
            self._put_back(due)
        except asyncio.CancelledError:
            self._put_back(due)
            raise
        except Exception:
            logger.exception("%d receipts are lost: writing them failed with an unexpected error", len(due))
        finally:
            self._writing = {}

    def _put_back(self, due: _Pending) -> None:
        newer, self._pending = self._pending, due
        for receipt in newer.values():
            self._put(receipt)


def covers(receipt: Receipt, channel: str, position: Position) -> bool:
    """Return whether the receipt says that the publication at that position was received."""
    mine = receipt.position
    return receipt.channel == channel and mine.epoch == position.epoch and mine.offset >= position.offset


def _is_newer(receipt: Receipt, known: Receipt | None) -> bool:
    if known is None:
        return True
    here, there = receipt.position, known.position
    return receipt.at >= known.at if here.epoch != there.epoch else here.offset > there.offset
