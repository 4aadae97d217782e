"""Turns commands into operations."""

from typing import Final

import msgspec

from heliograph.codecs.centrifuge.commands import (
    MOST_COMMANDS,
    Command,
    ConnectData,
    ConnectRequest,
    SubscribeRequest,
)
from heliograph.errors import BadData, ErrorCode
from heliograph.protocol import operations
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.identity import user_of
from heliograph.protocol.operations import Incomplete, Operation, RequestId
from heliograph.protocol.position import Position, Positions
from heliograph.protocol.publication import check_data

EMISSION: Final = "message"  # the event that an asynchronous message of a client is emitted as
REJECT_UNRECOVERED: Final = 2  # of a subscription's flags: an error, instead of a subscription with a gap


def operation_of(command: Command, max_depth: int) -> Operation:
    """Return the operation. `max_depth`: how deep arrays and objects may nest in the data of clients."""
    try:
        return _operation(command, command.id, max_depth)
    except BadData as error:
        return malformed(str(error), command.id, error.code)


def malformed(
    message: str, request_id: RequestId | None = None, code: ErrorCode = ErrorCode.BAD_REQUEST
) -> Operation:
    """Return what a command that cannot be read becomes: without an id nothing can be answered, so it closes."""
    close = None if request_id else CloseCode.BAD_REQUEST
    return operations.Malformed(code, message, request_id or None, close)


def too_many() -> Operation:
    """Return what a frame with too many commands becomes."""
    return malformed(f"a frame has at most {MOST_COMMANDS} commands")


def _operation(command: Command, request_id: int, max_depth: int) -> Operation:
    if request_id == 0:
        if command.send is not None:
            return operations.Emit(EMISSION, _checked(command.send.data, max_depth))
        return operations.PingAnswered() if command == Command() else malformed("a command needs an 'id' above 0")
    if (publish := command.publish) is not None:
        data, to = _checked(publish.data, max_depth), user_of(publish.channel)
        if to is not None:
            return operations.Send(to, data, request_id=request_id, names_client=True)
        return operations.Publish(publish.channel, data, request_id=request_id, names_client=True)
    if (subscribe := command.subscribe) is not None:
        channel = subscribe.channel
        return operations.Subscribe(
            channel,
            _positions({channel: subscribe}),
            request_id=request_id,
            incomplete=Incomplete.REFUSE if subscribe.flag & REJECT_UNRECOVERED else Incomplete.SKIP,
            token=subscribe.token or None,
            join_leave=subscribe.join_leave,
            delta=subscribe.delta or None,
        )
    if command.unsubscribe is not None:
        return operations.Unsubscribe(command.unsubscribe.channel, request_id, may_repeat=True)
    if command.connect is not None:
        return _connect(command.connect, request_id, max_depth)
    if command.refresh is not None:
        return operations.Refresh(command.refresh.token, request_id)
    if command.presence is not None:
        return operations.ReadPresence(command.presence.channel, request_id, by_client=True)
    if command.presence_stats is not None:
        return operations.CountPresence(command.presence_stats.channel, request_id)
    if command.sub_refresh is not None:
        return operations.RefreshSubscription(command.sub_refresh.channel, command.sub_refresh.token, request_id)
    if (history := command.history) is not None:
        since = (
            {} if history.since is None else {history.channel: Position(history.since.epoch, history.since.offset)}
        )
        limit, reverse = history.limit, history.reverse
        return operations.ReadHistory(
            history.channel, limit, Positions(since), request_id, is_whole=True, reverse=reverse
        )
    if (rpc := command.rpc) is not None:
        return operations.Rpc(rpc.method, _checked(rpc.data, max_depth), request_id)
    if command.send is not None:
        return operations.Emit(EMISSION, _checked(command.send.data, max_depth), request_id)
    if command.ping is not None:
        return malformed("pings are the server's; a client answers them with an empty command")
    return malformed("the command has no method that is known here", request_id, ErrorCode.UNKNOWN_TYPE)


def _connect(connect: ConnectRequest, request_id: int, max_depth: int) -> Operation:
    token = connect.token or _bearer(connect.headers or {})
    return operations.Connect(
        token,
        _user(connect.data),
        _positions(connect.subs or {}),
        request_id=request_id,
        has_reply=True,
        by_client=True,
        incomplete=Incomplete.SKIP,
        data=_checked(connect.data, max_depth) if connect.data else operations.NO_DATA,
        name=connect.name or None,
        version=connect.version or None,
        channels=tuple(connect.subs or ()),
        headers=tuple((connect.headers or {}).items()),
    )


def _bearer(headers: dict[str, str]) -> str | None:
    """Return the token of an `Authorization: Bearer` header."""
    for name, value in headers.items():
        scheme, _, token = value.partition(" ")
        if name.lower() == "authorization" and scheme.lower() == "bearer":
            return token.strip() or None
    return None


def _user(data: msgspec.Raw) -> str | None:
    if not data:
        return None
    try:
        return _read_data(data).user
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None  # data of another kind


def _positions(requests: dict[str, SubscribeRequest]) -> Positions:
    return Positions(
        {channel: Position(each.epoch, each.offset) for channel, each in requests.items() if each.recover}
    )


def _checked(data: msgspec.Raw, max_depth: int) -> msgspec.Raw:
    if not data:
        raise BadData("'data' is missing: it is any JSON")
    check_data(data, max_depth)
    return data


_read_data: Final = msgspec.json.Decoder(ConnectData).decode
