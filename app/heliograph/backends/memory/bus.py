"""The bus of a single replica: there are no others."""

import logging
import math
from collections.abc import Callable

from heliograph.errors import BusUnavailable
from heliograph.ports import BusState, Handler, OnPosted, OnRelayed, new_node_id
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.events import Delivery
from heliograph.telemetry import BusStats

logger = logging.getLogger(__name__)


class LocalBus:
    """A `Bus` that leads nowhere: messages stay on this replica, and none arrives."""

    enabled = False
    state = BusState.DISABLED
    ready = True
    unheard_s = 0.0
    canary_age_s = math.inf
    lag_s = math.inf

    def __init__(self) -> None:
        self.node_id = new_node_id()
        self.stats = BusStats()

    async def initialize(self) -> None:
        pass

    def start_listening(
        self,
        handler: Handler | None = None,
        *,
        on_resubscribed: Callable[[], object] | None = None,
        on_died: Callable[[str], object] | None = None,
    ) -> None:
        pass

    async def stop_listening(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def relay(self, envelope: Envelope, lease: str, done: OnRelayed) -> None:
        logger.debug("the bus is disabled: message %s stays on this replica", envelope.message_id)
        done(None)

    def relay_on(self, envelope: Envelope, done: OnRelayed) -> None:
        done(None)

    def post(self, node_id: str, envelope: Envelope, done: OnPosted) -> None:
        done(0)

    async def publish(self, envelope: Envelope, *, lease: str) -> Delivery | None:
        self.relay(envelope, lease, _nobody)
        return None

    async def follow(self, channel: str) -> None:
        pass

    async def unfollow(self, channel: str) -> None:
        pass


def _nobody(answer: Delivery | BusUnavailable | None) -> None:
    """Do nothing: the answer is always that this is the only replica."""
