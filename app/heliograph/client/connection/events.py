"""The events of a client, in order: messages, what happens to a subscription, and the state of the connection."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from heliograph.errors import ClientError, RequestRefused

Transport = Literal["websocket", "sse", "poll"]
Frame = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ClientState:
    """The state of the connection.

    `retry_in_s`: seconds until the next attempt, while reconnecting; 0 during one. `code` and `reason`: why the last
    connection ended (a close code, see docs/protocol.md). The other fields are set while connected: the user, the
    session's id (not when polling), the replica that serves this client, and the transport in use.
    """

    state: Literal["connecting", "connected", "reconnecting", "closed"]
    retry_in_s: float = 0.0
    code: int | None = None
    reason: str = ""
    user: str | None = None
    session: str | None = None
    replica: str | None = None
    transport: Transport | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One publication.

    `sender` is None where a program published it, and `origin`, the replica it was sent on, may be. `cursor` is None
    where the publication is not kept. `after_loss`: messages of the channel are missing before this one.
    `delivered_by`: the replica whose connection brought it; empty in a history. `frame`: as the server wrote it.
    """

    channel: str
    data: Any
    message_id: str
    sent_at: str
    cursor: str | None
    sender: str | None
    origin: str | None
    delivered_by: str
    after_loss: bool = False
    frame: Frame = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages of the channel are missing before those that follow: read the present state where it is stored."""

    channel: str


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The channel comes from `cursor` on.

    `recovered`: nothing is missing since the position that the client gave. `lost`: messages are missing since then.
    `anew`: nothing was heard before.
    """

    channel: str
    cursor: str
    recovered: bool
    lost: bool
    anew: bool
    frame: Frame = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class RunState:
    """The latest of a run: its state, its progress in percent, and the log lines that are kept, oldest first.

    It comes anew after each reconnect, in place of what was before.
    """

    channel: str
    state: str | None
    progress: float
    logs: tuple[str, ...]
    frame: Frame = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class RunProgress:
    """One update of a run: its state and progress from now on, and one more log line or None."""

    channel: str
    state: str | None
    progress: float
    message: str | None
    frame: Frame = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Joined:
    """The first connection of a user has come to the channel."""

    channel: str
    user: str


@dataclass(frozen=True, slots=True)
class Left:
    """The last connection of a user has left the channel."""

    channel: str
    user: str


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """The server has ended the subscription; it does not come back by itself."""

    channel: str


@dataclass(frozen=True, slots=True)
class SubscriptionRefused:
    """The server does not give the channel to this client; `error` says why."""

    channel: str
    error: ClientError


ChannelEvent = (
    Message | Lost | Subscribed | RunState | RunProgress | Joined | Left | Unsubscribed | SubscriptionRefused
)


@dataclass(frozen=True, slots=True)
class Ack:
    """The server has taken what was sent.

    `delivery`: how far a message to a user got (`local`, `remote`, `stored` or `offline`); None for anything else.
    `cursor`: the place of a publication that is kept. `message_id` is empty for an emission. `sent_on`: the replica.
    """

    message_id: str
    delivery: str | None
    cursor: str | None
    sent_on: str


@dataclass(frozen=True, slots=True)
class History:
    """A page of what is kept of a channel, oldest first. `more`: something follows `cursor`."""

    channel: str
    publications: list[Message]
    cursor: str
    more: bool
    frame: Frame = field(default_factory=dict, repr=False, compare=False)


def refused_by(frame: Frame) -> RequestRefused:
    """Return the refusal that an error frame holds."""
    return RequestRefused(frame["code"], frame["message"], frame.get("number"))


def message_of(frame: Frame, delivered_by: str = "", *, after_loss: bool = False) -> Message:
    """Return the message that a frame holds."""
    return Message(
        channel=frame["channel"],
        data=frame["data"],
        message_id=frame["message_id"],
        sent_at=frame["sent_at"],
        cursor=frame.get("cursor"),
        sender=frame.get("from"),
        origin=frame.get("origin"),
        delivered_by=delivered_by,
        after_loss=after_loss,
        frame=frame,
    )
