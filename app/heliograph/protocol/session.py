"""The rules of one connection: it takes typed operations and returns actions. No I/O, no wire format, no time.

The driver (of a transport) reads frames, lets its codec decode them, passes the operations to `Session.receive` and
carries out the action that it returns. Another transport or codec needs a driver, never a second set of rules.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final, assert_never

import msgspec

from heliograph.errors import BadChannel, BadCursor, BadDevice, BadUserId, ErrorCode
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
from heliograph.protocol.codes import CloseCode, ErrorNumber
from heliograph.protocol.decision import ALLOW, Allow, Ask, Deny, Grant, Verdict
from heliograph.protocol.events import Connected, Pong, Subscribed, Unsubscribed
from heliograph.protocol.grants import NO_GRANTS, Grants, Permit
from heliograph.protocol.identity import check_channel, check_device, check_user_id, personal_channel, user_of
from heliograph.protocol.operations import (
    Connect,
    CountPresence,
    Emit,
    Malformed,
    Operation,
    Ping,
    PingAnswered,
    Publish,
    ReadHistory,
    ReadPresence,
    Received,
    Refresh,
    RefreshSubscription,
    RequestId,
    Rpc,
    Send,
    Subscribe,
    Unsubscribe,
)
from heliograph.protocol.peer import Inbox
from heliograph.protocol.policy import Policy
from heliograph.protocol.position import Position, StatedPositions
from heliograph.protocol.subscription import SubscribeOptions
from heliograph.protocol.verdicts import denied, message_unless_denied, read_allowed, unless_rejected

NONE: Final[Mapping[str, Subscribed | None]] = {}
# Who has subscribed a client to a channel: it has itself, the server as it connected, or a command of the server,
# whatever the policy says.
_BY_CLIENT, _BY_SERVER, _BY_COMMAND = 0, 1, 2
_NOTHING_SAID: Final = Connect()


class Session:
    """The protocol state of one connection. The `policy` decides what its client may do."""

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
        self._is_connecting = False  # the driver is checking the credentials
        self._is_known = False  # until then only `connect` is accepted
        self._connect = _NOTHING_SAID
        self._grants = NO_GRANTS
        self._sends_freely = policy.is_sending_free
        self._channels: dict[str, int] = {}  # those that it is on, and who has subscribed it
        self._permits: dict[str, Permit] = {}  # of the subscription tokens for some of these channels

    @property
    def connect(self) -> Connect:
        """The client's `connect`."""
        return self._connect

    @property
    def has_reply(self) -> bool:
        """True if one reply answers the client's `connect`: see `Connect`."""
        return self._connect.has_reply

    def receive(self, operation: Operation) -> Action:
        """Decide on one operation of the client."""
        if not self._is_known:
            if isinstance(operation, Connect):
                return self._begin(operation)
            if isinstance(operation, Ping):
                return Reply(Pong(operation.request_id))
            if isinstance(operation, Malformed):
                return _malformed(operation)
            text = "the first frame must be 'connect'"
            return Reject(ErrorCode.BAD_REQUEST, text, operation.request_id, close=CloseCode.BAD_REQUEST)
        try:
            return self._decide(operation)
        except (BadChannel, BadCursor) as error:
            return Reject(error.code, str(error), operation.request_id)

    def identified(
        self, user: str, channels: Iterable[str] = (), grants: Grants = NO_GRANTS, *, only_these: bool = False
    ) -> tuple[JoinChannel, list[JoinChannel | Reject | AskHook]]:
        """Note that the client is `user`. Return how it joins its own channel and the others that it starts with.

        Those are the channels that its cursor names (if it may read them), `channels`, and those that its token
        subscribes it to; with `only_these`, all but the first.

        Raises:
            BadCursor, BadChannel: the cursor or a channel is not valid; the client must be closed.
        """
        positions = self._connect.since.read(self._max_channels)
        for channel in positions.named:
            check_channel(channel)
        self.user = user
        self._grants = grants
        self._is_known = True
        own = personal_channel(user)
        named = dict.fromkeys([*channels, *grants.at_once])
        wanted = named if only_these else {**dict.fromkeys(positions.named), **named}
        others: list[JoinChannel | Reject | AskHook] = []
        asked = 0  # a URL may name thousands of channels: the backend is asked about no more than may be joined
        for channel in wanted:
            if channel != own:
                try:
                    operation = Subscribe(channel, incomplete=self._connect.incomplete)
                    action = self._subscribe(operation, positions.position_in(channel), keep=True)
                except BadChannel as error:
                    action = Reject(error.code, str(error))
                if isinstance(action, AskHook):
                    asked += 1
                    if asked > self._max_channels:
                        action = self._over_limit(None)
                if channel in named or isinstance(action, JoinChannel):
                    others.append(action)
                elif isinstance(action, AskHook):
                    others.append(AskHook(action.operation, partial(unless_rejected, action.answered)))
        since, replay = positions.position_in(own), self._connect.replay
        return JoinChannel(own, since, replay, keep=True, incomplete=self._connect.incomplete), others

    def renewed(self, grants: Grants) -> tuple[list[str], list[JoinChannel | Reject | AskHook]]:
        """Use another token from now on. Return the channels that are left, and the actions for others."""
        before, self._grants = self._grants, grants.permitting(self._permits)
        lost: list[str] = []
        others: list[JoinChannel | Reject | AskHook] = []
        for channel in [each for each, by in self._channels.items() if by != _BY_COMMAND]:
            decision = self._policy.decide_subscribe(self.user, self._grants, channel)
            if isinstance(decision, Deny):
                lost.append(channel)
            elif isinstance(decision, Ask):
                others.append(AskHook(Subscribe(channel), partial(self._keep, channel)))
        for channel in lost:
            self._off(channel)
        for channel in grants.at_once:
            if channel not in before.at_once and channel not in self._channels:
                others.append(self._subscribe(Subscribe(channel), None, keep=True))
        return lost, others

    def _keep(self, channel: str, verdict: Verdict) -> LeaveChannel | Reject | None:
        """Handle a hook's verdict whether the client may stay on the channel with its new token."""
        if isinstance(verdict, Deny) and verdict.close is not None:
            return denied(verdict, None)
        if not isinstance(verdict, Deny) or verdict.code is ErrorCode.UNAVAILABLE or channel not in self._channels:
            return None  # who cannot be asked has not said that the client must go
        self._off(channel)
        return LeaveChannel(channel, Unsubscribed(channel=channel))

    def greeting(
        self,
        positions: Mapping[str, Position],
        subscriptions: Mapping[str, Subscribed | None] = NONE,
        expires_in: int | None = None,
        inbox: Inbox | None = None,
        data: bytes | None = None,
    ) -> Connected:
        """Return the first event; see `Connected`."""
        return Connected(
            user=self.user or "",
            session=self.id,
            replica=self._replica,
            positions=positions,
            ping_s=self._ping_interval_s,
            request_id=self._connect.request_id,
            subscriptions=subscriptions,
            expires_in=expires_in,
            inbox=inbox,
            data=data,
        )

    def _begin(self, operation: Connect) -> Action:
        if self._is_connecting:
            return _said_already(operation)
        # Other mistakes in the positions show once the client is identified: before that they are not read.
        try:
            operation.since.check_size(self._max_channels)
            if operation.device is not None:
                check_device(operation.device)
        except (BadCursor, BadDevice) as error:
            return Reject(error.code, str(error), operation.request_id, close=CloseCode.BAD_REQUEST)
        self._is_connecting = True
        self._connect = operation
        return Authenticate(operation.token, operation.user, operation.ticket)

    def _decide(self, operation: Operation) -> Action:
        match operation:
            case Send():  # with the next one, by far the most frequent
                try:
                    check_user_id(operation.to)
                except BadUserId as error:
                    return Reject(error.code, f"'to': {error}", operation.request_id)
                if self._sends_freely:
                    return operation
                decision = self._policy.decide_send(self.user, self._grants, operation.to)
                return operation if decision is ALLOW else message_unless_denied(decision, operation)
            case Publish():
                decision = self._policy.decide_publish(
                    self.user,
                    self._grants,
                    self._policy.check_channel(operation.channel),
                    operation.channel in self._channels,
                )
                return operation if decision is ALLOW else message_unless_denied(decision, operation)
            case Ping():
                return Reply(Pong(operation.request_id))
            case Connect():
                return _said_already(operation)
            case Refresh(token=token):
                decision = self._policy.decide_refresh()
                if isinstance(decision, Deny):
                    return denied(decision, operation.request_id)
                return RefreshToken(token, operation.request_id)
            case Subscribe(channel=channel, since=since):
                position = self._position(since, channel)
                if (
                    operation.token is None
                    or self._policy.open_mode
                    or user_of(self._policy.check_channel(channel)) is not None
                ):
                    return self._subscribe(operation, position)
                permitted = partial(self._subscribe_with, operation, position)
                return CheckPermit(operation.token, channel, operation.request_id, permitted)
            case RefreshSubscription(channel=channel, token=token):
                return self._refresh_subscription(channel, token, operation.request_id)
            case Unsubscribe(channel=channel):
                if channel not in self._channels:
                    if operation.may_repeat:
                        return Reply(Unsubscribed(channel, operation.request_id))
                    return Reject(ErrorCode.BAD_REQUEST, f"not subscribed to {channel!r}", operation.request_id)
                self._off(channel)
                return LeaveChannel(channel, Unsubscribed(channel, operation.request_id))
            case ReadHistory(channel=channel, since=since):
                decision = self._policy.decide_history(
                    self.user, self._grants, self._policy.check_channel(channel), channel in self._channels
                )
                if isinstance(decision, Deny):
                    return denied(decision, operation.request_id)
                return self._unless_denied(
                    decision, operation, FetchHistory(operation, self._position(since, channel))
                )
            case ReadPresence(channel=channel):
                decision = self._policy.decide_presence(
                    self.user, self._grants, self._policy.check_channel(channel), channel in self._channels
                )
                fetch = FetchPresence(channel, operation.request_id, operation.by_client)
                return self._unless_denied(decision, operation, fetch)
            case CountPresence(channel=channel):
                decision = self._policy.decide_presence(
                    self.user, self._grants, self._policy.check_channel(channel), channel in self._channels
                )
                return self._unless_denied(decision, operation, CountMembers(channel, operation.request_id))
            case Emit(event=event):
                decision = self._policy.decide_emit(event)
                return denied(decision, operation.request_id) if isinstance(decision, Deny) else operation
            case Rpc():
                decision = self._policy.decide_rpc()
                return denied(decision, operation.request_id) if isinstance(decision, Deny) else operation
            case Received():
                return self._note_received(operation)
            case PingAnswered():
                return Reject(ErrorCode.BAD_REQUEST, "there was no ping to answer", close=CloseCode.BAD_REQUEST)
            case Malformed():
                return _malformed(operation)
            case _:
                assert_never(operation)

    def _note_received(self, operation: Received) -> NoteReceived | Reject:
        """Read what the client has received. It counts only in channels that the client is on."""
        stated = operation.positions.read(self._max_channels)
        channels = (personal_channel(self.user or ""), *self._channels)
        found = {channel: stated.position_in(channel) for channel in channels}
        positions = {channel: position for channel, position in found.items() if position is not None}
        for channel in stated.named:
            if channel not in positions:
                text = f"not subscribed to {channel!r}, so nothing can have been received there"
                return Reject(ErrorCode.BAD_REQUEST, text, operation.request_id)
        if not positions:
            text = "the cursor of 'received' names no channel that this connection is on"
            return Reject(ErrorCode.BAD_REQUEST, text, operation.request_id)
        return NoteReceived(positions, operation.request_id)

    def _subscribe(
        self, operation: Subscribe, since: Position | None, *, keep: bool = False
    ) -> JoinChannel | Reject | AskHook:
        decision = self._policy.decide_subscribe(
            self.user, self._grants, self._policy.check_channel(operation.channel)
        )
        if isinstance(decision, Ask):
            return AskHook(operation, partial(self._join, operation, since, keep))
        return self._join(operation, since, keep, decision)

    def _subscribe_with(self, operation: Subscribe, since: Position | None, permit: Permit) -> JoinChannel | Reject:
        action = self._join(operation, since, False, ALLOW, permit)
        if isinstance(action, JoinChannel):
            self._permit(permit)
        return action

    def _refresh_subscription(self, channel: str, token: str, request_id: RequestId | None) -> CheckPermit | Reject:
        if self._policy.open_mode:
            return Reject(ErrorCode.BAD_REQUEST, "there is nothing to refresh in open mode", request_id)
        if channel not in self._channels:
            return Reject(ErrorCode.BAD_REQUEST, f"not subscribed to {channel!r}", request_id)
        return CheckPermit(token, channel, request_id, partial(self._extend, request_id))

    def _extend(self, request_id: RequestId | None, permit: Permit) -> ExtendSubscription | Reject:
        if permit.channel not in self._channels:
            return Reject(ErrorCode.BAD_REQUEST, f"not subscribed to {permit.channel!r} any more", request_id)
        self._permit(permit)
        return ExtendSubscription(permit.channel, permit.expires_at, request_id)

    def _permit(self, permit: Permit) -> None:
        self._permits[permit.channel] = permit
        self._grants = self._grants.permitting(self._permits)

    def _off(self, channel: str) -> None:
        """Note that the client is not on the channel any more; its subscription token gives nothing from now on."""
        self._channels.pop(channel, None)
        if self._permits.pop(channel, None) is not None:
            self._grants = self._grants.permitting(self._permits)

    def _join(
        self,
        operation: Subscribe,
        since: Position | None,
        keep: bool,
        verdict: Verdict,
        permit: Permit | None = None,
    ) -> JoinChannel | Reject:
        channel = operation.channel
        if isinstance(verdict, Deny):
            rejection = denied(verdict, operation.request_id)
            if verdict.code is ErrorCode.UNAVAILABLE:
                return msgspec.structs.replace(rejection, message=f"not subscribed to {channel!r}: {verdict.reason}")
            return rejection
        if channel in self._channels or user_of(channel) is not None:
            text, number = f"subscribed to {channel!r} already", ErrorNumber.ALREADY_SUBSCRIBED
            return Reject(ErrorCode.BAD_REQUEST, text, operation.request_id, number=number)
        if len(self._channels) >= self._max_channels:
            return self._over_limit(operation.request_id)
        self._channels[channel] = _BY_SERVER if keep else _BY_CLIENT
        info, expires_at, data = self._grants.info_on(channel), None, None
        if permit is not None:
            info, expires_at = permit.info or info, permit.expires_at
        elif isinstance(verdict, Grant):
            info, expires_at, data = verdict.info or info, verdict.expires_at, verdict.data
        join_leave = operation.join_leave or self._is_told_of(channel)
        is_from_hook = isinstance(verdict, Grant)
        options = SubscribeOptions(info, expires_at, join_leave, operation.delta, data, is_from_hook)
        return JoinChannel(
            channel, since, operation.replay, operation.request_id, keep, operation.incomplete, options
        )

    def _over_limit(self, request_id: RequestId | None) -> Reject:
        text = f"a connection may listen to {self._max_channels} channels"
        return Reject(ErrorCode.CHANNEL_LIMIT, text, request_id)

    def _unless_denied(
        self,
        decision: Allow | Ask | Deny,
        operation: ReadHistory | ReadPresence | CountPresence,
        action: FetchHistory | FetchPresence | CountMembers,
    ) -> Action:
        """Return the read, a refusal, or a question to the backend. Who was let on a channel may read it."""
        if isinstance(decision, Deny):
            return denied(decision, operation.request_id)
        if isinstance(decision, Ask) and operation.channel not in self._channels:
            return AskHook(operation, partial(read_allowed, action, operation.request_id))
        return action

    def not_joined(self, channel: str) -> None:
        """Note that subscribing failed: the client may retry."""
        self._off(channel)

    def wants(self, channel: str) -> bool:
        """Return False if the server has taken the client off the channel since the join began."""
        return channel in self._channels or user_of(channel) == self.user

    def unsubscribed_by_server(self, channel: str) -> bool:
        """Note that the server takes the client off the channel; False if it was neither on it nor joining."""
        was_on = channel in self._channels
        self._off(channel)
        return was_on

    def must_subscribe_again(self, channel: str) -> bool:
        """Note a gap on the channel, in a wire format in which a client must then subscribe again.

        Return whether it must. To channels to which the server has subscribed it, it cannot: there it is told.
        """
        if self._channels.get(channel) != _BY_CLIENT:
            return False
        self._off(channel)
        return True

    def subscribed_by_server(self, channel: str) -> SubscribeOptions | None:
        """Note that the server subscribes the client. Return with which options.

        None: it does not, because the client is on the channel, or on as many as it may be.
        """
        if channel in self._channels or len(self._channels) >= self._max_channels:
            return None
        self._channels[channel] = _BY_COMMAND
        return SubscribeOptions(self._grants.info_on(channel), join_leave=self._is_told_of(channel))

    def _is_told_of(self, channel: str) -> bool:
        """Return whether the client is told of clients on the channel although it has not asked for that."""
        return self._connect.by_client and self._policy.forces_join_leave(channel)

    def _position(self, since: StatedPositions, channel: str) -> Position | None:
        """Return the position that the client states for this channel.

        Raises:
            BadCursor: no replica made this cursor.
        """
        return since.read(self._max_channels).position_in(channel)


def _said_already(operation: Connect) -> Reject:
    return Reject(ErrorCode.BAD_REQUEST, "this connection has said 'connect' already", operation.request_id)


def _malformed(operation: Malformed) -> Reject:
    return Reject(operation.code, operation.message, operation.request_id, operation.close)
