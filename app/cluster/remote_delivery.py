"""The guard: what came in over the bus is delivered here and can go nowhere else.

`RemoteDelivery` holds the hub and no bus, and its one verb is a plain function: it has nothing to publish with and
nothing to await. `via_pubsub=True` names this path; the structure enforces it.
"""

import uuid
from collections.abc import Callable

from app.hub.hub import Hub
from app.protocol.envelope import Envelope


class RemoteDelivery:
    """Hands what other processes have published to the connections of this replica."""

    def __init__(self, hub: Hub, node_id: str, timestamp: Callable[[], str]) -> None:
        self._hub = hub
        self._node_id = node_id
        self._timestamp = timestamp

    def deliver_remote(self, envelope: Envelope) -> int:
        """How many connections took it. An envelope of our own was delivered before it was published."""
        if envelope.node_id == self._node_id:
            return 0
        if not self._hub.count(envelope.target_user_id):
            return 0
        publication = envelope.publication(message_id=uuid.uuid4().hex, sent_at=self._timestamp())
        return self._hub.deliver(envelope.target_user_id, publication)
