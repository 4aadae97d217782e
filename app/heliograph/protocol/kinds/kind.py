"""What distinguishes one kind of channel from another. Other code calls the kind, and never asks which kind it is."""

from abc import ABC, abstractmethod

import msgspec

from heliograph.protocol.events import Event
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.run import RunState, RunUpdate

ChannelUpdate = RunUpdate  # a publication on a channel with a state; each kind adds its own type
ChannelState = RunState  # the state that such a channel keeps beside its publications; likewise


class ChannelKind(ABC):
    """One kind of channel. It has no state of its own: there is one object for all channels of the kind.

    `keeps_state`: the log keeps a state beside the publications. A new subscriber gets the state and later updates,
    instead of the publications that it missed. Other kinds have no updates: nothing is reduced, and no state is sent.
    """

    keeps_state: bool

    @abstractmethod
    def check(self, data: msgspec.Raw) -> ChannelUpdate | None:
        """Read data to publish. Return its update; None if the data is published unchanged.

        Raises:
            BadData: the data cannot be published on a channel of this kind.
        """

    @abstractmethod
    def reduce(self, state: ChannelState | None, update: ChannelUpdate) -> tuple[ChannelState, msgspec.Raw]:
        """Return the state after the update, and the data of its publication.

        `backends/redis/lua/_keep.lua` does the same for a log in Redis.
        """

    @abstractmethod
    def has_ended(self, state: ChannelState | None) -> bool:
        """Return whether the channel has ended, so that the log is kept for the time after an end."""

    @abstractmethod
    def render(self, publication: Publication) -> Event:
        """Return the event for subscribers of a publication."""

    @abstractmethod
    def open(self, channel: str, position: Position, state: ChannelState | None) -> Event:
        """Return the event with the state at `position`; `state` is None for an unknown channel."""
