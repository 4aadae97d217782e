"""The guard: envelopes from the bus are delivered here, and can go nowhere else.

`RemoteDelivery` holds the hub, the followed channels and the commands, which only read and listen, and no bus. Its
one verb is a plain function: it has nothing to publish with and nothing to await. `via_pubsub=True` names this path;
the structure enforces it.
"""

import uuid
from collections.abc import Callable

import msgspec

from heliograph.cluster.commands import Commands
from heliograph.cluster.following import Following
from heliograph.hub.announcements import Announcements
from heliograph.hub.hub import Hub
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.publication import Publication


class RemoteDelivery:
    """Deliver publications of other processes to the connections of this replica."""

    def __init__(
        self, hub: Hub, following: Following, commands: Commands, node_id: str, timestamp: Callable[[], str]
    ) -> None:
        self._hub = hub
        self._announcements = Announcements(hub)
        self._following = following
        self._commands = commands
        self._node_id = node_id
        self._timestamp = timestamp

    def deliver_remote(self, envelope: Envelope) -> int:
        """Deliver an envelope; a kept publication goes through its channel, in order. Return how many accepted it.

        A command is executed on the user's connections here.
        """
        if envelope.epoch is not None:
            self._following.count(envelope.seq, envelope.own_seq)
            channel = envelope.address
            if self._following.follows(channel):
                envelope.check()
                self._following.receive(envelope.publication(channel))
            return 0
        if envelope.command is not None:
            return self._commands.receive(envelope)
        if envelope.presence is not None:
            joined = envelope.presence == "join"
            if envelope.client is not None:
                return self._announcements.client(envelope.on or "", envelope.client, joined)
            user = msgspec.json.decode(envelope.message, type=str)
            return self._announcements.user(envelope.address, user, joined)
        if envelope.node_id == self._node_id:
            return 0  # our own: it was delivered here before it was published
        return self.deliver(envelope)

    def deliver(self, envelope: Envelope) -> int:
        """Deliver an ephemeral message to its connections here. Return how many accepted it."""
        user_id = envelope.target_user_id
        if user_id is None:
            channel, publication = envelope.address, self._publication(envelope)
            self._following.interrupt(channel)
            self._hub.trace.delivered(publication)
            return self._hub.deliver(channel, publication)
        if not self._hub.count(user_id):
            return 0
        publication = self._publication(envelope)
        self._hub.trace.delivered(publication)
        return self._hub.deliver_to_user(user_id, publication)

    def _publication(self, envelope: Envelope) -> Publication:
        """Return the publication; other programs may leave out its time and id."""
        envelope.check()
        return Publication(
            channel=envelope.address,
            data=envelope.message,
            message_id=envelope.message_id or uuid.uuid4().hex,
            sent_at=envelope.sent_at or self._timestamp(),
            sender=envelope.sender or None,
            origin=envelope.origin or None,
            tags=envelope.tags,
            author=envelope.author,
        )
