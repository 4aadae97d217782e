"""One of something for each shard, off the path of a message. With one Redis there is one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from heliograph.errors import BusUnavailable

_T = TypeVar("_T")


class PerShard(Generic[_T]):
    """One of something for each shard. `owner`: the index of the shard that owns a channel."""

    def __init__(self, all_of_them: Sequence[_T], owner: Callable[[str], int]) -> None:
        self.all = tuple(all_of_them)
        self._owner = owner

    def of(self, channel: str) -> _T:
        """Return that of the shard which owns the channel."""
        return self.all[self._owner(channel)]


def missing(away: Mapping[int, BusUnavailable], count: int) -> str:
    """Return which shards a list is without, for an operator; empty: it is whole. `away`: by index, of `count`."""
    return "; ".join(
        f"without shard {index + 1} of {count}: {away[index]}" if count > 1 else str(away[index])
        for index in sorted(away)
    )
