"""Turns events into replies and pushes."""

from collections.abc import Mapping
from typing import Final, assert_never

import msgspec

from heliograph.codecs.centrifuge import replies
from heliograph.codecs.centrifuge.numbers import ERRORS, TEMPORARY
from heliograph.codecs.centrifuge.replies import ClientInfo, Empty, Push, Reply
from heliograph.errors import ErrorCode
from heliograph.protocol import client_info as protocol
from heliograph.protocol.codes import UnsubscribeCode, is_final
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
from heliograph.protocol.publication import Publication

REFRESH_EARLIER_S: Final = 25  # a client asks for a new token so long before the present one expires
REASONS: Final = {
    UnsubscribeCode.SERVER: "server unsubscribe",
    UnsubscribeCode.GAP: "insufficient state",
    UnsubscribeCode.EXPIRED: "subscription expired",
}
PING: Final = Reply()
DONE: Final[Empty] = {}


def push_of(publication: Publication, is_difference: bool = False) -> replies.PublicationFrame:
    """Return the push of a publication. `is_difference`: its data is the difference from the one before it."""
    pub = publication_of(publication, is_difference)
    return replies.PublicationFrame(replies.PublicationPush(publication.channel, pub))


def reply_of(event: Event, version: str) -> Reply | replies.PublicationFrame | None:
    """Return the reply or push of the event; None if these clients have no name for it. `version`: the server's."""
    match event:
        case Publication():  # by far the most, with the next
            return push_of(event)
        case Progress(publication=publication):
            return push_of(publication)
        case Ack() | Published():
            return Reply(_id(event.request_id), publish=DONE)
        case ServerPing():
            return PING
        case Error():
            return _error(event)
        case Subscribed():
            result = _subscription(event)
            if event.request_id is None:
                return Reply(push=Push(event.channel, subscribe=result))
            return Reply(_id(event.request_id), subscribe=result)
        case Unsubscribed():
            if event.request_id is not None:
                return Reply(_id(event.request_id), unsubscribe=DONE)
            code = event.code
            return Reply(push=Push(event.channel, unsubscribe=replies.UnsubscribePush(code, REASONS[code])))
        case InitialState():
            return Reply(push=Push(event.channel, pub=_state(event)))
        case Connected():
            return Reply(_id(event.request_id), connect=_connected(event, version))
        case Refreshed():
            ttl = _ttl(event.expires_in)
            if event.request_id is None:
                return Reply(push=Push(refresh=replies.RefreshPush(ttl > 0, ttl)))
            return Reply(_id(event.request_id), refresh=replies.RefreshResult(event.session, version, ttl > 0, ttl))
        case History(publications=publications, top=top):
            history = replies.HistoryResult(list(map(publication_of, publications)), top.epoch, top.offset)
            return Reply(_id(event.request_id), history=history)
        case RpcResult():
            return Reply(_id(event.request_id), rpc=replies.RpcResult(event.data))
        case SubscriptionRefreshed():
            lasts = replies.SubRefreshResult(event.expires_in is not None, _subscription_ttl(event.expires_in))
            return Reply(_id(event.request_id), sub_refresh=lasts)
        case ClientPresence():
            presence = {client: _info(info) for client, info in event.clients.items()}
            return Reply(_id(event.request_id), presence=replies.PresenceResult(presence))
        case PresenceStats():
            stats = replies.PresenceStatsResult(event.clients, event.users)
            return Reply(_id(event.request_id), presence_stats=stats)
        case ClientJoined():
            return Reply(push=Push(event.channel, join=replies.InfoPush(_info(event.client))))
        case ClientLeft():
            return Reply(push=Push(event.channel, leave=replies.InfoPush(_info(event.client))))
        case Presence() | Join() | Leave():
            return None  # these clients are told of clients, and not of users
        case Emitted() | Pong() | ReceiptNoted() | Reconnect():
            return None  # a draining replica closes the connection in its turn, and the client comes back
        case _:
            assert_never(event)


def disconnect_of(code: int, reason: str) -> Reply:
    """Return the push with which a stream ends, in place of a close frame."""
    return Reply(push=Push(disconnect=replies.DisconnectPush(code, reason, reconnect=not is_final(code))))


def _id(request_id: RequestId | None) -> int:
    return request_id if isinstance(request_id, int) else 0


def _error(event: Error) -> Reply | None:
    """Return the answer to a command; None for one without an id, to which there is no answer."""
    if event.request_id is None:
        return None
    number = ERRORS[event.code] if event.number is None else int(event.number)
    temporary = number in TEMPORARY or event.code is ErrorCode.UNAVAILABLE
    return Reply(_id(event.request_id), replies.ErrorBody(number, event.message, temporary))


def publication_of(publication: Publication, is_difference: bool = False) -> replies.Publication:
    """Return the publication as it is inside a push or a reply."""
    sender, author = publication.sender, publication.author
    info = None if sender is None else ClientInfo(sender, "") if author is None else _info(author)
    return replies.Publication(
        publication.data,
        0 if publication.position is None else publication.position.offset,
        info,
        publication.tags,
        is_difference,
    )


def _info(client: protocol.ClientInfo) -> ClientInfo:
    return ClientInfo(client.user, client.client, client.conn_info, client.chan_info)


def _state(event: InitialState) -> replies.Publication:
    data = msgspec.json.encode(replies.RunState(event.state, event.progress, None, event.logs))
    return replies.Publication(msgspec.Raw(data), event.position.offset)


def _subscription(event: Subscribed) -> replies.SubscribeResult:
    return replies.SubscribeResult(
        recoverable=event.is_kept,
        epoch=event.position.epoch,
        recovered=event.recovered and event.was_recovering,
        offset=event.position.offset,
        positioned=event.is_kept,
        was_recovering=event.was_recovering,
        expires=event.expires_in is not None,
        ttl=_subscription_ttl(event.expires_in),
        delta=event.delta,
        data=None if event.data is None else msgspec.Raw(event.data),
    )


def _connected(event: Connected, version: str) -> replies.ConnectResult:
    ttl = _ttl(event.expires_in)
    return replies.ConnectResult(
        client=event.session,
        version=version,
        data=None if event.data is None else msgspec.Raw(event.data),
        expires=ttl > 0,
        ttl=ttl,
        subs=_subscriptions(event.subscriptions),
        ping=event.ping_s,
        pong=True,
        session=event.session if event.inbox is None else event.inbox.session,
        node=event.replica if event.inbox is None else event.inbox.node_id,
    )


def _subscriptions(subscriptions: Mapping[str, Subscribed | None]) -> dict[str, replies.SubscribeResult]:
    return {
        channel: replies.SubscribeResult() if each is None else _subscription(each)
        for channel, each in subscriptions.items()
    }


def _ttl(expires_in: int | None) -> int:
    """Return after how many seconds the client refreshes its token; 0: never. Early enough for that to succeed."""
    return 0 if expires_in is None else max(1, expires_in - min(REFRESH_EARLIER_S, expires_in // 4))


def _subscription_ttl(expires_in: int | None) -> int:
    """Return after how many seconds the client refreshes its subscription, which goes on for a while after that."""
    return 0 if expires_in is None else max(1, expires_in)
