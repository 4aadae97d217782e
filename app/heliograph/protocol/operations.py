"""Operations of clients, as facts. A codec decodes them; the session decides on them.

`request_id`: the client's own id of the request, which the answer repeats. `data` is any JSON that `check_data` has
accepted, as its author wrote it.
"""

from enum import Enum, auto
from typing import Final

import msgspec

from heliograph.errors import ErrorCode
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.position import NOWHERE, StatedPositions

RequestId = str | int
NO_DATA: Final = msgspec.Raw(b"")


class Incomplete(Enum):
    """What a subscriber gets if not everything since its position is kept."""

    DELIVER_REST = auto()  # what is still kept, then what is published from now on
    SKIP = auto()  # what is published from now on
    REFUSE = auto()  # an error: it is not subscribed


class Connect(msgspec.Struct, frozen=True):
    """Identify the client; must come first. `user` counts in open mode only, `token` in jwt mode only, `ticket` in
    both.

    `since`, `replay`, `incomplete`: as in `Subscribe`, for the user's own channel (and any other that `since` names).

    `device`: which of the user's devices it is, for receipts.

    `data`, `name`, `version`, `channels` (that it wants to be on), `headers`: what the user's backend is told.

    `has_reply`: the wire format answers a connect with one reply: `Connected` then holds the subscriptions that the
    server has made, and an error repeats `request_id`. `by_client`: it tells of each client that joins or leaves, and
    not of users.
    """

    token: str | None = None
    user: str | None = None
    since: StatedPositions = NOWHERE
    replay: bool = False
    ticket: str | None = None
    request_id: RequestId | None = None
    has_reply: bool = False
    incomplete: Incomplete = Incomplete.DELIVER_REST
    by_client: bool = False
    data: msgspec.Raw = NO_DATA
    name: str | None = None
    version: str | None = None
    channels: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    device: str | None = None


class Refresh(msgspec.Struct, frozen=True):
    """Continue with a new token of the same user."""

    token: str
    request_id: RequestId | None = None


class RefreshSubscription(msgspec.Struct, frozen=True):
    """Stay on a channel with a new subscription token."""

    channel: str
    token: str
    request_id: RequestId | None = None


class Send(msgspec.Struct, frozen=True):
    """Send `data` to every connection of the user `to`.

    `idempotency_key`: a repetition with the same key, by the same user to the same recipient, gets the answer of the
    first, and is not sent again. It has no effect on ephemeral messages. `names_client`: readers learn which client
    wrote it, if their wire format can say so.
    """

    to: str
    data: msgspec.Raw
    ephemeral: bool = False
    idempotency_key: str | None = None
    request_id: RequestId | None = None
    names_client: bool = False


class Subscribe(msgspec.Struct, frozen=True):
    """Subscribe to a channel. `since`: the client's position; `replay`: from the start of what is kept.

    `token`: a subscription token for the channel; it counts in jwt mode only. `join_leave`: tell of each client that
    joins or leaves, in a wire format that does so. `delta`: the kind of delta compression that the client can read.
    """

    channel: str
    since: StatedPositions = NOWHERE
    replay: bool = False
    request_id: RequestId | None = None
    incomplete: Incomplete = Incomplete.DELIVER_REST
    token: str | None = None
    join_leave: bool = False
    delta: str | None = None


class Unsubscribe(msgspec.Struct, frozen=True):
    """Unsubscribe from a channel. `may_repeat`: it is no mistake if the client is not on it."""

    channel: str
    request_id: RequestId | None = None
    may_repeat: bool = False


class Publish(msgspec.Struct, frozen=True):
    """Publish `data` to all subscribers of the channel. `idempotency_key`, `names_client`: as in `Send`."""

    channel: str
    data: msgspec.Raw
    ephemeral: bool = False
    idempotency_key: str | None = None
    request_id: RequestId | None = None
    names_client: bool = False


class ReadHistory(msgspec.Struct, frozen=True):
    """Read at most `limit` kept publications of a channel, after `since` or from the start.

    `is_whole`: read them over any number of pages of the log (`limit` -1: all of them), and only in the epoch of
    `since`; then with `reverse` those before `since` or the end, newest first.
    """

    channel: str
    limit: int
    since: StatedPositions = NOWHERE
    request_id: RequestId | None = None
    is_whole: bool = False
    reverse: bool = False


class ReadPresence(msgspec.Struct, frozen=True):
    """Ask which users are on a channel; or which clients, `by_client`."""

    channel: str
    request_id: RequestId | None = None
    by_client: bool = False


class CountPresence(msgspec.Struct, frozen=True):
    """Ask how many clients and users are on a channel."""

    channel: str
    request_id: RequestId | None = None


class Emit(msgspec.Struct, frozen=True):
    """Emit an event to the workers behind the cluster: its name, and `data`."""

    event: str
    data: msgspec.Raw
    request_id: RequestId | None = None


class Rpc(msgspec.Struct, frozen=True):
    """Call a method of the user's backend, and answer with what it returns."""

    method: str
    data: msgspec.Raw
    request_id: RequestId | None = None


class Received(msgspec.Struct, frozen=True):
    """Note that the client has taken everything up to these positions."""

    positions: StatedPositions
    request_id: RequestId | None = None


class Ping(msgspec.Struct, frozen=True):
    """Ask for a pong."""

    request_id: RequestId | None = None


class PingAnswered(msgspec.Struct, frozen=True):
    """Answer a ping of the server, in a wire format that has its own pings."""

    request_id: RequestId | None = None


class Malformed(msgspec.Struct, frozen=True):
    """A part of a frame that is not an operation. `message` says what is wrong with it, for a person.

    `close`: the wire format closes the connection because of it.
    """

    code: ErrorCode
    message: str
    request_id: RequestId | None = None
    close: CloseCode | None = None


Operation = (
    Connect
    | Refresh
    | RefreshSubscription
    | Send
    | Subscribe
    | Unsubscribe
    | Publish
    | ReadHistory
    | ReadPresence
    | CountPresence
    | Emit
    | Rpc
    | Received
    | Ping
    | PingAnswered
    | Malformed
)
