"""The channels of which something is kept, each with its latest publication: runs, logs, and all others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from heliograph.cluster.per_shard import missing
from heliograph.errors import BadCursor, BusUnavailable
from heliograph.ports import KeptChannels, KeptPage, LogReader, ReadRequest
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication

MOST_SHARDS: Final = 8  # that one page looks through
BATCH: Final = 32  # channels that are read in one round trip

END: Final = KeptPage([], "")


@dataclass(frozen=True, slots=True)
class KeptChannel:
    """One channel. `latest`: its last publication; None if that was dropped while it was read."""

    channel: str
    position: Position
    latest: Publication | None


@dataclass(frozen=True, slots=True)
class KeptChannelsPage:
    """Some channels. `cursor`: for the rest; empty if there is no more. `error`: which shard is left out, and why."""

    channels: list[KeptChannel]
    cursor: str
    error: str = ""


class Kept:
    """List what is kept, without changing it. `shards`: of each, where its channels are found and read."""

    def __init__(self, shards: Sequence[tuple[KeptChannels, LogReader]]) -> None:
        self._shards = tuple(shards)

    async def page(self, prefix: str, search: str, cursor: str, limit: int) -> KeptChannelsPage:
        """Return some channels, and the cursor for the rest: see `KeptChannels.page`. The shards follow each other.

        A page goes on to the next shard if there is room. One of several that cannot be reached is named instead.

        Raises:
            BadCursor: as there.
            BusUnavailable: the only Redis cannot be reached.
        """
        number, _, within = cursor.partition("/") if cursor else ("0", "", "")
        if number not in map(str, range(len(self._shards))):
            raise BadCursor(f"no page has the cursor {cursor[:64]!r}")
        count = len(self._shards)
        found: list[KeptChannel] = []
        away: dict[int, BusUnavailable] = {}
        for shard in range(int(number), min(int(number) + MOST_SHARDS, count)):
            channels, log = self._shards[shard]
            try:
                page = await channels.page(prefix, search, within, limit - len(found))
                found += [each for names in _batches(page.channels) for each in await _read(log, names)]
            except BusUnavailable as error:
                if count == 1:
                    raise
                away[shard] = error
                page = END
            if page.cursor:
                return KeptChannelsPage(found, f"{shard}/{page.cursor}", missing(away, count))
            within = ""
            if len(found) >= limit:
                break
        following = f"{shard + 1}/" if shard + 1 < count else ""
        return KeptChannelsPage(found, following, missing(away, count))


async def _read(log: LogReader, names: Sequence[str]) -> list[KeptChannel]:
    """Return these channels with what was published last on each."""
    tops = await log.tops(names)
    kept = [(name, top) for name, top in zip(names, tops, strict=True) if top is not None]
    last = [ReadRequest(name, after=Position(top.epoch, top.offset - 1), limit=1) for name, top in kept]
    found = zip(kept, await log.read(last), strict=True)
    return [
        KeptChannel(name, result.position, result.publications[-1] if result.publications else None)
        for (name, _), result in found
    ]


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(names), BATCH):
        yield names[begin : begin + BATCH]
