"""The frames of the server on the plain protocol. Their fields are in the order on the wire."""

import msgspec

from heliograph.codecs.plain.client_frames import RequestId
from heliograph.errors import ErrorCode
from heliograph.protocol.events import Delivery


class Connected(msgspec.Struct, frozen=True, tag="connected"):
    """The client is connected. `ping`: send a ping after so many seconds without a frame from the server.

    `data`: what the user's backend tells the client.
    """

    user: str
    session: str
    replica: str
    cursor: str
    ping: int
    id: RequestId | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Refreshed(msgspec.Struct, frozen=True, tag="refreshed"):
    """The new token counts. `expires_in`: seconds until it expires; None: never.

    `channel`: that of a subscription token.
    """

    expires_in: int | None
    id: RequestId | msgspec.UnsetType = msgspec.UNSET
    channel: str | msgspec.UnsetType = msgspec.UNSET


class Ack(msgspec.Struct, frozen=True, gc=False, tag="ack"):
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
    cursor: str | msgspec.UnsetType = msgspec.UNSET  # of its own channel; unset if it is ephemeral
    sender: str | msgspec.UnsetType = msgspec.UNSET
    origin: str | msgspec.UnsetType = msgspec.UNSET


class Subscribed(msgspec.Struct, frozen=True, tag="subscribed"):
    """The channel starts (or starts again) here: publications after `cursor` follow, in order and without a gap.

    `recovered`: nothing is missing since the client's cursor. `expires_in`: seconds until the subscription token
    expires; unset without one.
    """

    channel: str
    cursor: str
    recovered: bool
    id: RequestId | msgspec.UnsetType = msgspec.UNSET
    expires_in: int | msgspec.UnsetType = msgspec.UNSET


class Unsubscribed(msgspec.Struct, frozen=True, tag="unsubscribed"):
    """Nothing more follows on the channel."""

    channel: str
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class Published(msgspec.Struct, frozen=True, tag="ack"):
    """The publication has its position in the channel; `cursor` is unset if it is not kept."""

    message_id: str
    cursor: str | msgspec.UnsetType = msgspec.UNSET
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class Emitted(msgspec.Struct, frozen=True, tag="ack"):
    """The emission is kept: a worker will handle it, at least once."""

    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class ReceiptNoted(msgspec.Struct, frozen=True, tag="received"):
    """The receipt is noted. Within a second or two it stands where the sender can read it."""

    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class RpcResult(msgspec.Struct, frozen=True, tag="rpc"):
    """What the user's backend has returned for a call."""

    data: msgspec.Raw
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class InitialState(msgspec.Struct, frozen=True, tag="initial_state"):
    """The latest state of a run, after which its progress follows."""

    state: str | None
    progress: float
    logs: list[str]


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """One update of a run."""

    run_id: str
    state: str | None
    progress: float
    message: str | None


class History(msgspec.Struct, frozen=True, tag="history"):
    """What is kept of a channel, oldest first. `cursor`: that of the last one; `more`: more follows it."""

    channel: str
    publications: list[Message]
    cursor: str
    more: bool | msgspec.UnsetType = msgspec.UNSET
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class Presence(msgspec.Struct, frozen=True, tag="presence"):
    """The users on the channel, each with the number of connections."""

    channel: str
    users: dict[str, int]
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class Join(msgspec.Struct, frozen=True, tag="join"):
    """A user's first connection has joined the channel."""

    channel: str
    user: str


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """A user's last connection has left the channel, a grace time ago."""

    channel: str
    user: str


class Reconnect(msgspec.Struct, frozen=True, tag="reconnect"):
    """This replica drains: open a new connection in `in_ms` milliseconds, then close this one."""

    in_ms: int
    cursor: str


class Error(msgspec.Struct, frozen=True, tag="error"):
    """What was wrong, for a person. `timestamp`: ISO 8601 in UTC. `number`: that of the user's own backend."""

    code: ErrorCode
    message: str
    timestamp: str
    id: RequestId | msgspec.UnsetType = msgspec.UNSET
    number: int | msgspec.UnsetType = msgspec.UNSET


class Disconnect(msgspec.Struct, frozen=True, tag="disconnect"):
    """The last event of an event stream, in the place of a socket's close frame."""

    code: int
    reason: str


ServerFrame = (
    Connected
    | Refreshed
    | Ack
    | Pong
    | Message
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
    | Join
    | Leave
    | Reconnect
    | Error
)
