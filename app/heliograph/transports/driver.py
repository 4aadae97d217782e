"""The common part of all endpoints: one connection from its first operation to its last.

An endpoint turns requests or frames into operations. The driver passes them to the connection's `Session`, which
decides, and has its actions carried out. The driver decides nothing itself, and knows no wire format.

A client is let in by `authentication`, `registration` and `greeting`. Its messages take their way through `dispatch`,
its channels are in `client_subscriptions`, and what it reads is answered by `answers`. `expiry`,
`subscription_expiries` and `token_refresh` end and renew what a token, or the user's backend, gives it. All of them
talk to their `RemoteClient`.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from heliograph.auth.authenticator import Authenticator, Identity
from heliograph.clock import seconds_until
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.emitter import Emitter
from heliograph.cluster.reading import Reading
from heliograph.cluster.receipts import ReceiptWriter
from heliograph.hooks.user_backend import UserBackend
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, F
from heliograph.hub.outbox import Outbox
from heliograph.protocol.actions import (
    Action,
    AskHook,
    Authenticate,
    CheckPermit,
    CountMembers,
    ExtendSubscription,
    FetchHistory,
    FetchPresence,
    JoinChannel,
    LeaveChannel,
    NoteReceived,
    RefreshToken,
    Reject,
    Reply,
)
from heliograph.protocol.budget import Intake
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.command import DisconnectUser, RefreshUser, SubscribeUser, UnsubscribeUser, UserCommand
from heliograph.protocol.events import Event, Refreshed
from heliograph.protocol.operations import Connect, Emit, Operation, Publish, Rpc, Send
from heliograph.protocol.peer import Peer
from heliograph.protocol.session import Session
from heliograph.telemetry import Telemetry
from heliograph.transports.answers import (
    answer_count,
    answer_emit,
    answer_history,
    answer_presence,
    check_permit,
)
from heliograph.transports.authentication import Authentication
from heliograph.transports.client_hooks import ClientHooks
from heliograph.transports.client_subscriptions import ClientSubscriptions
from heliograph.transports.dispatch import Dispatch
from heliograph.transports.expiry import Expiry
from heliograph.transports.greeting import greet, greet_in_reply
from heliograph.transports.receiving import note_received
from heliograph.transports.registration import Registrar
from heliograph.transports.remote_client import RemoteClient
from heliograph.transports.token_refresh import refresh_token


@dataclass(frozen=True)
class Routing:
    """Where a client's operations go: messages to the manager, reads and subscriptions, emissions, receipts."""

    manager: ConnectionManager
    reading: Reading
    emitter: Emitter
    receipts: ReceiptWriter


class Arrival:
    """What an endpoint knows of a client before its first operation: see `Drivers.new`."""

    def __init__(
        self,
        peer: Peer,
        only_user: str | None,
        channels: tuple[str, ...],
        on_failed: Callable[[], Awaitable[bool]] | None,
        subscribes_again: bool,
    ) -> None:
        self.peer = peer
        self.only_user = only_user
        self.channels = channels
        self.on_failed = on_failed
        self.subscribes_again = subscribes_again


@dataclass(frozen=True)
class Drivers:
    """Make the drivers of a replica's connections. `open_session`: opens the session with an id."""

    open_session: Callable[[str], Session]
    routing: Routing
    authenticator: Authenticator
    registrar: Registrar
    intake: Intake  # the pace at which the frames of each user are read
    telemetry: Telemetry
    user_backend: UserBackend

    def new(
        self,
        encoding: Encoding[F],
        outbox: Outbox[F],
        *,
        peer: Peer,
        only_user: str | None = None,
        channels: Iterable[str] = (),
        on_failed: Callable[[], Awaitable[bool]] | None = None,
        subscribes_again: bool = False,
    ) -> "Driver":
        """Return the driver of a new connection.

        `peer`: what is known of the client; its connection has that id. `only_user`: the user in the URL; a client
        with another identity is refused. `channels`: subscribed as soon as the client is identified. `on_failed`:
        called after bad credentials, before the answer; False: answer with 'come back later'. `subscribes_again`:
        after a gap, the client must subscribe again.
        """
        arrival = Arrival(peer, only_user, tuple(channels), on_failed, subscribes_again)
        return Driver(self, encoding, outbox, arrival)


