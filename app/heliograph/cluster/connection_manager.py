"""The router: the only place that decides where a message goes.

Kept (the default): log first. One script gives the message its position, keeps it and publishes it; only what the log
holds is delivered. Ephemeral: local first. Connections here get it at once, the others over the bus.
"""

import logging
from functools import partial

import msgspec

from heliograph.callbacks import await_callback
from heliograph.cluster.admission import Admission
from heliograph.cluster.client_writes import ClientWrites
from heliograph.cluster.directory import Directory
from heliograph.cluster.following import Following
from heliograph.cluster.publish_result import OnPublished, PublishResult
from heliograph.cluster.remote_delivery import RemoteDelivery
from heliograph.cluster.stamp import Stamp
from heliograph.errors import (
    BadData,
    BusUnavailable,
    ErrorCode,
    HeliographError,
    OverBudget,
)
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.ports import AppendResult, Bus, Draft, Log
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.events import Delivery, Error, Event
from heliograph.protocol.identity import check_user_id, personal_channel, user_of
from heliograph.protocol.kinds.registry import kind_of
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.operations import Publish, RequestId, Send

logger = logging.getLogger(__name__)


class ConnectionManager:
    """Route messages to users and channels on any replica."""

    def __init__(
        self,
        hub: Hub,
        bus: Bus,
        directory: Directory,
        log: Log,
        following: Following,
        remote: RemoteDelivery,
        admission: Admission,
        writes: ClientWrites,
        namespaces: Namespaces,
        stamp: Stamp,
    ) -> None:
        self._hub = hub
        self._bus = bus
        self._directory = directory
        self._log = log
        self._following = following
        self._remote = remote
        self._admission = admission
        self._writes = writes
        self._namespaces = namespaces
        self._stamp = stamp

    # -- connections

    async def connect(self, connection: Connection) -> None:
        """Register the connection: see `Admission.connect`.

        Raises:
            ConnectionLimit: the user or this replica has too many connections; this one is not registered.
        """
        await self._admission.connect(connection)

    def disconnect(self, connection: Connection) -> None:
        """Forget the connection. May be called more than once."""
        self._admission.disconnect(connection)

    def send_event(self, connection: Connection, event: Event) -> None:
        """Send an event to one connection. A connection that does not read is closed."""
        self._hub.send(connection, event)

    def send_error(
        self,
        connection: Connection,
        code: ErrorCode,
        message: str,
        request_id: RequestId | None = None,
        number: int | None = None,
    ) -> None:
        """Tell the client of one connection what was wrong."""
        error = Error(code, message, self._stamp.now(), request_id, number)
        self.send_event(connection, error)

    # -- messages

    def dispatch(
        self, operation: Send | Publish, *, sender: str | None, done: OnPublished, author: ClientInfo | None = None
    ) -> None:
        """Route a client's message. No task, no wait: `done` is called in the iteration in which Redis answers.

        It gets the result or the error (OverBudget, StorageFull, and those of `publish` and `send_message`). Messages
        of one client keep their order. It may be called before this returns. `author`: see `Publication`.
        """
        if isinstance(operation, Send):
            channel, user_id = personal_channel(operation.to), operation.to
        else:
            channel, user_id = operation.channel, None  # clients cannot publish on personal channels
        key = operation.idempotency_key
        self._route(channel, user_id, operation.data, sender, operation.ephemeral, key, done, sender, author=author)

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
            BadChannel, BadUserId, BadData: an argument is not valid.
            BusUnavailable: it was not kept, so nobody gets it (after a time-out it may have been).
        """
        return await await_callback(
            lambda done: self.submit(
                channel, _raw(message), done, sender=sender, idempotency_key=idempotency_key, ephemeral=ephemeral
            )
        )

    def submit(
        self,
        channel: str,
        data: msgspec.Raw,
        done: OnPublished,
        *,
        sender: str | None = None,
        idempotency_key: str | None = None,
        ephemeral: bool = False,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Publish as `publish` does, without a wait: `done` is called in the iteration in which Redis answers.

        It gets the result or the error. It may be called before this returns. `tags`: see `Publication`.

        Raises:
            BadChannel, BadUserId: it cannot be published.
            BadData: it is `ephemeral`, and for a channel with a state, which must be kept.
        """
        if (user_id := user_of(self._namespaces.check(channel))) is not None:
            check_user_id(user_id)
        if ephemeral and kind_of(self._namespaces.of(channel)).keeps_state:
            raise BadData(f"what is published on {channel!r} updates its state, which is always kept")
        self._route(channel, user_id, data, sender, ephemeral, idempotency_key, done, tags=tags)

    async def remove_history(self, channel: str) -> None:
        """Forget what is kept of the channel: see `Log.remove`. Subscribers stay, and notice nothing.

        Raises:
            BadChannel: the name is not valid.
            BusUnavailable: as for `Log.remove`.
        """
        await self._log.remove(self._namespaces.check(channel))

    async def send_message(
        self,
        user_id: str,
        message: object,
        via_pubsub: bool = False,
        *,
        sender: str | None = None,
    ) -> PublishResult:
        """Send an ephemeral message (anything that encodes to JSON) to every connection of the user.

        Clients' messages come by `dispatch`. This name is a requirement, for programs that can await.

        Connections here get it at once, without waiting for Redis. The other replicas get it over the bus, unless the
        user is known to be only here. At most once: a message that is not delivered now is not kept.

        `via_pubsub=True`: the message came over the bus, so it is delivered here and goes no further.

        Raises:
            BadUserId: `user_id` is not valid.
            BusUnavailable: the user is not here, and the other replicas cannot be reached: nothing was delivered.
        """
        channel = personal_channel(check_user_id(user_id))
        if via_pubsub:
            envelope = self._envelope(channel, user_id, _raw(message), sender)
            return _result_of(envelope, Delivery.LOCAL if self._remote.deliver(envelope) else Delivery.OFFLINE)
        return await await_callback(
            lambda done: self._route(channel, user_id, _raw(message), sender, True, None, done)
        )

    def handle_pubsub_message(self, envelope: Envelope) -> int:
        """Deliver an envelope from the bus. Return how many connections accepted it."""
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
        tags: dict[str, str] | None = None,
        author: ClientInfo | None = None,
    ) -> None:
        options = self._namespaces.of(channel)
        is_ephemeral = ephemeral or options.ephemeral
        charge = None if client is None else self._writes.spend(client, len(data), channel, kept=not is_ephemeral)
        if isinstance(charge, HeliographError):
            done(charge)
            return
        if is_ephemeral:
            self._relay(self._envelope(channel, user_id, data, sender, tags, author), done)
            return
        try:
            update = kind_of(options).check(data)
        except BadData as error:
            done(error)
            return
        draft = Draft(
            channel=channel,
            data=data,
            message_id=self._stamp.next_id(),
            sent_at=self._stamp.now(),
            sender=sender,
            origin=self._stamp.name,
            node_id=self._stamp.node_id,
            update=update,
            idempotency_key=idempotency_key,
            client=client,
            charge=charge,
            tags=tags,
            author=author,
        )
        self._log.submit(draft, options, self._directory.lease, partial(self._kept, draft, done))

    def _kept(self, draft: Draft, done: OnPublished, answer: AppendResult | BusUnavailable | OverBudget) -> None:
        """Log first: only what the log holds is delivered."""
        try:
            result: PublishResult | HeliographError = self._publish_result(draft, answer)
        except Exception:
            logger.exception("routing message %s failed with an unexpected error", draft.message_id)
            result = HeliographError("internal error")
        done(result)

    def _publish_result(
        self, draft: Draft, answer: AppendResult | BusUnavailable | OverBudget
    ) -> PublishResult | BusUnavailable | OverBudget:
        channel = draft.channel
        if isinstance(answer, OverBudget):
            self._writes.refused(draft.client or "", channel, answer)
            self._hub.trace.refused(draft, str(answer))
            return answer
        if isinstance(answer, BusUnavailable):
            self._bus.stats.publish_errors += 1
            self._following.doubt(channel)  # it may be kept although the answer was lost, and others may not know
            self._hub.trace.refused(draft, str(answer))
            return answer
        self._bus.stats.published += 1
        delivery = answer.delivery
        self._hub.trace.accepted(draft, answer)
        if not answer.published:
            # No other replica holds the user, so it was not published: deliver it here.
            if answer.message_id == draft.message_id:
                self._following.receive(draft.publication(answer.data, answer.position))
            else:
                self._following.doubt(channel)  # a repetition: the answer to the first attempt may have been lost
            delivery = Delivery.LOCAL if self._hub.subscribers(channel) else Delivery.STORED
        return PublishResult(answer.message_id, delivery, answer.position)

    def _relay(self, envelope: Envelope, done: OnPublished) -> None:
        """Local first: the connections here have it before it goes over the bus."""
        taken = self._remote.deliver(envelope)
        self._hub.trace.relayed(envelope, taken)
        if envelope.target_user_id is None:
            self._bus.relay_on(envelope, partial(_announced, envelope, done))
        else:
            self._bus.relay(envelope, self._directory.lease, partial(_relayed, envelope, taken, done))

    def _envelope(
        self,
        channel: str,
        user_id: str | None,
        data: msgspec.Raw,
        sender: str | None,
        tags: dict[str, str] | None = None,
        author: ClientInfo | None = None,
    ) -> Envelope:
        return Envelope(
            message=data,
            target_user_id=user_id,
            channel=channel if user_id is None else None,
            message_id=self._stamp.next_id(),
            sent_at=self._stamp.now(),
            sender=sender,
            origin=self._stamp.name,
            tags=tags,
            author=author,
            node_id=self._stamp.node_id,
        )


def _raw(message: object) -> msgspec.Raw:
    return message if isinstance(message, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(message))


def _announced(envelope: Envelope, done: OnPublished, answer: Delivery | BusUnavailable | None) -> None:
    """Tell the sender the result of an ephemeral publication on a channel."""
    done(answer if isinstance(answer, BusUnavailable) else _result_of(envelope, Delivery.REMOTE))


def _relayed(envelope: Envelope, taken: int, done: OnPublished, answer: Delivery | BusUnavailable | None) -> None:
    """Tell the sender the result of an ephemeral message; `taken` connections here have it already."""
    if answer is Delivery.REMOTE:
        done(_result_of(envelope, answer))
    elif not isinstance(answer, BusUnavailable):
        # No other replica. For connections here the hub is more accurate than the directory, which lags behind.
        done(_result_of(envelope, Delivery.LOCAL if taken else Delivery.OFFLINE))
    elif taken:
        logger.warning(
            "message %s was delivered on this replica only; publishing it to others failed", envelope.message_id
        )
        done(_result_of(envelope, Delivery.LOCAL))
    else:
        done(answer)


def _result_of(envelope: Envelope, delivery: Delivery) -> PublishResult:
    return PublishResult(envelope.message_id or "", delivery)
