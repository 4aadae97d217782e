"""What distinguishes one kind of channel from another. Everything else asks its kind, never which kind it is."""

from abc import ABC, abstractmethod

import msgspec

from heliograph.protocol.events import Event
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.run import RunState, RunUpdate

ChannelUpdate = RunUpdate  # what is published on a channel that keeps a state; a kind adds its own
ChannelState = RunState  # what such a channel keeps beside its publications; likewise


class ChannelKind(ABC):
    """One kind of channel. It has no state of its own: there is one object for all channels of the kind.

    `keeps_state`: the log keeps a state beside the publications. A new subscriber gets that, and what follows it, in
    the place of what it has missed. The other kinds have no updates: nothing is reduced, and no state is told.
    """

    keeps_state: bool

    @abstractmethod
    def check(self, data: msgspec.Raw) -> ChannelUpdate | None:
        """Read what is to be published: the update that it means; None where the data is published as it is.

        Raises:
            BadData: it cannot be published on a channel of this kind.
        """

    @abstractmethod
    def reduce(self, state: ChannelState | None, update: ChannelUpdate) -> tuple[ChannelState, msgspec.Raw]:
        """Return the state after the update, and the data of the publication that tells of it.

        `backends/redis/lua/_keep.lua` does the same where the log is in Redis.
        """

    @abstractmethod
    def has_ended(self, state: ChannelState | None) -> bool:
        """Return whether nothing more is expected, so that the log is kept for the time after an end."""

    @abstractmethod
    def render(self, publication: Publication) -> Event:
        """Return what subscribers are told of a publication."""

    @abstractmethod
    def open(self, channel: str, position: Position, state: ChannelState | None) -> Event:
        """Return what tells a subscriber the state at `position`; None: nobody has heard of the channel yet."""
