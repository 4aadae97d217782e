"""The contract of the receipts, over every backend."""

from typing import Any

import pytest

from heliograph.backends.memory.receipts import MemoryReceipts
from heliograph.backends.redis import server
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.receipts import RedisReceipts
from heliograph.clock import SystemClock
from heliograph.ports import MOST_RECEIPTS, Receipt, Receipts
from heliograph.protocol.position import Position
from tests.support.waiting import eventually


def receipt(
    offset: int, *, device: str = "phone", channel: str = "#bob", epoch: str = "e", at: float = 1.5
) -> Receipt:
    return Receipt("bob", device, channel, Position(epoch, offset), at)


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest, keys: Keys) -> Any:
    """Return what makes a backend with a time to live."""
    if request.param == "memory":
        return lambda ttl_s: MemoryReceipts(SystemClock(), ttl_s=ttl_s)
    client = request.getfixturevalue("client")
    return lambda ttl_s: RedisReceipts(server.RedisServer(client, keys), ttl_s=ttl_s)


@pytest.fixture
def receipts(make: Any) -> Any:
    return make(60)


async def test_what_is_kept_is_found_again(receipts: Receipts) -> None:
    """Fails if a user, a device or a channel is mixed up with another, or a part of a receipt is lost."""
    kept = [
        receipt(3),
        receipt(4, device="laptop", at=2.25),
        receipt(5, device=""),
        receipt(6, channel="chat:a.b\u2028 7", epoch="00ff00ff"),
        Receipt("eve", "phone", "#eve", Position("e", 9), 1.0),
    ]
    await receipts.keep(kept)
    assert sorted(await receipts.of("bob"), key=lambda each: each.position.offset) == kept[:4]
    assert await receipts.of("eve") == kept[4:]
    assert await receipts.of("nobody") == []


async def test_a_position_does_not_go_back(receipts: Receipts) -> None:
    """Fails if the slower of two connections of a device takes back what the other has said; a new epoch counts."""
    await receipts.keep([receipt(10), receipt(9)])
    await receipts.keep([receipt(7)])
    await receipts.keep([receipt(10, at=5.0)])
    assert await receipts.of("bob") == [receipt(10)]
    await receipts.keep([receipt(11, at=6.0)])
    await receipts.keep([receipt(1, epoch="f", at=7.0)])
    assert await receipts.of("bob") == [receipt(1, epoch="f", at=7.0)]


async def test_the_oldest_make_room(receipts: Receipts) -> None:
    """Fails if a user whose clients make up devices takes any amount of memory."""
    await receipts.keep([receipt(1, device=f"d{number}", at=float(number)) for number in range(MOST_RECEIPTS + 3)])
    devices = {each.device for each in await receipts.of("bob")}
    assert len(devices) == MOST_RECEIPTS
    assert devices.isdisjoint({"d0", "d1", "d2"})


async def test_they_are_forgotten_in_time(make: Any) -> None:
    """Fails if the receipts of users who have gone are kept for ever."""
    receipts = make(0.05)
    await receipts.keep([receipt(1)])

    async def forgotten() -> bool:
        return not await receipts.of("bob")

    await eventually(forgotten)
