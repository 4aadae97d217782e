"""Which shard owns a channel: the same answer in every process and in every version. Pure.

A shard is one independent Redis, and owns whole channels; a user belongs to the shard of their personal channel.
Shards are told apart by their number in the list of the settings, from 1 on, and not by their address, which may
change. The owner is the shard whose number gives the largest hash together with the channel's name (rendezvous
hashing): if a shard is added to the end of the list, only the channels that it now owns change their shard.
"""

from hashlib import sha256
from typing import Final

MOST_REMEMBERED: Final = 50_000  # channels whose owner is remembered
HASH_BYTES: Final = 8


class ShardMap:
    """Owners of channels among `count` shards. The owner is an index, from 0 on. It remembers those of so many."""

    def __init__(self, count: int, remembered: int = MOST_REMEMBERED) -> None:
        self.count = count
        self._most = remembered
        self._prefixes = [b"%d:" % number for number in range(1, count + 1)]
        self._owners: dict[str, int] = {}

    def of(self, channel: str) -> int:
        """Return the index of the shard that owns the channel."""
        owner = self._owners.get(channel)
        return self._look_up(channel) if owner is None else owner

    def _look_up(self, channel: str) -> int:
        if self.count == 1:
            return 0
        name = channel.encode("utf-8", "surrogatepass")  # an invalid name is refused elsewhere, and has an owner here
        owner, highest = 0, b""
        for index, prefix in enumerate(self._prefixes):
            found = sha256(prefix + name).digest()[:HASH_BYTES]
            if found > highest:
                owner, highest = index, found
        if len(self._owners) >= self._most:
            self._owners.clear()
        self._owners[channel] = owner
        return owner
