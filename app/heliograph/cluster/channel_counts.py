"""Which channels have subscribers in the whole cluster: this replica's counts, kept true under its lease.

It does nothing on the path of a message. The hub notes the channels that a connection has joined or left, and their
counts are written together, twice a second.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final, Protocol

from heliograph.cluster.directory import Directory
from heliograph.cluster.per_shard import missing
from heliograph.errors import BusUnavailable
from heliograph.ports import ChannelCountsBackend
from heliograph.tasks import end

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5
MOST_ALTERNATIVES: Final = 32  # of one pattern; the braces beyond stand for themselves
BATCH: Final = 100  # channels compared with a pattern in one event-loop iteration: at worst 0.1 ms each


class ChannelHub(Protocol):
    """The hub's channels, or those of them that belong to one shard: see `Hub`."""

    def channel_names(self) -> Iterator[str]: ...
    def subscribers(self, channel: str, /) -> Collection[object]: ...
    def take_changed_channels(self) -> set[str]: ...
    def note_changed_channels(self, channels: Iterable[str], /) -> None: ...


class ChannelCounts:
    """This replica's part in the record of the channels that have subscribers."""

    def __init__(self, backend: ChannelCountsBackend, directory: Directory, hub: ChannelHub) -> None:
        self._backend = backend
        self._directory = directory
        self._hub = hub
        self._task: asyncio.Task[None] | None = None
        directory.on_new_lease(self._enter_all)
        directory.on_reap(backend.forget)

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name="channel_counts")

    async def stop(self) -> None:
        """Stop writing. The entries expire with the lease."""
        if self._task is not None:
            task, self._task = self._task, None
            await end([task])

    def _enter_all(self) -> None:
        """Write all counts again: a new lease begins without entries."""
        self._hub.note_changed_channels(self._hub.channel_names())

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            changed = self._hub.take_changed_channels()
            if not changed:
                continue
            entered = False
            try:
                counts = {channel: len(self._hub.subscribers(channel)) for channel in changed}
                entered = await self._backend.enter(self._directory.lease, counts)
            except BusUnavailable as error:
                logger.debug("counts of %d channels not written, retrying: %s", len(changed), error)
            except Exception:
                logger.exception(
                    "writing the counts of %d channels failed with an unexpected error; retrying", len(changed)
                )
            finally:
                if not entered:
                    self._hub.note_changed_channels(changed)


class ChannelList:
    """The channels that have subscribers in the whole cluster, by the counts of all shards."""

    def __init__(self, backends: Sequence[ChannelCountsBackend]) -> None:
        self._backends = tuple(backends)

    async def channels(self, pattern: str = "") -> dict[str, int]:
        """Return the channels with subscribers, and how many connections each has, over all replicas.

        Changes of the last second may be missing. `pattern`: as in a shell, `{chat,run}:*`; empty for all.

        Raises:
            BusUnavailable: a Redis cannot be reached: it may know of more channels.
        """
        answers = await asyncio.gather(*(each.counts() for each in self._backends))
        return await _matching(answers, pattern)

    async def reachable(self, pattern: str = "") -> tuple[dict[str, int], str]:
        """Return the same without the shards that cannot be reached, and which these are; empty: none.

        Raises:
            BusUnavailable: no Redis can be reached.
        """
        answers: list[dict[str, dict[str, int]]] = []
        away: dict[int, BusUnavailable] = {}
        asked = asyncio.gather(*(each.counts() for each in self._backends), return_exceptions=True)
        for index, answer in enumerate(await asked):
            if isinstance(answer, BusUnavailable):
                away[index] = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                answers.append(answer)
        if not answers:
            raise next(iter(away.values()))
        return await _matching(answers, pattern), missing(away, len(self._backends))


async def _matching(answers: Iterable[dict[str, dict[str, int]]], pattern: str) -> dict[str, int]:
    """Return the sums of all leases of the channels that match the pattern."""
    patterns = alternatives(pattern)
    total: Counter[str] = Counter()
    for counts in answers:
        for of_lease in counts.values():
            total.update(of_lease)
    found, names = {}, iter(total)
    while batch := list(islice(names, max(1, BATCH // len(patterns)))):
        found.update(
            {
                channel: total[channel]
                for channel in batch
                if not pattern or any(fnmatchcase(channel, each) for each in patterns)
            }
        )
        await asyncio.sleep(0)  # a hostile pattern may take long: let other work run in between
    return found


_ALTERNATIVES: Final = re.compile(r"\{([^{}]*,[^{}]*)\}")


def alternatives(pattern: str) -> list[str]:
    """Return the patterns that one with alternatives in braces stands for: `{chat,run}:*`."""
    found: list[str] = []
    left = [pattern]
    while left:
        name = left.pop()
        braces = _ALTERNATIVES.search(name)
        each = [] if braces is None else braces.group(1).split(",")
        if braces is None or len(found) + len(left) + len(each) > MOST_ALTERNATIVES:
            found.append(name)
        else:
            left += [name[: braces.start()] + one + name[braces.end() :] for one in each]
    return found
