"""The router: THE delivery policy.

Kept (the default): log first. One script gives the message its place, keeps it and publishes it; what is delivered is
what the log holds. Ephemeral: local first. Connections here get it at once, the bus takes it to the others.
"""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import msgspec

from app.backends.protocols import Draft, Emission, Emissions, Log, Opened, Opening
from app.cluster.channels import Channels
from app.cluster.directory import Directory
from app.cluster.presence import Presence
from app.cluster.pubsub_manager import PubSubManager
from app.cluster.remote_delivery import RemoteDelivery
from app.errors import BusUnavailable, ConnectionLimit, ErrorCode
from app.hub.connection import Connection
from app.hub.hub import Hub
from app.protocol.envelope import Envelope
from app.protocol.events import Delivery, Error, Event, Message
from app.protocol.identity import check_channel, check_user_id, personal_channel
from app.protocol.namespace import Namespaces
from app.protocol.operations import RequestId
from app.protocol.position import Position
from app.protocol.publication import Publication
from app.protocol.run import check_update
from app.protocol.session import echo
from app.settings import LimitSettings

logger = logging.getLogger("heliograph.router")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the sender of a message is told. `position`: its place in the channel; None if it is not kept."""

    message_id: str
    delivery: Delivery
    position: Position | None = None


class ConnectionManager:
    """Connects users to this replica and routes messages to users and channels wherever they are.

    `name` is what this replica is called on the wire, `timestamp` gives the present as ISO 8601 in UTC.
    """

    def __init__(
        self,
        hub: Hub,
        bus: PubSubManager,
        directory: Directory,
        channels: Channels,
        presence: Presence,
        log: Log,
        emissions: Emissions,
        *,
        name: str,
        namespaces: Namespaces,
        limits: LimitSettings,
        timestamp: Callable[[], str],
    ) -> None:
        self._hub = hub
        self._bus = bus
        self._directory = directory
        self._channels = channels
        self._presence = presence
        self._log = log
        self._emissions = emissions
        self._name = name
        self._namespaces = namespaces
        self._limits = limits
        self._timestamp = timestamp
        self._remote = RemoteDelivery(hub, channels, bus.node_id, timestamp)

    # -- connections

    async def connect(self, connection: Connection) -> None:
        """Register the connection, here and in the directory. Messages wait in its outbox until it is opened.

        Once this returns, no ephemeral message to the user passes it by, on whichever replica it is sent. What is
        kept comes from where `listen` or `subscribe` begins.

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
        for channel in list(connection.channels):
            self.unsubscribe(connection, channel)
        self._hub.remove(connection)
        self._directory.release(connection.user)

    def tell(self, connection: Connection, event: Event) -> None:
        """Say something to one connection alone. One that does not read is closed."""
        self._hub.tell(connection, event)

    def send_error(
        self, connection: Connection, code: ErrorCode, message: str, request_id: RequestId | None = None
    ) -> None:
        """Tell the client of one connection what was wrong."""
        error = Error(code=code, message=message, timestamp=self._timestamp(), id=echo(request_id))
        self.tell(connection, error)

    # -- channels

    async def subscribe(
        self,
        connection: Connection,
        channel: str,
        since: Position | None = None,
        *,
        replay: bool = False,
        request_id: RequestId | None = None,
    ) -> None:
        """Subscribe the connection: see `Channels.join`.

        Raises:
            BusUnavailable: not now.
        """
        await self._channels.join(connection, channel, since, replay=replay, request_id=request_id)
        self._presence.came(connection.user, channel)

    async def listen(self, connection: Connection, channel: str) -> str:
        """Subscribe the connection to its user's own channel; returns where that stands, as a cursor.

        Without a log it listens all the same, to what is ephemeral, and is told later where what is kept begins.
        """
        return await self._channels.listen(connection, channel)

    def unsubscribe(self, connection: Connection, channel: str) -> None:
        """Take the connection off the channel, at once."""
        if channel in connection.channels:
            self._channels.leave(connection, channel)
            self._presence.went(connection.user, channel)

    async def history(self, channel: str, since: Position | None, limit: int) -> Opened:
        """What is kept of the channel after `since` (or from the start), oldest first, at most `limit`.

        Raises:
            BusUnavailable: the log cannot be read.
        """
        [opened] = await self._log.open([Opening(channel, after=since, replay=since is None, limit=limit)])
        return opened

    async def run(self, channel: str) -> Opened:
        """The latest of a run, and where its channel stands.

        Raises:
            BusUnavailable: the log cannot be read.
        """
        [opened] = await self._log.open([Opening(channel, with_run=True)])
        return opened

    async def presence(self, channel: str) -> dict[str, int]:
        """Who is on the channel, over all replicas: see `Presence.members`."""
        return await self._presence.members(channel)

    # -- messages

    async def send(
        self, user_id: str, message: object, *, sender: str | None = None, idempotency_key: str | None = None
    ) -> Receipt:
        """Send a message that is kept to a user: they get it in order, on every device, also when they come back.

        Raises:
            BadUserId: `user_id` cannot be one.
            BusUnavailable: it was not kept, so nobody gets it (after a time-out: it may have been).
        """
        return await self.publish(
            personal_channel(check_user_id(user_id)), message, sender=sender, idempotency_key=idempotency_key
        )

    async def publish(
        self,
        channel: str,
        message: object,
        *,
        sender: str | None = None,
        idempotency_key: str | None = None,
        ephemeral: bool = False,
    ) -> Receipt:
        """Publish on a channel. Kept, unless this is `ephemeral` or the channel's namespace is.

        Raises:
            BadChannel, BadData: it cannot be published.
            BusUnavailable: it was not kept, so nobody gets it (after a time-out: it may have been).
        """
        options = self._namespaces.of(check_channel(channel))
        publication = self._publication(channel, message, sender)
        if ephemeral or options.ephemeral:
            return await self._publish_ephemeral(publication)
        draft = Draft(
            channel=channel,
            data=publication.data,
            message_id=publication.message_id,
            sent_at=publication.sent_at,
            sender=sender,
            origin=self._name,
            node_id=self._bus.node_id,
            update=check_update(publication.data) if options.run else None,
            idempotency_key=idempotency_key,
        )
        began_at = monotonic()
        try:
            appended = await self._log.append(draft, options, self._directory.lease)
        except BusUnavailable:
            self._bus.stats.publish_errors += 1
            self._channels.doubt(channel)  # nobody else may have been told, and the answer may have been lost
            raise
        self._bus.stats.published += 1
        self._bus.stats.publish_time.observe(monotonic() - began_at)
        delivery = appended.delivery
        if not appended.published:
            # Nobody else holds the user, so nobody was told: what the log has taken is delivered here.
            if appended.message_id == publication.message_id:
                self._channels.receive(
                    msgspec.structs.replace(publication, data=appended.data, position=appended.position)
                )
            else:
                self._channels.doubt(channel)  # a repetition: who made the first try may never have had its answer
            delivery = Delivery.LOCAL if self._hub.subscribers(channel) else Delivery.STORED
        return Receipt(appended.message_id, delivery, appended.position)

    async def send_message(
        self,
        user_id: str,
        message: object,
        via_pubsub: bool = False,
        *,
        sender: str | None = None,
    ) -> Receipt:
        """Send an ephemeral message (anything that encodes to JSON) to every connection of the user.

        Connections here get it at once, without waiting for Redis; the bus takes it to the other replicas unless
        the user is known to be only here. At most once: what is not delivered now is not kept.

        `via_pubsub=True`: the message came in over the bus, so it is delivered here and goes no further.

        Raises:
            BadUserId: `user_id` cannot be one.
            BusUnavailable: nobody here, and the other replicas cannot be reached: nothing was delivered.
        """
        publication = self._publication(personal_channel(check_user_id(user_id)), message, sender)
        if via_pubsub:
            taken = self._remote.deliver_remote(Envelope.of(publication, node_id=""))
            return Receipt(publication.message_id, Delivery.LOCAL if taken else Delivery.OFFLINE)
        taken = self._hub.deliver_to_user(user_id, Message.of(publication))
        return Receipt(publication.message_id, await self._relay(publication, taken))

    async def emit(self, event: str, data: msgspec.Raw, *, user_id: str, session: str | None = None) -> str:
        """Keep what a client says to the workers behind the cluster; returns its message id.

        Raises:
            BusUnavailable: it is not kept (after a time-out: it may be).
        """
        emission = Emission(
            event=event,
            data=data,
            user=user_id,
            session=session,
            replica=self._name,
            emitted_at=self._timestamp(),
            message_id=uuid.uuid4().hex,
        )
        await self._emissions.append(emission)
        return emission.message_id

    def handle_pubsub_message(self, envelope: Envelope) -> int:
        """Deliver what came in over the bus; how many connections took it."""
        return self._remote.deliver_remote(envelope)

    async def _publish_ephemeral(self, publication: Publication) -> Receipt:
        self._hub.deliver(publication.channel, Message.of(publication))
        await self._bus.publish_on(publication.channel, Envelope.of(publication, self._bus.node_id))
        return Receipt(publication.message_id, Delivery.REMOTE)

    def _publication(self, channel: str, message: object, sender: str | None) -> Publication:
        return Publication(
            channel=channel,
            data=message if isinstance(message, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(message)),
            message_id=uuid.uuid4().hex,
            sent_at=self._timestamp(),
            sender=sender,
            origin=self._name,
        )

    async def _relay(self, publication: Publication, taken: int) -> Delivery:
        """Take the publication to the other replicas; `taken` connections here have it already."""
        envelope = Envelope.of(publication, self._bus.node_id)
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
