"""The result of a publication for its sender."""

from collections.abc import Callable

import msgspec

from heliograph.errors import HeliographError
from heliograph.protocol.events import Delivery
from heliograph.protocol.position import Position


class PublishResult(msgspec.Struct, frozen=True, gc=False):
    """How far the message got. `position`: its position in the channel; None if it is not kept."""

    message_id: str
    delivery: Delivery
    position: Position | None = None


OnPublished = Callable[[PublishResult | HeliographError], object]  # the sender's callback
