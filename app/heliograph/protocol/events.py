"""What a client may be told, as facts. The session and the router make these; a codec writes them to its wire format.

`request_id`: that of the request which an event answers; None if nobody has asked.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from heliograph.errors import ErrorCode
from heliograph.protocol.operations import RequestId
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication


class Delivery(StrEnum):
    """How far a message to a user got before it was acknowledged."""

    LOCAL = "local"  # every connection of the user that is known is on this replica
    REMOTE = "remote"  # another replica holds the user too, and the bus has taken the message for it
    STORED = "stored"  # no replica holds the user; it is kept for when they come back
    OFFLINE = "offline"  # no replica holds the user, and it is not kept


class Connected(msgspec.Struct, frozen=True):
    """The client is known. `positions`: where it stands, in the channels of which that is known.

    `ping_s`: after so many seconds without a frame from the server, the client asks for one.
    """

    user: str
    session: str
    replica: str
    positions: Mapping[str, Position]
    ping_s: int
    request_id: RequestId | None = None


class Refreshed(msgspec.Struct, frozen=True):
    """The new token counts. `expires_in`: seconds for which it is good; None: for good."""

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


class Subscribed(msgspec.Struct, frozen=True):
    """The channel begins (or begins anew) here: what comes after `position` follows, in order and without a gap.

    `recovered`: nothing is missing since the position that the client gave. `state_follows`: the next event is the
    channel's state; the client stands at `position` once it has that.
    """

    channel: str
    position: Position
    recovered: bool
    state_follows: bool = False
    request_id: RequestId | None = None


class Unsubscribed(msgspec.Struct, frozen=True):
    """Nothing more of the channel follows."""

    channel: str
    request_id: RequestId | None = None


class Published(msgspec.Struct, frozen=True, gc=False):
    """The publication has its position in the channel; without one it is not kept."""

    channel: str
    message_id: str
    position: Position | None = None
    request_id: RequestId | None = None


class Emitted(msgspec.Struct, frozen=True):
    """The emission is kept: some worker will handle it, at least once."""

    request_id: RequestId | None = None


class InitialState(msgspec.Struct, frozen=True):
    """The latest of a run at `position`, from which its progress follows. `state` is None before it has begun."""

    channel: str
    position: Position
    state: str | None
    progress: float
    logs: list[str]


class Progress(msgspec.Struct, frozen=True):
    """One update of a run, as its publication tells of it."""

    publication: Publication
    state: str | None
    progress: float
    message: str | None


class History(msgspec.Struct, frozen=True):
    """What is kept of a channel, oldest first, up to `position`. `has_more`: something follows it."""

    channel: str
    publications: list[Publication]
    position: Position
    has_more: bool = False
    request_id: RequestId | None = None


class Presence(msgspec.Struct, frozen=True):
    """Who is on the channel, with how many connections."""

    channel: str
    users: dict[str, int]
    request_id: RequestId | None = None


class Join(msgspec.Struct, frozen=True):
    """A user has come to the channel: the first of their connections."""

    channel: str
    user: str


class Leave(msgspec.Struct, frozen=True):
    """A user has left the channel: the last of their connections, a grace time ago."""

    channel: str
    user: str


class Reconnect(msgspec.Struct, frozen=True):
    """This replica drains: open a new connection in `in_ms` milliseconds, from `positions`; then leave this one."""

    in_ms: int
    positions: Mapping[str, Position]


class Error(msgspec.Struct, frozen=True):
    """What was wrong, for the person who reads it. `timestamp`: ISO 8601 in UTC."""

    code: ErrorCode
    message: str
    timestamp: str
    request_id: RequestId | None = None


# A publication is an event as it is: its subscribers are told it.
Event = (
    Connected
    | Refreshed
    | Ack
    | Pong
    | Publication
    | Subscribed
    | Unsubscribed
    | Published
    | Emitted
    | InitialState
    | Progress
    | History
    | Presence
    | Join
    | Leave
    | Reconnect
    | Error
)

_NOWHERE: Mapping[str, Position] = {}


def positions_after(event: Event) -> Mapping[str, Position]:
    """Return where a client stands once it has been told the event, in the channels in which that moves it."""
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
