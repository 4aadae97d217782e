"""The common part of all endpoints: one connection from its first operation to its last.

An endpoint turns requests or frames into operations. The driver passes them to the connection's `Session`, which
decides, and carries out its actions. The driver decides nothing itself, and knows no wire format.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn, assert_never

from heliograph.auth.authenticator import Authenticator, Credentials, Identity
from heliograph.clock import seconds_until
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.emitter import Emitter
from heliograph.cluster.node import Node
from heliograph.cluster.publish_result import PublishResult
from heliograph.cluster.reading import Reading
from heliograph.errors import (
    BadChannel,
    BadCursor,
    BadUserId,
    BusUnavailable,
    ConnectionLimit,
    ErrorCode,
    HeliographError,
    HookRefused,
    HookUnavailable,
    InvalidToken,
    KeysUnavailable,
    TokenNotCurrent,
    Unrecoverable,
    UserBlocked,
)
from heliograph.hooks.user_backend import Renewal, UserBackend
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
    RefreshToken,
    Reject,
    Reply,
)
from heliograph.protocol.budget import REFUSED_BYTES, Intake
from heliograph.protocol.client_info import ClientInfo, info_of
from heliograph.protocol.codes import CloseCode, ErrorNumber, UnsubscribeCode
from heliograph.protocol.command import DisconnectUser, RefreshUser, SubscribeUser, UnsubscribeUser, UserCommand
from heliograph.protocol.decision import Deny, Hook
from heliograph.protocol.events import Event, Refreshed, Subscribed, SubscriptionRefreshed, Unsubscribed
from heliograph.protocol.operations import Connect, Emit, Operation, Publish, RequestId, Rpc, Send
from heliograph.protocol.peer import Caller, Peer
from heliograph.protocol.position import Positions
from heliograph.protocol.session import Session
from heliograph.telemetry import Telemetry
from heliograph.transports.answers import (
    answer_count,
    answer_emit,
    answer_history,
    answer_message,
    answer_presence,
    answer_rpc,
    check_permit,
)
from heliograph.transports.connect_reply import ConnectReply
from heliograph.transports.expiries import SubscriptionExpiries
from heliograph.transports.expiry import Expiry
from heliograph.transports.failed_attempts import TOO_MANY

MOST_UNDER_WAY = 100  # messages of one client that the router has not answered yet
OTHER_USER = "the token is for another user than the URL"

logger = logging.getLogger(__name__)

# A client may invent any number of other close codes.
KNOWN_CODES = frozenset(CloseCode) | frozenset(range(1000, 1016))


@dataclass(frozen=True)
class Routing:
    """Where a client's operations go: messages to the manager, reads and subscriptions, emissions."""

    manager: ConnectionManager
    reading: Reading
    emitter: Emitter


@dataclass(frozen=True)
class Drivers:
    """Make the drivers of a replica's connections. `open_session`: opens the session with an id."""

    open_session: Callable[[str], Session]
    routing: Routing
    authenticator: Authenticator
    node: Node
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
        return Driver(self, encoding, outbox, peer, only_user, tuple(channels), on_failed, subscribes_again)


