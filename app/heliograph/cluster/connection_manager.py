"""The router: THE delivery policy.

Kept (the default): log first. One script gives the message its place, keeps it and publishes it; what is delivered is
what the log holds. Ephemeral: local first. Connections here get it at once, the bus takes it to the others.
"""

import logging
from collections.abc import Callable
from functools import partial
from itertools import count

import msgspec

from heliograph.callbacks import await_callback
from heliograph.cluster.channels import Channels
from heliograph.cluster.client_writes import ClientWrites
from heliograph.cluster.commands import Commands
from heliograph.cluster.directory import Directory
from heliograph.cluster.presence import Presence, Roster
from heliograph.cluster.publish_result import OnPublished, PublishResult
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.cluster.remote_delivery import RemoteDelivery
from heliograph.errors import (
    BadChannel,
    BadData,
    BusUnavailable,
    ConnectionLimit,
    ErrorCode,
    HeliographError,
    OverBudget,
    StorageFull,
)
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.ports import AppendResult, CommandLog, Draft, Emission, Emissions, Log, ReadRequest, ReadResult
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.command import Command, DisconnectUser, UnsubscribeUser
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.events import Delivery, Error, Event
from heliograph.protocol.identity import check_channel, check_user_id, personal_channel, user_of
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.operations import Publish, RequestId, Send
from heliograph.protocol.position import Position
from heliograph.protocol.run import check_update
from heliograph.protocol.session import echo
from heliograph.settings import LimitSettings

