"""One of something for each shard, off the path of a message. With one Redis there is one."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_T = TypeVar("_T")


class PerShard(Generic[_T]):
    """One of something for each shard. `owner`: the index of the shard that owns a channel."""

    def __init__(self, all_of_them: Sequence[_T], owner: Callable[[str], int]) -> None:
        self.all = tuple(all_of_them)
        self._owner = owner

    def of(self, channel: str) -> _T:
        """Return that of the shard which owns the channel."""
        return self.all[self._owner(channel)]
