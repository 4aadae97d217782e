"""What a client may ask for, as facts. A codec reads these from its wire format; the session decides on them.

`request_id`: what the client calls the request by; its answer carries it. `data` is any JSON that `check_data` has
accepted, as its author wrote it.
"""

import msgspec

from heliograph.errors import ErrorCode
from heliograph.protocol.position import NOWHERE, StatedPositions

RequestId = str | int


class Connect(msgspec.Struct, frozen=True):
    """Say who you are; must come first. `user` counts in open mode only, `token` in jwt mode only, `ticket` in both.

    `since`, `replay`: as in `Subscribe`, for the user's own channel (and any other that `since` names).
    """

    token: str | None = None
    user: str | None = None
    since: StatedPositions = NOWHERE
    replay: bool = False
    ticket: str | None = None
    request_id: RequestId | None = None


class Refresh(msgspec.Struct, frozen=True):
    """Go on with a new token of the same user."""

    token: str
    request_id: RequestId | None = None


class Send(msgspec.Struct, frozen=True):
    """Send `data` to every connection of the user `to`.

    `idempotency_key`: a repetition with the same key, by the same user to the same one, is answered as the first try
    was, and not sent again. It has no effect on what is not kept.
    """

    to: str
    data: msgspec.Raw
    ephemeral: bool = False
    idempotency_key: str | None = None
    request_id: RequestId | None = None


class Subscribe(msgspec.Struct, frozen=True):
    """Listen to a channel. `since`: where the client stands; `replay`: from the start of what is kept."""

    channel: str
    since: StatedPositions = NOWHERE
    replay: bool = False
    request_id: RequestId | None = None


class Unsubscribe(msgspec.Struct, frozen=True):
    """Listen no longer."""

    channel: str
    request_id: RequestId | None = None


class Publish(msgspec.Struct, frozen=True):
    """Publish `data` to everyone who listens to the channel. `idempotency_key`: as in `Send`."""

    channel: str
    data: msgspec.Raw
    ephemeral: bool = False
    idempotency_key: str | None = None
    request_id: RequestId | None = None


class ReadHistory(msgspec.Struct, frozen=True):
    """Read at most `limit` publications that are kept of a channel, after `since` or from the start."""

    channel: str
    limit: int
    since: StatedPositions = NOWHERE
    request_id: RequestId | None = None


class ReadPresence(msgspec.Struct, frozen=True):
    """Ask who is on a channel."""

    channel: str
    request_id: RequestId | None = None


class Emit(msgspec.Struct, frozen=True):
    """Say something to the workers behind the cluster: `data` under the name of an event."""

    event: str
    data: msgspec.Raw
    request_id: RequestId | None = None


class Ping(msgspec.Struct, frozen=True):
    """Ask for a sign of life."""

    request_id: RequestId | None = None


class Malformed(msgspec.Struct, frozen=True):
    """What no operation could be read from. `message` says what is wrong with it, for the person who mends it."""

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
    | Ping
    | Malformed
)
