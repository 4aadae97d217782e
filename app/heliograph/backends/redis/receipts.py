"""Receipts in Redis: a hash for each user, written by one script that keeps positions from going back."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from heliograph.backends.redis.call_batch import NOTHING, Call
from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.server import RedisServer
from heliograph.ports import MOST_RECEIPTS, Receipt
from heliograph.protocol.position import Position

if TYPE_CHECKING:
    from heliograph.backends.redis.scripts import Argument

BATCH: Final = 200  # users in one round trip
_BETWEEN: Final = "\n"  # in a field: no device's name holds one


class RedisReceipts:
    """`Receipts` in Redis. They are forgotten `ttl_s` seconds after a user's last."""

    def __init__(self, server: RedisServer, *, ttl_s: float) -> None:
        self._redis = server.client
        self._scripts = server.scripts
        self._keys = server.keys
        self._ttl_ms = max(1, int(ttl_s * 1000))

    async def keep(self, receipts: Sequence[Receipt]) -> None:
        by_user: dict[str, list[Receipt]] = defaultdict(list)
        for receipt in receipts:
            by_user[receipt.user].append(receipt)
        calls = [self._call(user, of_user) for user, of_user in by_user.items()]
        with as_bus_unavailable():
            for start in range(0, len(calls), BATCH):
                await self._scripts.run_many("receipts", calls[start : start + BATCH])

    async def of(self, user_id: str) -> list[Receipt]:
        with as_bus_unavailable():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.receipts(user_id)))
        return [_receipt(user_id, field.decode(), value.decode()) for field, value in found.items()]

    def _call(self, user: str, receipts: Sequence[Receipt]) -> Call:
        arguments: list[Argument] = [self._ttl_ms, MOST_RECEIPTS]
        for each in receipts:
            arguments += [
                field_of(each.device, each.channel),
                each.position.epoch,
                each.position.offset,
                int(each.at * 1000),
            ]
        return [self._keys.receipts(user)], arguments, NOTHING


def field_of(device: str, channel: str) -> str:
    """Return the field of a user's receipts in which that of a device for a channel stands."""
    return f"{device}{_BETWEEN}{channel}"


def _receipt(user: str, field: str, value: str) -> Receipt:
    device, _, channel = field.partition(_BETWEEN)
    epoch, offset, at = value.rsplit(".", 2)
    return Receipt(user, device, channel, Position(epoch, int(offset)), int(at) / 1000)
