"""Events for clients, as facts. The session and the router make them; a codec encodes them.

`request_id`: that of the request which an event answers; None without a request.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from heliograph.errors import ErrorCode
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.codes import UnsubscribeCode
from heliograph.protocol.operations import RequestId
from heliograph.protocol.peer import Inbox
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication


class Delivery(StrEnum):
    """How far a message to a user got before it was acknowledged."""

    LOCAL = "local"  # every known connection of the user is on this replica
    REMOTE = "remote"  # another replica holds the user too, and the bus has accepted the message for it
    STORED = "stored"  # no replica holds the user; the message is kept until they come back
    OFFLINE = "offline"  # no replica holds the user, and the message is not kept


class Connected(msgspec.Struct, frozen=True):
    """The client is connected. `positions`: its known positions in channels.

    `ping_s`: after so many seconds without a frame from the server, the client sends a ping. `subscriptions`: those
    that the server has made; None: not yet, `Subscribed` follows. `expires_in`: seconds until the token expires;
    None: never. `inbox`: see `Peer`. `data`: what the user's backend tells the client, JSON.
    """

    user: str
    session: str
    replica: str
    positions: Mapping[str, Position]
    ping_s: int
    request_id: RequestId | None = None
    subscriptions: "Mapping[str, Subscribed | None]" = {}
    expires_in: int | None = None
    inbox: Inbox | None = None
    data: bytes | None = None


class Refreshed(msgspec.Struct, frozen=True):
    """The new token counts. `expires_in`: seconds until it expires; None: never."""

    expires_in: int | None
    request_id: RequestId | None = None
    session: str = ""


class SubscriptionRefreshed(msgspec.Struct, frozen=True):
    """The new subscription token counts. `expires_in`: seconds until it expires; None: never."""

    channel: str
    expires_in: int | None
    request_id: RequestId | None = None


class Ack(msgspec.Struct, frozen=True, gc=False):
    """A message to a user is on its way."""

    message_id: str
    delivery: Delivery
    request_id: RequestId | None = None


class Pong(msgspec.Struct, frozen=True):
    """The answer to a ping."""

    request_id: RequestId | None = None


class ServerPing(msgspec.Struct, frozen=True):
    """Ask the client whether it is there, in a wire format that has its own pings."""


class Subscribed(msgspec.Struct, frozen=True):
    """The channel starts (or starts again) here: publications after `position` follow, in order and without a gap.

    `recovered`: nothing is missing since the client's position. `state_follows`: the next event is the channel's
    state; the client is at `position` once it has that. `is_kept`: publications are kept, so that a client that comes
    back can recover. `was_recovering`: the client had given its position. `expires_in`: seconds until the token of
    the subscription expires; None: never. `delta`: publications come whole or as differences, as was asked. `data`:
    what a server tells the client with it, JSON.
    """

    channel: str
    position: Position
    recovered: bool
    state_follows: bool = False
    request_id: RequestId | None = None
    is_kept: bool = True
    was_recovering: bool = False
    expires_in: int | None = None
    delta: bool = False
    data: bytes | None = None


class Unsubscribed(msgspec.Struct, frozen=True):
    """Nothing more follows on the channel. `code`: why, if the client has not asked for it."""

    channel: str
    request_id: RequestId | None = None
    code: UnsubscribeCode = UnsubscribeCode.SERVER


class Published(msgspec.Struct, frozen=True, gc=False):
    """The publication has its position in the channel; without one it is not kept."""

    channel: str
    message_id: str
    position: Position | None = None
    request_id: RequestId | None = None


class Emitted(msgspec.Struct, frozen=True):
    """The emission is kept: a worker will handle it, at least once."""

    request_id: RequestId | None = None


class ReceiptNoted(msgspec.Struct, frozen=True):
    """What the client has received is noted, and is kept soon."""

    request_id: RequestId | None = None


class RpcResult(msgspec.Struct, frozen=True):
    """What the user's backend has returned for a call."""

    data: msgspec.Raw
    request_id: RequestId | None = None


class InitialState(msgspec.Struct, frozen=True):
    """The latest state of a run at `position`, after which its progress follows. `state` is None before its start."""

    channel: str
    position: Position
    state: str | None
    progress: float
    logs: list[str]


class Progress(msgspec.Struct, frozen=True):
    """One update of a run, from its publication."""

    publication: Publication
    state: str | None
    progress: float
    message: str | None


class History(msgspec.Struct, frozen=True):
    """What is kept of a channel, oldest first, up to `position`. `has_more`: more follows it; `top`: up to there."""

    channel: str
    publications: list[Publication]
    position: Position
    top: Position
    has_more: bool = False
    request_id: RequestId | None = None


class Presence(msgspec.Struct, frozen=True):
    """The users on the channel, each with the number of connections."""

    channel: str
    users: dict[str, int]
    request_id: RequestId | None = None


class ClientPresence(msgspec.Struct, frozen=True):
    """The clients on the channel, by the id of their session."""

    channel: str
    clients: Mapping[str, ClientInfo]
    request_id: RequestId | None = None


class PresenceStats(msgspec.Struct, frozen=True):
    """How many clients and users are on the channel."""

    channel: str
    clients: int
    users: int
    request_id: RequestId | None = None


class Join(msgspec.Struct, frozen=True):
    """A user's first connection has joined the channel."""

    channel: str
    user: str


class Leave(msgspec.Struct, frozen=True):
    """A user's last connection has left the channel, a grace time ago."""

    channel: str
    user: str


class ClientJoined(msgspec.Struct, frozen=True):
    """A client has joined the channel; for those who are told of clients and not of users."""

    channel: str
    client: ClientInfo


class ClientLeft(msgspec.Struct, frozen=True):
    """A client has left the channel; for those who are told of clients and not of users."""

    channel: str
    client: ClientInfo


class Reconnect(msgspec.Struct, frozen=True):
    """This replica drains: open a new connection in `in_ms` milliseconds, from `positions`; then close this one."""

    in_ms: int
    positions: Mapping[str, Position]


class Error(msgspec.Struct, frozen=True):
    """What was wrong, for a person. `timestamp`: ISO 8601 in UTC. `number`: more exact than `code`, if it is set."""

    code: ErrorCode
    message: str
    timestamp: str
    request_id: RequestId | None = None
    number: int | None = None


# A publication is itself an event for its subscribers.
Event = (
    Connected
    | Refreshed
    | SubscriptionRefreshed
    | Ack
    | Pong
    | ServerPing
    | Publication
    | Subscribed
    | Unsubscribed
    | Published
    | Emitted
    | ReceiptNoted
    | RpcResult
    | InitialState
    | Progress
    | History
    | Presence
    | ClientPresence
    | PresenceStats
    | Join
    | Leave
    | ClientJoined
    | ClientLeft
    | Reconnect
    | Error
)

# The events that a publication becomes for its subscribers, whatever the kind of its channel.
MESSAGES: Final = (Publication, Progress)

_NOWHERE: Mapping[str, Position] = {}


def positions_after(event: Event) -> Mapping[str, Position]:
    """Return the client's positions after the event, in the channels in which it moves them."""
    match event:
        case Publication():
            return _NOWHERE if event.position is None else {event.channel: event.position}
        case Progress(publication=publication):
            return positions_after(publication)
        case Subscribed():
            return _NOWHERE if event.state_follows else {event.channel: event.position}
        case InitialState():
            return {event.channel: event.position}
        case Connected():
            return event.positions
        case _:
            return _NOWHERE
