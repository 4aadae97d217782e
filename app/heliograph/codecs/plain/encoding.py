"""Turns events into frames of the plain protocol."""

from typing import Final, assert_never

from msgspec import UNSET, Raw, UnsetType

from heliograph.codecs.plain import server_frames
from heliograph.codecs.plain.cursor import cursor_of, format_cursor
from heliograph.codecs.plain.server_frames import ServerFrame
from heliograph.protocol.events import (
    Ack,
    ClientJoined,
    ClientLeft,
    ClientPresence,
    Connected,
    Emitted,
    Error,
    Event,
    History,
    InitialState,
    Join,
    Leave,
    Pong,
    Presence,
    PresenceStats,
    Progress,
    Published,
    ReceiptNoted,
    Reconnect,
    Refreshed,
    RpcResult,
    ServerPing,
    Subscribed,
    SubscriptionRefreshed,
    Unsubscribed,
)
from heliograph.protocol.operations import RequestId
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.run import run_of

# Numbers of errors that a code says in words; those of the user's backend begin above them.
RESERVED: Final = range(400)


def frame_of(event: Event) -> ServerFrame:
    """Return the frame of the event."""
    match event:  # each case that does not match costs time, so the frequent ones come first
        case Publication():
            return _message(event)
        case Ack():
            return server_frames.Ack(event.message_id, event.delivery, _echo(event.request_id))
        case Connected():  # with the next, to all clients at once after a cut
            return server_frames.Connected(
                user=event.user,
                session=event.session,
                replica=event.replica,
                cursor=format_cursor(event.positions),
                ping=event.ping_s,
                id=_echo(event.request_id),
                data=UNSET if event.data is None else Raw(event.data),
            )
        case Subscribed():
            return server_frames.Subscribed(
                event.channel,
                cursor_of(event.channel, event.position),
                event.recovered,
                _echo(event.request_id),
                UNSET if event.expires_in is None else event.expires_in,
            )
        case Published():
            cursor = _cursor(event.channel, event.position)
            return server_frames.Published(event.message_id, cursor, _echo(event.request_id))
        case Progress():
            run_id = run_of(event.publication.channel)
            return server_frames.Progress(run_id, event.state, event.progress, event.message)
        case Error():
            number = UNSET if event.number is None or event.number in RESERVED else event.number
            return server_frames.Error(event.code, event.message, event.timestamp, _echo(event.request_id), number)
        case Pong():
            return server_frames.Pong(_echo(event.request_id))
        case ServerPing():
            return server_frames.Pong()  # not sent: the pings of this format are WebSocket's own
        case Unsubscribed():
            return server_frames.Unsubscribed(event.channel, _echo(event.request_id))
        case InitialState():
            return server_frames.InitialState(event.state, event.progress, event.logs)
        case Refreshed():
            return server_frames.Refreshed(event.expires_in, _echo(event.request_id))
        case SubscriptionRefreshed():
            return server_frames.Refreshed(event.expires_in, _echo(event.request_id), event.channel)
        case Emitted():
            return server_frames.Emitted(_echo(event.request_id))
        case ReceiptNoted():
            return server_frames.ReceiptNoted(_echo(event.request_id))
        case RpcResult():
            return server_frames.RpcResult(event.data, _echo(event.request_id))
        case History():
            return server_frames.History(
                channel=event.channel,
                publications=list(map(_message, event.publications)),
                cursor=cursor_of(event.channel, event.position),
                more=True if event.has_more else UNSET,
                id=_echo(event.request_id),
            )
        case Presence():
            return server_frames.Presence(event.channel, event.users, _echo(event.request_id))
        case Join():
            return server_frames.Join(event.channel, event.user)
        case Leave():
            return server_frames.Leave(event.channel, event.user)
        case ClientPresence() | PresenceStats() | ClientJoined() | ClientLeft():
            raise NotImplementedError(f"the plain protocol tells of users, and not of clients: {event!r}")
        case Reconnect():
            return server_frames.Reconnect(event.in_ms, format_cursor(event.positions))
        case _:
            assert_never(event)


def _message(publication: Publication) -> server_frames.Message:
    return server_frames.Message(
        publication.channel,
        publication.data,
        publication.message_id,
        publication.sent_at,
        _cursor(publication.channel, publication.position),
        UNSET if publication.sender is None else publication.sender,
        UNSET if publication.origin is None else publication.origin,
    )


def _cursor(channel: str, position: Position | None) -> str | UnsetType:
    return UNSET if position is None else cursor_of(channel, position)


def _echo(request_id: RequestId | None) -> RequestId | UnsetType:
    """Return a request's `id` for its answer; unset if the client gave none."""
    return UNSET if request_id is None else request_id
