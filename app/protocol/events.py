"""What a client may be told. The session and the router make these; a codec writes them to its wire format."""

from enum import StrEnum

import msgspec

from app.errors import ErrorCode
from app.protocol.operations import RequestId
from app.protocol.publication import Publication


class Delivery(StrEnum):
    """How far a message to a user got before it was acknowledged."""

    LOCAL = "local"  # every connection of the user that is known is on this replica
    REMOTE = "remote"  # another replica holds the user too, and the bus has taken the message for it
    OFFLINE = "offline"  # no replica holds the user


class Connected(msgspec.Struct, frozen=True, tag="connected"):
    """`ping`: after so many seconds without a frame from the server, ask for one."""

    user: str
    session: str
    replica: str
    cursor: str
    ping: int
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """The message is on its way."""

    message_id: str
    delivery: Delivery
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The answer to a ping."""

    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class Message(msgspec.Struct, frozen=True, gc=False, tag="message", rename={"sender": "from"}):
    """A publication, as its subscribers see it. One encoding serves them all, so it names no subscriber."""

    channel: str
    data: msgspec.Raw
    message_id: str
    sent_at: str
    sender: str | msgspec.UnsetType = msgspec.UNSET
    origin: str | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, publication: Publication) -> "Message":
        return cls(
            channel=publication.channel,
            data=publication.data,
            message_id=publication.message_id,
            sent_at=publication.sent_at,
            sender=msgspec.UNSET if publication.sender is None else publication.sender,
            origin=msgspec.UNSET if publication.origin is None else publication.origin,
        )


class Reconnect(msgspec.Struct, frozen=True, tag="reconnect"):
    """This replica drains: open a new connection in `in_ms` milliseconds, then leave this one."""

    in_ms: int
    cursor: str


class Error(msgspec.Struct, frozen=True, tag="error"):
    """What was wrong, for the person who reads it. `timestamp`: ISO 8601 in UTC."""

    code: ErrorCode
    message: str
    timestamp: str
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


Event = Connected | Ack | Pong | Message | Reconnect | Error