class Disconnected(Exception):
    """The connection has ended, and why: its endpoint has nothing more to do."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Driver:
    """Carry out the actions of the session of one connection. `Drivers.new` makes it."""

    def __init__(
        self,
        drivers: Drivers,
        encoding: Encoding[F],
        outbox: Outbox[F],
        peer: Peer,
        only_user: str | None,
        channels: tuple[str, ...],
        on_failed: Callable[[], Awaitable[bool]] | None,
        subscribes_again: bool,
    ) -> None:
        self._manager = drivers.routing.manager
        self._reading = drivers.routing.reading
        self._emitter = drivers.routing.emitter
        self._authenticator = drivers.authenticator
        self._node = drivers.node
        self._intake = drivers.intake
        self._telemetry = drivers.telemetry
        self._on_failed = on_failed
        self._only_user = only_user
        self._channels = channels
        self._user_backend = drivers.user_backend
        self._peer = peer
        self._meta: bytes | None = None  # that the backend has attached to the client
        self._session = drivers.open_session(peer.connection)
        self.connection = Connection(
            peer.connection,
            "",
            encoding,
            outbox,
            on_dropped=self._manager.disconnect,
            on_command=self._carry_out,
            on_gap=self._resubscribe if subscribes_again else None,
        )
        self._joining: str | None = None  # the channel that `join` is subscribing to
        self.registered = False  # in the hub and in the directory
        self._ended = False
        self._expiry = Expiry(self.connection, drivers.user_backend, self._renewed)
        self._expiries = SubscriptionExpiries(
            self._subscription_expired,
            drivers.authenticator.subscription_grace_s,
            self._refresh_subscription if drivers.user_backend.has(Hook.SUB_REFRESH) else None,
        )
        self._under_way = 0  # messages that the router has not answered
        self._room: asyncio.Future[None] | None = None  # a caller that waits until there are fewer
        self.refusals = 0  # refusals that the reader has not slowed down for yet
        self._pace = self._intake.new()  # of reading; the user's, once that is known

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

    async def join(self, action: JoinChannel, announce: Callable[[Subscribed], object] | None = None) -> None:
        """Subscribe to one of the channels that `enter` has returned.

        `announce` gets `Subscribed` instead of the client.

        Raises:
            BusUnavailable: not now. A join with `keep` is retried until it succeeds or the connection ends.
            Unrecoverable: it has missed more than is kept, and wants all of it or nothing.
        """
        if not self._session.wants(action.channel):
            return  # the client was told
        self._joining = action.channel
        options = action.options
        self._expiries.set(action.channel, options.expires_at, is_from_hook=options.is_from_hook)
        try:
            joined = await self._reading.subscribe(
                self.connection,
                action.channel,
                action.since,
                replay=action.replay,
                request_id=action.request_id,
                keep=action.keep,
                incomplete=action.incomplete,
                announce=announce,
                options=options,
            )
        finally:
            self._joining = None
        if not joined:
            self._manager.send_event(self.connection, Unsubscribed(channel=action.channel))

    async def join_or_say(self, action: JoinChannel, announce: Callable[[Subscribed], object] | None = None) -> None:
        """Call `join`; tell the client if it cannot subscribe now."""
        try:
            await self.join(action, announce)
        except Unrecoverable as error:
            self._session.not_joined(action.channel)
            number = ErrorNumber.UNRECOVERABLE_POSITION
            self.refuse(Reject(error.code, str(error), action.request_id, number=number))
        except BusUnavailable as error:
            if action.keep:
                text = f"not subscribed to {action.channel!r} yet, trying again: {error}"
            else:
                self._session.not_joined(action.channel)
                self._expiries.forget(action.channel)
                text = f"not subscribed to {action.channel!r}, try again: {error}"
            self.refuse(Reject(error.code, text, action.request_id))

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
        self.refusals += 1
        self._telemetry.frames_refused[refusal.code] += 1
        self._manager.send_error(self.connection, refusal.code, refusal.message, refusal.request_id, refusal.number)
        if refusal.close is not None:
            self.connection.close(refusal.close, refusal.message)
            raise Disconnected(refusal.code, refusal.message)

    def send(self, event: Event) -> None:
        """Send the client an event."""
        self._manager.send_event(self.connection, event)

    def owed_s(self, size: int, frames: int) -> float:
        """Count `size` bytes of the client in so many frames. Return for how long (s) to read nothing more of it.

        Refusals since the last call count too.
        """
        counts = size + REFUSED_BYTES * self.refusals + self._intake.frame_bytes * frames
        self.refusals = 0
        return self._pace.take(counts, time.monotonic())

    @property
    def about(self) -> dict[str, str | None]:
        """Return the fields that a log line has about the connection."""
        return {"user": self.connection.user or None, "connection": self.connection.id}

    def expire_at(self, when: float | None) -> None:
        """Close the connection at `when` (seconds since the epoch; None: never)."""
        self._expiry.set(when)

    def end(self, code: int | None = None) -> None:
        """Forget the connection. May be called more than once.

        `code`: the close code of the other side, if it was not closed here.
        """
        if not self._ended:
            self._ended = True
            self._count_close(self.connection.close_code or code)
        self._expiry.cancel()
        self._expiries.forget_all()
        if self.registered:
            self._manager.disconnect(self.connection)

    def _count_close(self, code: int | None) -> None:
        logger.debug("ended (%s)", code, extra=self.about)
        if code is not None:
            known = int(code) if code in KNOWN_CODES else 0
            self._telemetry.closes[known] = self._telemetry.closes.get(known, 0) + 1

    def _act(self, action: Action) -> Coroutine[Any, Any, None] | None:
        match action:
            case Send() | Publish():  # by far the most frequent
                return self._dispatch(action)
            case Reply(event):
                self._manager.send_event(self.connection, event)
            case LeaveChannel(channel, answer):
                self._expiries.forget(channel)
                self._reading.unsubscribe(self.connection, channel)
                self._manager.send_event(self.connection, answer)
            case Reject(close=CloseCode.BAD_REQUEST) if self._on_failed is not None:
                return self._refuse_unknown(action)
            case Reject():
                self.refuse(action)
            case JoinChannel():
                return self.join_or_say(action)
            case FetchHistory():
                return self._answer(answer_history(self._reading, self.connection, action))
            case Emit():
                return self._answer(answer_emit(self._emitter, self.connection, action))
            case FetchPresence():
                return self._answer(answer_presence(self._reading, self.connection, action))
            case CountMembers():
                return self._answer(answer_count(self._reading, action))
            case Rpc():
                return self._answer(answer_rpc(self._user_backend, self._caller, action))
            case Authenticate():
                return self._authenticate(action)
            case RefreshToken():
                return self._refresh_token(action)
            case CheckPermit():
                return self._check_permit(action)
            case ExtendSubscription(channel, expires_at, request_id):
                self._expiries.set(channel, expires_at)
                refreshed = SubscriptionRefreshed(channel, seconds_until(expires_at), request_id)
                self._manager.send_event(self.connection, refreshed)
            case AskHook():
                return self._ask(action)
            case _:
                assert_never(action)
        return None

    async def _ask(self, action: AskHook) -> None:
        """Ask the user's backend. Later operations of the client wait until this has been awaited."""
        following = action.answered(await self._user_backend.decide(self._caller, action.operation))
        if following is not None and (work := self._act(following)) is not None:
            await work

    async def _refresh_subscription(self, channel: str) -> Renewal | Deny:
        return await self._user_backend.refresh_subscription(self._caller, channel)

    def _renewed(self, renewal: Renewal) -> None:
        self._meta = renewal.meta

    @property
    def _caller(self) -> Caller:
        """What the backend is told of the identified client."""
        return Caller(self._peer, self._session.user or "", self._meta)

    async def _settled(self, actions: Iterable[JoinChannel | Reject | AskHook]) -> list[JoinChannel | Reject]:
        """Return the actions for channels, after all hooks that must be asked have answered."""
        settled: list[JoinChannel | Reject] = []
        for action in actions:
            following: Action | None = action
            if isinstance(action, AskHook):
                following = action.answered(await self._user_backend.decide(self._caller, action.operation))
            if isinstance(following, JoinChannel | Reject):
                settled.append(following)
        return settled

    async def _authenticate(self, action: Authenticate) -> None:
        bad: InvalidToken | HookRefused
        try:
            credentials = Credentials(action.token, action.user, action.ticket)
            connect = self._session.connect
            self._peer = self._user_backend.peer_of(self._peer, connect)
            identity = await self._authenticator.identify(credentials, self._peer, connect)
        except InvalidToken as error:
            bad = error
        except HookRefused as error:
            bad = error
        except UserBlocked as error:
            self._reject(error, CloseCode.FORCED)
        except (BusUnavailable, KeysUnavailable, HookUnavailable) as error:
            self._reject(error, CloseCode.TRY_AGAIN_LATER)
        except BadUserId as error:
            self._reject(error, CloseCode.BAD_REQUEST)
        else:
            await self._let_in(identity)
            return
        await self._count_failure()
        if isinstance(bad, HookRefused):
            self._refuse_for_backend(bad)
            return
        if not isinstance(bad, TokenNotCurrent):
            self._reject(bad, CloseCode.INVALID_TOKEN)
        request_id = self._session.connect.request_id if self._session.has_reply else None
        self.refuse(Reject(bad.code, str(bad), request_id, CloseCode.EXPIRED, ErrorNumber.TOKEN_EXPIRED))

    def _refuse_for_backend(self, error: HookRefused) -> None:
        """Refuse a client as the user's backend said: by a reply, if its format has one and no close was named."""
        close = CloseCode.TRY_AGAIN_LATER if error.code is ErrorCode.UNAVAILABLE else CloseCode.NOT_ALLOWED
        replies = self._session.has_reply and error.close is None
        request_id = self._session.connect.request_id if replies else None
        self.refuse(Reject(error.code, str(error), request_id, error.close or close, error.number))

    async def _refuse_unknown(self, refusal: Reject) -> None:
        """Refuse a client whose first frame is wrong: late, if its address sends such frames again and again."""
        await self._count_failure()
        self.refuse(refusal)

    async def _count_failure(self) -> None:
        """Count a failed attempt to connect. Return when it may be answered.

        Raises:
            Disconnected: there are too many of this address.
        """
        if self._on_failed is not None and not await self._on_failed():
            self._turn_away(CloseCode.TRY_AGAIN_LATER, ErrorCode.RATE_LIMITED, TOO_MANY)

    async def _let_in(self, identity: Identity) -> None:
        self._on_failed = None
        if self._only_user not in (None, identity.user):
            self._turn_away(CloseCode.NOT_ALLOWED, ErrorCode.NOT_ALLOWED, OTHER_USER)
        await self._act_all(await self._register(identity))

    async def _refresh_token(self, action: RefreshToken) -> None:
        """Replace the token with a new one. A bad token changes nothing: the old one stays."""
        try:
            identity = await self._authenticator.identify(Credentials(action.token))
        except (InvalidToken, KeysUnavailable, UserBlocked) as error:
            number = ErrorNumber.TOKEN_EXPIRED if isinstance(error, TokenNotCurrent) else None
            self.refuse(Reject(error.code, f"not refreshed: {error}", action.request_id, number=number))
            return
        if identity.user != self._session.user:
            text = "not refreshed: the token is another user's"
            self.refuse(Reject(ErrorCode.NOT_ALLOWED, text, action.request_id))
            return
        self.expire_at(identity.expires_at)
        self.connection.info = identity.info or self.connection.info
        lost, granted = self._session.renewed(identity.channels)
        refreshed = Refreshed(seconds_until(identity.expires_at), action.request_id, self._session.id)
        self._manager.send_event(self.connection, refreshed)
        await self._act_all([LeaveChannel(channel, Unsubscribed(channel=channel)) for channel in lost])
        await self._act_all(granted)

    async def _check_permit(self, action: CheckPermit) -> None:
        permit = await check_permit(self._authenticator, self.connection, action)
        following = permit if isinstance(permit, Reject) else action.permitted(permit)
        if (work := self._act(following)) is not None:
            await work

    async def _act_all(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if (work := self._act(action)) is not None:
                await work

    async def _register(self, identity: Identity, *, one_request: bool = False) -> list[JoinChannel | Reject]:
        """Register the connection, then greet the client: from here on it misses nothing.

        Return the actions for the channels that it requested.
        """
        if self._node.draining:
            self._turn_away(CloseCode.SHUTDOWN, ErrorCode.UNAVAILABLE, "this replica is shutting down")
        try:
            own, wanted = self._session.identified(
                identity.user, self._channels, identity.channels, only_these=one_request
            )
        except (BadCursor, BadChannel) as error:
            self._reject(error, CloseCode.BAD_REQUEST, self._session.connect.request_id)
        self._meta = identity.meta
        others = await self._settled(wanted)
        refusal = next((each for each in others if isinstance(each, Reject)), None)
        if one_request and refusal is not None:
            self.refuse(replace(refusal, close=CloseCode.BAD_REQUEST))
        self.connection.user = identity.user
        self.connection.info = identity.info
        self.connection.by_client = self._session.connect.by_client
        self._pace = self._intake.of(identity.user, time.monotonic())
        self.connection.outbox.hold()
        try:
            await self._manager.connect(self.connection)
        except ConnectionLimit as error:
            self._telemetry.connections_refused += 1
            self._turn_away(CloseCode.CONNECTION_LIMIT, error.code, str(error))
        self.registered = True
        try:
            self._authenticator.check_not_blocked(identity.user)  # a block may have come meanwhile
        except UserBlocked as error:
            self._reject(error, CloseCode.FORCED)
        logger.debug("connected", extra=self.about)
        if identity.is_from_hook:
            self._expiry.ask_about(self._caller)
        self._expiry.set(identity.expires_at)
        if self._session.has_reply:
            await self._open_with([own, *(each for each in others if isinstance(each, JoinChannel))], identity)
            return [each for each in others if isinstance(each, Reject)]
        positions = Positions()
        if own.since is None and not own.replay:
            begins = await self._reading.listen(self.connection, own.channel)
            if begins is not None:
                positions[own.channel] = begins
        else:
            others.insert(0, own)
        for each in others:
            if isinstance(each, JoinChannel) and each.since is not None:
                positions[each.channel] = each.since
        self.connection.open(self._session.greeting(positions, data=identity.data))
        return others

    async def _open_with(self, joins: list[JoinChannel], identity: Identity) -> None:
        """Subscribe to the channels, and greet the client with all subscriptions in one reply."""
        # Whom a hook let in has no token to renew.
        expires_in = None if identity.is_from_hook else seconds_until(identity.expires_at)

        def open_with(subscriptions: Mapping[str, Subscribed | None]) -> None:
            self.connection.open(
                self._session.greeting({}, subscriptions, expires_in, self._peer.inbox, identity.data)
            )

        reply = ConnectReply(open_with, partial(self._manager.send_event, self.connection), self._session.wants)
        await reply.join_all(joins, self.join_or_say)

    def _resubscribe(self, channel: str) -> None:
        """Take the client off a channel of which publications are lost: it subscribes again from its position."""
        if self._session.must_subscribe_again(channel):
            self._expiries.forget(channel)
            self._reading.unsubscribe(self.connection, channel)
            self._manager.send_event(self.connection, Unsubscribed(channel, code=UnsubscribeCode.GAP))

    def _carry_out(self, command: UserCommand) -> None:
        """Carry out what a server commands for the user."""
        match command:
            case UnsubscribeUser(channel):
                self._unsubscribe_by_server(channel)
            case SubscribeUser():
                self._subscribe_by_server(command)
            case RefreshUser(expire_at):
                self.expire_at(expire_at)
                self._manager.send_event(
                    self.connection, Refreshed(seconds_until(expire_at), session=self._session.id)
                )
            case DisconnectUser(code, reason):
                self.connection.close(code, reason)
            case _:
                assert_never(command)

    def _subscribe_by_server(self, command: SubscribeUser) -> None:
        channel, info, data = command.channel, command.info, command.data
        if (options := self._session.subscribed_by_server(channel)) is None:
            return
        options = replace(
            options,
            info=bytes(info) if info else options.info,
            data=bytes(data) if data else None,
            expires_at=command.expire_at,
        )
        self._expiries.set(channel, command.expire_at)
        self._reading.subscribe_soon(self.connection, channel, command.since, options)

    def _subscription_expired(self, channel: str) -> None:
        self._unsubscribe_by_server(channel, UnsubscribeCode.EXPIRED)

    def _unsubscribe_by_server(self, channel: str, code: UnsubscribeCode = UnsubscribeCode.SERVER) -> None:
        """Take the client off a channel for the server. While it is still joining, `join` tells the client."""
        self._expiries.forget(channel)
        if self._session.unsubscribed_by_server(channel):
            self._reading.unsubscribe(self.connection, channel)
            if channel != self._joining:
                self._manager.send_event(self.connection, Unsubscribed(channel, code=code))

    def _dispatch(self, operation: Send | Publish) -> Coroutine[Any, Any, None] | None:
        """Pass a message to the router. Others may follow before its answer, up to MOST_UNDER_WAY."""
        if self._under_way >= MOST_UNDER_WAY:
            return self._dispatch_later(operation)
        self._under_way += 1
        user, connection = self._session.user, self.connection
        author = None
        if operation.names_client and user is not None:
            author = ClientInfo(connection.id, user, info_of(connection.info))
        self._manager.dispatch(operation, sender=user, author=author, done=partial(self._dispatched, operation))
        return None

    async def _dispatch_later(self, operation: Send | Publish) -> None:
        while self._under_way >= MOST_UNDER_WAY:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self._dispatch(operation)

    def _dispatched(self, operation: Send | Publish, result: PublishResult | HeliographError) -> None:
        """Send the router's answer to the client."""
        self._under_way -= 1
        if self._room is not None:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None
        self._send_answer(answer_message(operation, result))
        if isinstance(result, HeliographError) and result.code is ErrorCode.INTERNAL:
            self.connection.close(CloseCode.INTERNAL_ERROR, "internal error")

    async def _answer(self, work: Coroutine[Any, Any, Event | Reject]) -> None:
        """Send what the work returns."""
        self._send_answer(await work)

    def _send_answer(self, answer: Event | Reject) -> None:
        if isinstance(answer, Reject):
            self.refuse(answer)
        else:
            self._manager.send_event(self.connection, answer)

    def _reject(self, error: HeliographError, close: CloseCode, request_id: RequestId | None = None) -> NoReturn:
        """Refuse the client: say why, and close."""
        self.refuse(Reject(error.code, str(error), request_id, close))
        raise Disconnected(error.code, str(error))

    def _turn_away(self, close: CloseCode, code: ErrorCode, message: str) -> NoReturn:
        """Close the connection without an error before it."""
        self.connection.close(close, message)
        raise Disconnected(code, message)
