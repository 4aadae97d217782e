"""The plain kind: publications, delivered unchanged."""

import msgspec

from heliograph.protocol.events import Event
from heliograph.protocol.kinds.kind import ChannelKind, ChannelState, ChannelUpdate
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication


class PlainKind(ChannelKind):
    """Keep publications, and no state."""

    keeps_state = False

    def check(self, data: msgspec.Raw) -> ChannelUpdate | None:
        return None

    def reduce(self, state: ChannelState | None, update: ChannelUpdate) -> tuple[ChannelState, msgspec.Raw]:
        raise NotImplementedError("a plain channel has no updates")

    def has_ended(self, state: ChannelState | None) -> bool:
        return False

    def render(self, publication: Publication) -> Event:
        return publication

    def open(self, channel: str, position: Position, state: ChannelState | None) -> Event:
        raise NotImplementedError("a plain channel has no state")
