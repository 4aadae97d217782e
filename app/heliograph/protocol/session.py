"""The rules of one connection: typed operations in, what to do about them out. No I/O, no wire format, no time.

The driver (a transport) reads frames, has its codec make operations of them, gives those to `Session.receive` and
carries out the action it gets back. A second transport or codec needs a driver, never a second set of rules.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from msgspec import UNSET, UnsetType

from heliograph.errors import BadChannel, BadCursor, BadUserId, ErrorCode
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Connected, Event, Pong, Unsubscribed
from heliograph.protocol.grants import NO_GRANTS, Grants
from heliograph.protocol.identity import check_channel, check_user_id, personal_channel, user_of
from heliograph.protocol.operations import (
    Connect,
    Emit,
    Operation,
    Ping,
    Publish,
    ReadHistory,
    ReadPresence,
    Refresh,
    RequestId,
    Send,
    Subscribe,
    Unsubscribe,
)
from heliograph.protocol.policy import Policy
from heliograph.protocol.position import Position, check_cursor_size, parse_cursor


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Find out whether these credentials are good, then call `Session.identified`, or close."""

    token: str | None
    user: str | None
    ticket: str | None = None


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """Find out whether this token is good and the same user's, then call `Session.renewed`."""

    token: str
    request_id: RequestId | None


@dataclass(frozen=True, slots=True)
class JoinChannel:
    """Subscribe to the channel from this position on.

    `keep`: the client has asked for it with its connection and has no way to ask again, so it is tried until it
    succeeds.
    """

    channel: str
    since: Position | None
    replay: bool
    request_id: RequestId | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class LeaveChannel:
    """Take the connection off the channel, then tell the client."""

    channel: str
    answer: Unsubscribed


@dataclass(frozen=True, slots=True)
class FetchHistory:
    """Read what is kept of the channel and answer with that."""

    operation: ReadHistory
    since: Position | None


@dataclass(frozen=True, slots=True)
class FetchPresence:
    """Find out who is on the channel and answer with that."""

    channel: str
    request_id: RequestId | None


@dataclass(frozen=True, slots=True)
class Reply:
    """Tell the client."""

    event: Event


@dataclass(frozen=True, slots=True)
class Reject:
    """Tell the client what was wrong; the connection stays open unless there is a close code."""

    code: ErrorCode
    message: str
    request_id: RequestId | None = None
    close: CloseCode | None = None


# A message goes to the router as it is, and is answered with what the router says of it.
Action = (
    Send
    | Publish
    | Emit
    | Authenticate
    | RefreshToken
    | JoinChannel
    | LeaveChannel
    | FetchHistory
    | FetchPresence
    | Reply
    | Reject
)


