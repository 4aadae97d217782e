"""What every list of kept channels promises."""

from typing import TYPE_CHECKING

import msgspec
import pytest

from heliograph.backends.memory.kept_channels import MemoryKeptChannels
from heliograph.backends.memory.log import MemoryLog
from heliograph.backends.redis import kept_channels as redis_module
from heliograph.backends.redis.kept_channels import RedisKeptChannels
from heliograph.backends.redis.log import RedisLog
from heliograph.clock import SystemClock
from heliograph.errors import BadCursor
from heliograph.ports import Draft, KeptChannels, Log
from heliograph.protocol.channel_options import Namespace
from tests.support.appending import append as appended

if TYPE_CHECKING:
    from heliograph.backends.redis.server import RedisServer

Both = tuple[Log, KeptChannels]
NAMES = [
    *(f"run:{number}" for number in range(30)),
    "run:[x]*?\\",
    "run:우주}여행:log",
    "logs:1",
    "chat:a}:clients",
    "#bob",
    "news",
]


@pytest.fixture(params=["memory", "redis", "cluster"])
def both(request: pytest.FixtureRequest) -> Both:
    if request.param == "memory":
        log = MemoryLog(SystemClock())
        return log, MemoryKeptChannels(log)
    redis: RedisServer = request.getfixturevalue("shard" if request.param == "cluster" else "single")
    return RedisLog(redis), RedisKeptChannels(redis)


async def append(log: Log, channel: str, *, client: str | None = None) -> None:
    await appended(log, Draft(channel, msgspec.Raw(b"1"), "id", "now", client=client), Namespace())


async def listed(kept: KeptChannels, prefix: str = "", search: str = "", limit: int = 7) -> list[str]:
    found: list[str] = []
    cursor = ""
    while True:
        page = await kept.page(prefix, search, cursor, limit)
        assert len(page.channels) <= limit
        found += page.channels
        cursor = page.cursor
        if not cursor:
            return sorted(found)


async def test_every_kept_channel_is_in_one_page(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a channel is missing, comes twice, or a prefix or a search is taken for a pattern."""
    monkeypatch.setattr(redis_module, "STEP", 10)
    log, kept = both
    assert await listed(kept) == []
    for name in NAMES:
        await append(log, name)
    await append(log, "news", client="alice")  # a stream of each kind
    await append(log, "only:clients", client="alice")
    everything = sorted([*NAMES, "only:clients"])
    for limit in (1, 7, 1000):
        assert await listed(kept, limit=limit) == everything
    runs = sorted(name for name in NAMES if name.startswith("run:"))
    assert await listed(kept, "run:") == runs
    assert await listed(kept, "run:", "2") == [name for name in runs if "2" in name[4:]]
    assert await listed(kept, "run:", "*") == ["run:[x]*?\\"]
    assert await listed(kept, "run:[x") == ["run:[x]*?\\"]
    assert await listed(kept, "run:", "여행:l") == ["run:우주}여행:log"]
    assert await listed(kept, "no") == []
    await log.remove("logs:1")
    assert await listed(kept, "logs:") == []


async def test_cursors_that_nobody_has_given(both: Both) -> None:
    """Fails if a client that invents a cursor gets an error of the server's."""
    _, kept = both
    for cursor in ("x", "99999999999999999999:", "-1:", ":"):
        if isinstance(kept, RedisKeptChannels):
            with pytest.raises(BadCursor):
                await kept.page("", "", cursor, 5)
        else:
            assert (await kept.page("", "", cursor, 5)).channels == []