class Driver:
    """Carry out the actions of the session of one connection. `Drivers.new` makes it."""

    def __init__(self, drivers: Drivers, encoding: Encoding[F], outbox: Outbox[F], arrival: Arrival) -> None:
        routing, peer = drivers.routing, arrival.peer
        self._reading = routing.reading
        self._emitter = routing.emitter
        self._receipts = routing.receipts
        self._manager = routing.manager
        self._authenticator = drivers.authenticator
        self._registrar = drivers.registrar
        self._channels = arrival.channels
        self._ended = False
        self._session = drivers.open_session(peer.connection)
        self.connection = Connection(
            peer.connection,
            "",
            encoding,
            outbox,
            transport=peer.transport,
            protocol=peer.codec,
            on_dropped=routing.manager.disconnect,
            on_command=self._on_command,
            on_gap=self._on_gap if arrival.subscribes_again else None,
        )
        client = RemoteClient(self._session, self.connection, routing.manager, drivers.intake, drivers.telemetry)
        hooks = ClientHooks(drivers.user_backend, self._session, peer)
        grace_s = drivers.authenticator.subscription_grace_s
        self._client = client
        self._hooks = hooks
        self._authentication = Authentication(
            client, hooks, drivers.authenticator, arrival.only_user, arrival.on_failed
        )
        self._subscriptions = ClientSubscriptions(client, routing.reading, hooks, grace_s)
        self._dispatch = Dispatch(client, routing.manager)
        self._expiry = Expiry(self.connection, drivers.user_backend, hooks.renewed)

    @property
    def about(self) -> dict[str, str | None]:
        """Return the fields that a log line has about the connection."""
        return self._client.about

    @property
    def registered(self) -> bool:
        """True once the connection is in the hub and in the directory."""
        return self._client.registered

    @property
    def refusals(self) -> int:
        """Refusals that the reader has not slowed down for yet: see `owed_s`."""
        return self._client.refusals

    # -- what an endpoint has the driver do

    async def enter(self, connect: Connect, identity: Identity) -> Sequence[JoinChannel]:
        """Admit an identified client that says everything with one request.

        It gets its own channel and `channels`, and no others. Each returned channel must still be joined (`join`).

        Raises:
            Disconnected: it is refused, or may not subscribe to one of the channels.
        """
        action = self._session.receive(connect)
        if isinstance(action, Reject):
            self.refuse(action)
        joins = []
        for channel in await self._register(identity, one_request=True):
            assert isinstance(channel, JoinChannel)  # noqa: S101 - what is refused refuses the client
            joins.append(channel)
        return joins

    async def join(self, action: JoinChannel) -> None:
        """Subscribe to one of the channels that `enter` has returned: see `ClientSubscriptions.join`."""
        await self._subscriptions.join(action)

    async def join_or_say(self, action: JoinChannel) -> None:
        """Call `join`; tell the client if it cannot subscribe now."""
        await self._subscriptions.join_or_say(action)

    def begin(self, operation: Operation) -> Coroutine[Any, Any, None] | None:
        """Carry out one operation of the client. Return the part that takes time; await it before the next.

        Raises:
            Disconnected: the connection was closed because of it. The coroutine may raise it too.
        """
        return self._act(self._session.receive(operation))

    def begin_as(self, connect: Connect, identity: Identity) -> Coroutine[Any, Any, None] | None:
        """Carry out the `connect` of an identified client; otherwise like `begin`."""
        action = self._session.receive(connect)
        return self._let_in(identity) if isinstance(action, Authenticate) else self._act(action)

    def refuse(self, refusal: Reject) -> None:
        """Tell the client what was wrong.

        Raises:
            Disconnected: the refusal closes the connection.
        """
        self._client.refuse(refusal)

    def send(self, event: Event) -> None:
        """Send the client an event."""
        self._client.send(event)

    def owed_s(self, size: int, frames: int) -> float:
        """Count `size` bytes of the client in so many frames: see `RemoteClient.owed_s`."""
        return self._client.owed_s(size, frames)

    def expire_at(self, when: float | None) -> None:
        """Close the connection at `when` (seconds since the epoch; None: never)."""
        self._expiry.set(when)

    def end(self, code: int | None = None) -> None:
        """Forget the connection. May be called more than once.

        `code`: the close code of the other side, if it was not closed here.
        """
        if not self._ended:
            self._ended = True
            self._client.ended(code)
        self._expiry.cancel()
        self._subscriptions.end()
        if self._client.registered:
            self._manager.disconnect(self.connection)

    # -- the actions of the session

    def _act(self, action: Action) -> Coroutine[Any, Any, None] | None:
        match action:  # each case that does not match costs time, so the frequent ones come first
            case Send() | Publish():
                return self._dispatch.message(action)
            case Authenticate():  # with the next, of all clients at once after a cut
                return self._authenticate(action)
            case JoinChannel():
                return self._subscriptions.join_or_say(action)
            case Reply(event):
                self._client.send(event)
            case LeaveChannel():
                self._subscriptions.leave(action)
            case Reject(close=CloseCode.BAD_REQUEST) if self._authentication.counts_failures:
                return self._authentication.refuse_unknown(action)
            case Reject():
                self._client.refuse(action)
            case FetchHistory():
                return self._answer(answer_history(self._reading, self.connection, action))
            case Emit():
                return self._answer(answer_emit(self._emitter, self.connection, action))
            case FetchPresence():
                return self._answer(answer_presence(self._reading, self.connection, action))
            case CountMembers():
                return self._answer(answer_count(self._reading, action))
            case Rpc():
                return self._answer(self._hooks.call(action))
            case RefreshToken():
                return self._refresh_token(action)
            case CheckPermit():
                return self._check_permit(action)
            case ExtendSubscription():
                self._subscriptions.extend(action)
            case NoteReceived():
                self._client.answer(note_received(self._receipts, self._reading, self.connection, action))
            case AskHook():
                return self._ask(action)
            case _:
                assert_never(action)
        return None

    async def _act_all(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if (work := self._act(action)) is not None:
                await work

    async def _answer(self, work: Coroutine[Any, Any, Event | Reject]) -> None:
        """Send what the work returns."""
        self._client.answer(await work)

    def _authenticate(self, action: Authenticate) -> Coroutine[Any, Any, None]:
        identity = self._authentication.identify_now(action)
        return self._identify(action) if identity is None else self._let_in(identity)

    async def _identify(self, action: Authenticate) -> None:
        await self._let_in(await self._authentication.identify(action))

    async def _let_in(self, identity: Identity) -> None:
        self._authentication.accept(identity)
        await self._act_all(await self._register(identity))

    async def _register(self, identity: Identity, *, one_request: bool = False) -> list[JoinChannel | Reject]:
        """Register the connection, and greet the client. Return the actions that follow."""
        client = self._client
        own, others = await self._registrar.register(
            client, self._hooks, identity, self._channels, one_request=one_request
        )
        if identity.is_from_hook:
            self._expiry.ask_about(self._hooks.caller)
        self._expiry.set(identity.expires_at)
        if not self._session.has_reply:
            return await greet(client, self._reading, own, others, identity.data)
        joins = [own, *(each for each in others if isinstance(each, JoinChannel))]
        await greet_in_reply(client, self._subscriptions, joins, identity, self._hooks.peer.inbox)
        return [each for each in others if isinstance(each, Reject)]

    async def _refresh_token(self, action: RefreshToken) -> None:
        await self._act_all(await refresh_token(self._client, self._authenticator, self._expiry, action))

    async def _check_permit(self, action: CheckPermit) -> None:
        permit = await check_permit(self._authenticator, self.connection, action)
        following = permit if isinstance(permit, Reject) else action.permitted(permit)
        if (work := self._act(following)) is not None:
            await work

    async def _ask(self, action: AskHook) -> None:
        following = await self._hooks.ask(action)
        if following is not None and (work := self._act(following)) is not None:
            await work

    # -- what the cluster has the connection do

    def _on_gap(self, channel: str) -> None:
        self._subscriptions.resubscribe(channel)

    def _on_command(self, command: UserCommand) -> None:
        """Carry out what a server commands for the user."""
        match command:
            case UnsubscribeUser(channel):
                self._subscriptions.unsubscribe_by_server(channel)
            case SubscribeUser():
                self._subscriptions.subscribe_by_server(command)
            case RefreshUser(expire_at):
                self.expire_at(expire_at)
                self._client.send(Refreshed(seconds_until(expire_at), session=self._session.id))
            case DisconnectUser(code, reason):
                self.connection.close(code, reason)
            case _:
                assert_never(command)
