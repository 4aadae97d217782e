"""The router: THE delivery policy. Local connections first, the bus for the rest, and never back again."""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from app.cluster.directory import Directory
from app.cluster.pubsub_manager import PubSubManager
from app.cluster.remote_delivery import RemoteDelivery
from app.errors import BusUnavailable, ConnectionLimit, ErrorCode
from app.hub.connection import Connection
from app.hub.hub import Hub
from app.protocol.envelope import Envelope
from app.protocol.events import Delivery, Error, Event
from app.protocol.identity import check_user_id, personal_channel
from app.protocol.operations import RequestId
from app.protocol.publication import Publication
from app.protocol.session import echo
from app.settings import LimitSettings

logger = logging.getLogger("heliograph.router")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the sender of a message is told."""

    message_id: str
    delivery: Delivery


class ConnectionManager:
    """Connects users to this replica and routes messages to users wherever they are.

    `name` is what this replica is called on the wire, `timestamp` gives the present as ISO 8601 in UTC.
    """

    def __init__(
        self,
        hub: Hub,
        bus: PubSubManager,
        directory: Directory,
        *,
        name: str,
        limits: LimitSettings,
        timestamp: Callable[[], str],
    ) -> None:
        self._hub = hub
        self._bus = bus
        self._directory = directory
        self._name = name
        self._limits = limits
        self._timestamp = timestamp
        self._remote = RemoteDelivery(hub, bus.node_id, timestamp)

    async def connect(self, connection: Connection) -> None:
        """Register the connection, here and in the directory. Messages wait in its outbox until it is opened.

        Once this returns, no message to the user passes it by, on whichever replica it is sent.

        Raises:
            ConnectionLimit: the user or this replica has too many; the connection is not registered.
        """
        if self._hub.connections >= self._limits.connections:
            raise ConnectionLimit(f"this replica holds the {self._limits.connections} connections it may")
        limit = self._limits.connections_per_user
        if 0 < limit <= self._hub.count(connection.user):
            raise ConnectionLimit(f"a user may have {limit} connections")
        self._hub.add(connection)
        try:
            total = await self._directory.hold(connection.user)
        except BaseException:
            self.disconnect(connection)
            raise
        if total is None:
            total = self._hub.count(connection.user)
        if 0 < limit < total:
            self.disconnect(connection)
            raise ConnectionLimit(f"a user may have {limit} connections")

    def disconnect(self, connection: Connection) -> None:
        """Forget the connection, here at once and in the directory soon. May be called more than once."""
        self._hub.remove(connection)
        self._directory.release(connection.user)

    async def send_message(
        self,
        user_id: str,
        message: object,
        via_pubsub: bool = False,
        *,
        sender: str | None = None,
    ) -> Receipt:
        """Send `message` (anything that encodes to JSON, or `msgspec.Raw`) to every connection of the user.

        Connections here get it at once, without waiting for Redis; the bus takes it to the other replicas unless
        the user is known to be only here. At most once: what is not delivered now is not kept.

        `via_pubsub=True`: the message came in over the bus, so it is delivered here and goes no further.

        Raises:
            BadUserId: `user_id` cannot be one.
            BusUnavailable: nobody here, and the other replicas cannot be reached: nothing was delivered.
        """
        publication = self._publication(check_user_id(user_id), message, sender)
        if via_pubsub:
            envelope = Envelope.of(publication, user_id, node_id="")
            taken = self._remote.deliver_remote(envelope)
            return Receipt(publication.message_id, Delivery.LOCAL if taken else Delivery.OFFLINE)
        taken = self._hub.deliver(user_id, publication)
        delivery = await self._relay(user_id, publication, taken)
        return Receipt(publication.message_id, delivery)

    def handle_pubsub_message(self, envelope: Envelope) -> int:
        """Deliver what came in over the bus; how many connections took it."""
        return self._remote.deliver_remote(envelope)

    def tell(self, connection: Connection, event: Event) -> None:
        """Say something to one connection alone. One that does not read is closed."""
        self._hub.tell(connection, event)

    def send_error(
        self, connection: Connection, code: ErrorCode, message: str, request_id: RequestId | None = None
    ) -> None:
        """Tell the client of one connection what was wrong."""
        error = Error(code=code, message=message, timestamp=self._timestamp(), id=echo(request_id))
        self.tell(connection, error)

    def _publication(self, user_id: str, message: object, sender: str | None) -> Publication:
        return Publication(
            channel=personal_channel(user_id),
            data=message if isinstance(message, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(message)),
            message_id=uuid.uuid4().hex,
            sent_at=self._timestamp(),
            sender=sender,
            origin=self._name,
        )

    async def _relay(self, user_id: str, publication: Publication, taken: int) -> Delivery:
        """Take the publication to the other replicas; `taken` connections here have it already."""
        envelope = Envelope.of(publication, user_id, self._bus.node_id)
        try:
            reach = await self._bus.publish(envelope, lease=self._directory.lease)
        except BusUnavailable:
            if not taken:
                raise
            logger.warning("message %s reached only the connections on this replica", publication.message_id)
            reach = None
        if reach is Delivery.REMOTE:
            return reach
        # Nobody elsewhere. Who is here the hub knows better than the directory, which hears of it a moment later.
        return Delivery.LOCAL if taken else Delivery.OFFLINE
