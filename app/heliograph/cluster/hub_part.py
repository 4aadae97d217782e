"""The part of this replica's hub that belongs to one shard: its users, and its channels."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.protocol.identity import personal_channel


class HubPart:
    """The users and channels of the shard with this `index`. `owner`: the index of the shard that owns a channel."""

    def __init__(self, hub: Hub, changes: "ChangesByShard", owner: Callable[[str], int], index: int) -> None:
        self._hub = hub
        self._changes = changes
        self._owner = owner
        self._index = index

    def user_ids(self) -> Iterator[str]:
        return (user for user in self._hub.user_ids() if self._owner(personal_channel(user)) == self._index)

    def count(self, user_id: str) -> int:
        return self._hub.count(user_id)

    def channel_names(self) -> Iterator[str]:
        return (channel for channel in self._hub.channel_names() if self._owner(channel) == self._index)

    def subscribers(self, channel: str) -> Collection[Connection]:
        return self._hub.subscribers(channel)

    def take_changed_channels(self) -> set[str]:
        """See `Hub.take_changed_channels`: those of this shard."""
        return self._changes.take(self._index)

    def note_changed_channels(self, channels: Iterable[str]) -> None:
        """See `Hub.note_changed_channels`."""
        self._changes.note(self._index, channels)


class ChangesByShard:
    """The changed channels of a hub, each kept for its shard until that asks."""

    def __init__(self, hub: Hub, owner: Callable[[str], int], count: int) -> None:
        self._hub = hub
        self._owner = owner
        self._changed: list[set[str]] = [set() for _ in range(count)]

    def take(self, index: int) -> set[str]:
        for channel in self._hub.take_changed_channels():
            self._changed[self._owner(channel)].add(channel)
        changed, self._changed[index] = self._changed[index], set()
        return changed

    def note(self, index: int, channels: Iterable[str]) -> None:
        self._changed[index].update(channels)


def parts_of(hub: Hub, owner: Callable[[str], int], count: int) -> "Sequence[Hub | HubPart]":
    """Return the part of each shard; with one shard that is the hub itself."""
    if count == 1:
        return [hub]
    changes = ChangesByShard(hub, owner, count)
    return [HubPart(hub, changes, owner, index) for index in range(count)]