logger = logging.getLogger(__name__)


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
        commands: Commands,
        log: Log,
        emissions: Emissions,
        command_log: CommandLog,
        writes: ClientWrites,
        *,
        name: str,
        namespaces: Namespaces,
        limits: LimitSettings,
        timestamp: Callable[[], str],
    ) -> None:
        self._hub = hub
        self._bus = bus
        self._directory = directory
        self._following = channels.following
        self._joining = channels.joining
        self._presence = presence
        self._commands = commands
        self._log = log
        self._command_log = command_log
        self._emissions = emissions
        self._writes = writes
        self._name = name
        self._namespaces = namespaces
        self._limits = limits
        self._timestamp = timestamp
        self._message_ids = map(f"{bus.node_id}-%x".__mod__, count(1))  # unlike any other replica's, and quick
        self._remote = RemoteDelivery(hub, channels.following, commands, bus.node_id, timestamp)

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
        for channel in self._joining.channels_of(connection):
            self.unsubscribe(connection, channel)
        self._hub.remove(connection)
        self._directory.release(connection.user)

    def send_event(self, connection: Connection, event: Event) -> None:
        """Say something to one connection alone. One that does not read is closed."""
        self._hub.send(connection, event)

    def send_error(
        self, connection: Connection, code: ErrorCode, message: str, request_id: RequestId | None = None
    ) -> None:
        """Tell the client of one connection what was wrong."""
        error = Error(code=code, message=message, timestamp=self._timestamp(), id=echo(request_id))
        self.send_event(connection, error)

    # -- channels

    async def subscribe(
        self,
        connection: Connection,
        channel: str,
        since: Position | None = None,
        *,
        replay: bool = False,
        request_id: RequestId | None = None,
        keep: bool = False,
    ) -> bool:
        """Subscribe the connection: see `Joining.join`. False if it was taken off the channel meanwhile.

        Raises:
            BusUnavailable: not now; with `keep` it is subscribed as soon as that can be done.
        """
        return await self._joining.join(
            connection,
            channel,
            since,
            replay=replay,
            request_id=request_id,
            keep=keep,
            on_joined=partial(self._presence.came, connection.user, channel),
        )

    async def listen(self, connection: Connection, channel: str) -> str:
        """Subscribe the connection to its user's own channel; returns where that stands, as a cursor.

        Without a log it is told later where what is kept begins; what is ephemeral it gets all the same.
        """
        return await self._joining.listen(connection, channel)

    def unsubscribe(self, connection: Connection, channel: str) -> None:
        """Take the connection off the channel, at once, also while it is still being subscribed."""
        if self._joining.leave(connection, channel):
            self._presence.went(connection.user, channel)

    async def history(self, channel: str, since: Position | None, limit: int) -> ReadResult:
        """What is kept of the channel after `since` (or from the start), oldest first, at most `limit`.

        Raises:
            BusUnavailable: the log cannot be read.
        """
        [opened] = await self._log.read([ReadRequest(channel, after=since, replay=since is None, limit=limit)])
        return opened

    async def run(self, channel: str) -> ReadResult:
        """The latest of a run, and where its channel stands.

        Raises:
            BusUnavailable: the log cannot be read.
        """
        [opened] = await self._log.read([ReadRequest(channel, with_run=True)])
        return opened

    async def presence(self, channel: str) -> Roster:
        """Who is on the channel, over all replicas: see `Presence.roster`."""
        return await self._presence.roster(channel)

    # -- what a server says about users

    async def disconnect_user(
        self,
        user_id: str,
        *,
        code: CloseCode = CloseCode.FORCED,
        reason: str = "disconnected by the server",
        block_s: float | None = None,
    ) -> None:
        """Close every connection that the user has now, on every replica: here at once, everywhere within 2 seconds.

        A replica that the bus does not reach carries it out when it is back. Whoever is disconnected may connect
        again if their token is still good, unless they are kept out: `block_s` seconds long, on every replica (0:
        from now on no longer).

        Raises:
            BadUserId: `user_id` cannot be one.
            BusUnavailable: it was carried out here; others may not hear of it. It may be told again without harm.
        """
        command = DisconnectUser(code, reason, msgspec.UNSET if block_s is None else block_s)
        await self._tell_all(check_user_id(user_id), command)

    async def unsubscribe_user(self, user_id: str, channel: str) -> None:
        """Take every connection that the user has now off the channel; otherwise like `disconnect_user`.

        Raises:
            BadUserId, BadChannel: they cannot be; or it is the user's own channel, which nobody leaves.
            BusUnavailable: as for `disconnect_user`.
        """
        if user_of(check_channel(channel)) is not None:
            raise BadChannel("a personal channel cannot be left; the user can be disconnected")
        await self._tell_all(check_user_id(user_id), UnsubscribeUser(channel))

    async def _tell_all(self, user_id: str, command: Command) -> None:
        envelope = Envelope(
            message=msgspec.Raw(b"null"),
            target_user_id=user_id,
            message_id=next(self._message_ids),
            sent_at=self._timestamp(),
            origin=self._name,
            node_id=self._bus.node_id,
            command=command,
        )
        self._commands.carry_out(envelope)
        await self._command_log.append(envelope)

    # -- messages

    def dispatch(self, operation: Send | Publish, *, sender: str | None, done: OnPublished) -> None:
        """Route what a client has sent. No task, no wait: `done` is called in the turn in which Redis has answered.

        It is given the result, or the error (OverBudget, StorageFull, and see `publish` and `send_message`); one
        client's messages keep their order. It may be called before this returns.
        """
        if isinstance(operation, Send):
            channel, user_id = personal_channel(operation.to), operation.to
        else:
            channel, user_id = operation.channel, None  # a client publishes on no personal channel
        key = operation.idempotency_key
        self._route(channel, user_id, operation.data, sender, operation.ephemeral, key, done, client=sender)

    async def send(
        self, user_id: str, message: object, *, sender: str | None = None, idempotency_key: str | None = None
    ) -> PublishResult:
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
    ) -> PublishResult:
        """Publish on a channel. Kept, unless this is `ephemeral` or the channel's namespace is.

        Raises:
            BadChannel, BadUserId, BadData: it cannot be published.
            BusUnavailable: it was not kept, so nobody gets it (after a time-out: it may have been).
        """
        if (user_id := user_of(check_channel(channel))) is not None:
            check_user_id(user_id)
        return await await_callback(
            lambda done: self._route(channel, user_id, _raw(message), sender, ephemeral, idempotency_key, done)
        )

    async def send_message(
        self,
        user_id: str,
        message: object,
        via_pubsub: bool = False,
        *,
        sender: str | None = None,
    ) -> PublishResult:
        """Send an ephemeral message (anything that encodes to JSON) to every connection of the user.

        Connections here get it at once, without waiting for Redis; the bus takes it to the other replicas unless
        the user is known to be only here. At most once: what is not delivered now is not kept.

        `via_pubsub=True`: the message came in over the bus, so it is delivered here and goes no further.

        Raises:
            BadUserId: `user_id` cannot be one.
            BusUnavailable: nobody here, and the other replicas cannot be reached: nothing was delivered.
        """
        channel = personal_channel(check_user_id(user_id))
        if via_pubsub:
            envelope = self._envelope(channel, user_id, _raw(message), sender)
            return _result_of(envelope, Delivery.LOCAL if self._remote.deliver(envelope) else Delivery.OFFLINE)
        return await await_callback(
            lambda done: self._route(channel, user_id, _raw(message), sender, True, None, done)
        )

    async def emit(self, event: str, data: msgspec.Raw, *, user_id: str, session: str | None = None) -> str:
        """Keep what a client says to the workers behind the cluster; returns its message id.

        Raises:
            OverBudget: the user's clients have written as much as they may.
            StorageFull, BusUnavailable: it is not kept (after a time-out: it may be).
        """
        charge = self._writes.spend(user_id, len(data), "", kept=True)
        if isinstance(charge, HeliographError):
            raise charge
        emission = Emission(
            event=event,
            data=data,
            user=user_id,
            session=session,
            replica=self._name,
            emitted_at=self._timestamp(),
            message_id=next(self._message_ids),
            charge=charge,
        )
        try:
            await self._emissions.append(emission)
        except (OverBudget, StorageFull) as error:
            self._writes.refused(user_id, "", error)
            raise
        return emission.message_id

    def handle_pubsub_message(self, envelope: Envelope) -> int:
        """Deliver what came in over the bus; how many connections took it."""
        return self._remote.deliver_remote(envelope)

    def _route(
        self,
        channel: str,
        user_id: str | None,
        data: msgspec.Raw,
        sender: str | None,
        ephemeral: bool,
        idempotency_key: str | None,
        done: OnPublished,
        client: str | None = None,
    ) -> None:
        options = self._namespaces.of(channel)
        is_ephemeral = ephemeral or options.ephemeral
        charge = None if client is None else self._writes.spend(client, len(data), channel, kept=not is_ephemeral)
        if isinstance(charge, HeliographError):
            done(charge)
            return
        if is_ephemeral:
            self._relay(self._envelope(channel, user_id, data, sender), done)
            return
        try:
            update = check_update(data) if options.run else None
        except BadData as error:
            done(error)
            return
        draft = Draft(
            channel=channel,
            data=data,
            message_id=next(self._message_ids),
            sent_at=self._timestamp(),
            sender=sender,
            origin=self._name,
            node_id=self._bus.node_id,
            update=update,
            idempotency_key=idempotency_key,
            client=client,
            charge=charge,
        )
        self._log.submit(draft, options, self._directory.lease, partial(self._kept, draft, done))

    def _kept(self, draft: Draft, done: OnPublished, appended: AppendResult | BusUnavailable | OverBudget) -> None:
        """Log first: what is delivered is what the log holds."""
        try:
            result: PublishResult | HeliographError = self._receipt(draft, appended)
        except Exception:
            logger.exception("routing message %s failed with an unexpected error", draft.message_id)
            result = HeliographError("internal error")
        done(result)

    def _receipt(
        self, draft: Draft, appended: AppendResult | BusUnavailable | OverBudget
    ) -> PublishResult | BusUnavailable | OverBudget:
        channel = draft.channel
        if isinstance(appended, OverBudget):
            self._writes.refused(draft.client or "", channel, appended)
            return appended
        if isinstance(appended, BusUnavailable):
            self._bus.stats.publish_errors += 1
            self._following.doubt(channel)  # nobody else may have been told, and the answer may have been lost
            return appended
        self._bus.stats.published += 1
        delivery = appended.delivery
        if not appended.published:
            # Nobody else holds the user, so nobody was told: what the log has taken is delivered here.
            if appended.message_id == draft.message_id:
                self._following.receive(draft.publication(appended.data, appended.position))
            else:
                self._following.doubt(channel)  # a repetition: who made the first try may never have had its answer
            delivery = Delivery.LOCAL if self._hub.subscribers(channel) else Delivery.STORED
        return PublishResult(appended.message_id, delivery, appended.position)

    def _relay(self, envelope: Envelope, done: OnPublished) -> None:
        """Local first: the connections here have it before the bus takes it to the others."""
        taken = self._remote.deliver(envelope)
        if envelope.target_user_id is None:
            self._bus.relay_on(envelope, partial(_announced, envelope, done))
        else:
            self._bus.relay(envelope, self._directory.lease, partial(_relayed, envelope, taken, done))

    def _envelope(self, channel: str, user_id: str | None, data: msgspec.Raw, sender: str | None) -> Envelope:
        return Envelope(
            message=data,
            target_user_id=user_id,
            channel=channel if user_id is None else None,
            message_id=next(self._message_ids),
            sent_at=self._timestamp(),
            sender=sender,
            origin=self._name,
            node_id=self._bus.node_id,
        )


def _raw(message: object) -> msgspec.Raw:
    return message if isinstance(message, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(message))


def _announced(envelope: Envelope, done: OnPublished, reach: Delivery | BusUnavailable | None) -> None:
    """Say to the sender what became of an ephemeral publication on a channel."""
    done(reach if isinstance(reach, BusUnavailable) else _result_of(envelope, Delivery.REMOTE))


def _relayed(envelope: Envelope, taken: int, done: OnPublished, reach: Delivery | BusUnavailable | None) -> None:
    """Say to the sender what became of an ephemeral message; `taken` connections here have it already."""
    if reach is Delivery.REMOTE:
        done(_result_of(envelope, reach))
    elif not isinstance(reach, BusUnavailable):
        # Nobody elsewhere. Who is here the hub knows better than the directory, which hears of it a moment later.
        done(_result_of(envelope, Delivery.LOCAL if taken else Delivery.OFFLINE))
    elif taken:
        logger.warning(
            "message %s was delivered on this replica only; publishing it to others failed", envelope.message_id
        )
        done(_result_of(envelope, Delivery.LOCAL))
    else:
        done(reach)


def _result_of(envelope: Envelope, delivery: Delivery) -> PublishResult:
    return PublishResult(envelope.message_id or "", delivery)