class Session:
    """The protocol state of one connection. What its client may do, the `policy` says."""

    def __init__(
        self,
        session_id: str,
        replica: str,
        *,
        policy: Policy,
        ping_interval_s: int,
        max_channels: int,
    ) -> None:
        self.id = session_id
        self.user: str | None = None
        self._replica = replica
        self._policy = policy
        self._ping_interval_s = ping_interval_s
        self._max_channels = max_channels
        self._is_connecting = False  # the driver is finding out who this is
        self._is_known = False  # before that only `connect` is accepted
        self._connect = Connect()
        self._grants = NO_GRANTS
        self._sends_freely = policy.anybody_sends
        self._channels: set[str] = set()

    @property
    def connect_id(self) -> RequestId | None:
        """The `id` of the client's `connect`."""
        return self._connect.id

    def receive(self, operation: Operation) -> Action:
        """Decide on one operation of the client."""
        if not self._is_known:
            if isinstance(operation, Connect):
                return self._begin(operation)
            if isinstance(operation, Ping):
                return Reply(Pong(id=echo(operation.id)))
            text = "the first frame must be 'connect'"
            return Reject(ErrorCode.BAD_REQUEST, text, operation.id, close=CloseCode.BAD_REQUEST)
        try:
            return self._decide(operation)
        except (BadChannel, BadCursor) as error:
            return Reject(error.code, str(error), operation.id)

    def identified(
        self, user: str, channels: Iterable[str] = (), grants: Grants = NO_GRANTS, *, only_these: bool = False
    ) -> tuple[JoinChannel, list[JoinChannel | Reject]]:
        """The client is `user`; returns how it comes to its own channel, and to the others it listens to at once.

        Those are the ones that its cursor names (as far as they are its to read), `channels`, and what its token
        subscribes it to; or, `only_these`, all but the first.

        Raises:
            BadCursor, BadChannel: its cursor is none; it is to be closed.
        """
        positions = parse_cursor(self._connect.cursor or "", self._max_channels)
        for channel in positions:
            check_channel(channel)
        self.user = user
        self._grants = grants
        self._is_known = True
        own = personal_channel(user)
        named = dict.fromkeys([*channels, *grants.at_once])
        wanted = named if only_these else {**dict.fromkeys(positions), **named}
        others = []
        for channel in wanted:
            if channel != own:
                try:
                    action = self._subscribe(Subscribe(channel), positions.position_in(channel), keep=True)
                except BadChannel as error:
                    action = Reject(error.code, str(error))
                if isinstance(action, JoinChannel) or channel in named:
                    others.append(action)
        return JoinChannel(own, positions.position_in(own), self._connect.replay, keep=True), others

    def renewed(self, grants: Grants) -> tuple[list[str], list[JoinChannel | Reject]]:
        """Another token counts from now on: the channels that are to be left, and those that it brings."""
        before, self._grants = self._grants, grants
        lost = [channel for channel in self._channels if not self._may_read(channel)]
        self._channels.difference_update(lost)
        new = [each for each in grants.at_once if each not in before.at_once and each not in self._channels]
        return lost, [self._subscribe(Subscribe(channel), None, keep=True) for channel in new]

    def greeting(self, cursor: str) -> Connected:
        """What opens the conversation. `cursor`: where the client stands, in all channels of which that is known."""
        return Connected(
            user=self.user or "",
            session=self.id,
            replica=self._replica,
            cursor=cursor,
            ping=self._ping_interval_s,
            id=echo(self._connect.id),
        )

    def _begin(self, operation: Connect) -> Action:
        if self._is_connecting:
            return _said_already(operation)
        # What else is wrong with a cursor is found out when the client is known: nobody else may have it read.
        try:
            check_cursor_size(operation.cursor or "", self._max_channels)
        except BadCursor as error:
            return Reject(error.code, str(error), operation.id, close=CloseCode.BAD_REQUEST)
        self._is_connecting = True
        self._connect = operation
        return Authenticate(operation.token, operation.user, operation.ticket)

    def _decide(self, operation: Operation) -> Action:
        match operation:
            case Send():  # by far the most, with the next
                try:
                    check_user_id(operation.to)
                except BadUserId as error:
                    return Reject(error.code, f"'to': {error}", operation.id)
                if not self._sends_freely and not self._policy.may_send(self._grants, operation.to):
                    return _not_allowed(f"you may not send to {operation.to!r}", operation.id)
                return operation
            case Publish():
                if not self._policy.may_publish(self._grants, check_channel(operation.channel)):
                    return _not_allowed(f"clients may not publish on {operation.channel!r}", operation.id)
                return operation
            case Ping():
                return Reply(Pong(id=echo(operation.id)))
            case Connect():
                return _said_already(operation)
            case Refresh(token=token):
                if self._policy.open_mode:
                    return Reject(ErrorCode.BAD_REQUEST, "there is nothing to refresh in open mode", operation.id)
                return RefreshToken(token, operation.id)
            case Subscribe(channel=channel, cursor=cursor):
                return self._subscribe(operation, self._position(cursor, channel))
            case Unsubscribe(channel=channel):
                if channel not in self._channels:
                    return Reject(ErrorCode.BAD_REQUEST, f"not subscribed to {channel!r}", operation.id)
                self._channels.discard(channel)
                return LeaveChannel(channel, Unsubscribed(channel=channel, id=echo(operation.id)))
            case ReadHistory(channel=channel, cursor=cursor):
                if not self._may_read(check_channel(channel)):
                    return _not_allowed(f"{channel!r} is not yours to read", operation.id)
                return FetchHistory(operation, self._position(cursor, channel))
            case ReadPresence(channel=channel):
                if not self._policy.may_see_presence(self.user, self._grants, check_channel(channel)):
                    return _not_allowed(f"who is on {channel!r} is not told", operation.id)
                return FetchPresence(channel, operation.id)
            case Emit(event=event):
                if not self._policy.may_emit(event):
                    return _not_allowed(f"clients may not emit {event!r} (HELIOGRAPH_EMIT__EVENTS)", operation.id)
                return operation
            case _:
                assert_never(operation)

    def _subscribe(self, operation: Subscribe, since: Position | None, *, keep: bool = False) -> JoinChannel | Reject:
        channel = check_channel(operation.channel)
        if not self._may_read(channel):
            return _not_allowed(f"{channel!r} is not yours to subscribe to", operation.id)
        if channel in self._channels or user_of(channel) is not None:
            return Reject(ErrorCode.BAD_REQUEST, f"subscribed to {channel!r} already", operation.id)
        if len(self._channels) >= self._max_channels:
            text = f"a connection may listen to {self._max_channels} channels"
            return Reject(ErrorCode.CHANNEL_LIMIT, text, operation.id)
        self._channels.add(channel)
        return JoinChannel(channel, since, operation.replay, operation.id, keep)

    def not_joined(self, channel: str) -> None:
        """Subscribing failed: the client may try again."""
        self._channels.discard(channel)

    def wants(self, channel: str) -> bool:
        """False if the server has taken the client off the channel since it was to be subscribed to it."""
        return channel in self._channels or user_of(channel) == self.user

    def unsubscribed_by_server(self, channel: str) -> bool:
        """The server takes the client off the channel; False if it was not on it (nor about to be)."""
        was_on = channel in self._channels
        self._channels.discard(channel)
        return was_on

    def _position(self, cursor: str | None, channel: str) -> Position | None:
        """Where a cursor stands in this channel.

        Raises:
            BadCursor: no replica has given it.
        """
        if not cursor:
            return None
        return parse_cursor(cursor, self._max_channels).position_in(channel)

    def _may_read(self, channel: str) -> bool:
        return self._policy.may_read(self.user, self._grants, channel)


def _said_already(operation: Connect) -> Reject:
    return Reject(ErrorCode.BAD_REQUEST, "this connection has said 'connect' already", operation.id)


def _not_allowed(message: str, request_id: RequestId | None) -> Reject:
    return Reject(ErrorCode.NOT_ALLOWED, message, request_id)


def echo(request_id: RequestId | None) -> RequestId | UnsetType:
    """A request's `id` as its answer carries it: left out where the client gave none."""
    return UNSET if request_id is None else request_id
