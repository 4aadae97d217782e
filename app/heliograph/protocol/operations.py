"""Operations of clients, as facts. A codec decodes them; the session decides on them.

`request_id`: the client's own id of the request, which the answer repeats. `data` is any JSON that `check_data` has
accepted, as its author wrote it.
"""

import msgspec

from heliograph.errors import ErrorCode
from heliograph.protocol.position import NOWHERE, StatedPositions

RequestId = str | int


class Connect(msgspec.Struct, frozen=True):
    """Identify the client; must come first. `user` counts in open mode only, `token` in jwt mode only, `ticket` in
    both.

    `since`, `replay`: as in `Subscribe`, for the user's own channel (and any other that `since` names).
    """

    token: str | None = None
    user: str | None = None
    since: StatedPositions = NOWHERE
    replay: bool = False
    ticket: str | None = None
    request_id: RequestId | None = None


class Refresh(msgspec.Struct, frozen=True):
    """Continue with a new token of the same user."""

    token: str
    request_id: RequestId | None = None


class Send(msgspec.Struct, frozen=True):
    """Send `data` to every connection of the user `to`.

    `idempotency_key`: a repetition with the same key, by the same user to the same recipient, gets the answer of the
    first, and is not sent again. It has no effect on ephemeral messages.
    """

    to: str
    data: msgspec.Raw
    ephemeral: bool = False
    idempotency_key: str | None = None
    request_id: RequestId | None = None


class Subscribe(msgspec.Struct, frozen=True):
    """Subscribe to a channel. `since`: the client's position; `replay`: from the start of what is kept."""

    channel: str
    since: StatedPositions = NOWHERE
    replay: bool = False
    request_id: RequestId | None = None


class Unsubscribe(msgspec.Struct, frozen=True):
    """Unsubscribe from a channel."""

    channel: str
    request_id: RequestId | None = None


class Publish(msgspec.Struct, frozen=True):
    """Publish `data` to all subscribers of the channel. `idempotency_key`: as in `Send`."""

    channel: str
    data: msgspec.Raw
    ephemeral: bool = False
    idempotency_key: str | None = None
    request_id: RequestId | None = None


class ReadHistory(msgspec.Struct, frozen=True):
    """Read at most `limit` kept publications of a channel, after `since` or from the start."""

    channel: str
    limit: int
    since: StatedPositions = NOWHERE
    request_id: RequestId | None = None


class ReadPresence(msgspec.Struct, frozen=True):
    """Ask who is on a channel."""

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


class Ping(msgspec.Struct, frozen=True):
    """Ask for a pong."""

    request_id: RequestId | None = None


class Malformed(msgspec.Struct, frozen=True):
    """A part of a frame that is not an operation. `message` says what is wrong with it, for a person."""

    code: ErrorCode
    message: str
    request_id: RequestId | None = None


Operation = (
    Connect
    | Refresh
    | Send
    | Subscribe
    | Unsubscribe
    | Publish
    | ReadHistory
    | ReadPresence
    | Emit
    | Rpc
    | Ping
    | Malformed
)
