"""What a session decides to do with an operation of its client. A driver carries it out."""

from typing import TYPE_CHECKING

import msgspec

from heliograph.errors import ErrorCode
from heliograph.protocol.events import Event, Unsubscribed
from heliograph.protocol.operations import (
    CountPresence,
    Emit,
    Incomplete,
    Publish,
    ReadHistory,
    ReadPresence,
    RequestId,
    Rpc,
    Send,
    Subscribe,
)
from heliograph.protocol.position import Position
from heliograph.protocol.subscription import NO_OPTIONS, SubscribeOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliograph.protocol.decision import Verdict
    from heliograph.protocol.grants import Permit


class Authenticate(msgspec.Struct, frozen=True):
    """Check these credentials, then call `Session.identified`, or close."""

    token: str | None
    user: str | None
    ticket: str | None = None


class RefreshToken(msgspec.Struct, frozen=True):
    """Check that this token is valid and the same user's, then call `Session.renewed`."""

    token: str
    request_id: RequestId | None


class CheckPermit(msgspec.Struct, frozen=True):
    """Check that this subscription token is the client's and the channel's; carry out what `permitted` returns."""

    token: str
    channel: str
    request_id: RequestId | None
    permitted: "Callable[[Permit], Action]"


class ExtendSubscription(msgspec.Struct, frozen=True):
    """Let the client stay on the channel until `expires_at` (seconds since the epoch; None: always), and tell it."""

    channel: str
    expires_at: float | None
    request_id: RequestId | None


class JoinChannel(msgspec.Struct, frozen=True):
    """Subscribe to the channel from this position on.

    `keep`: the client requested it while connecting and has no way to repeat it, so it is tried until it succeeds.
    """

    channel: str
    since: Position | None
    replay: bool
    request_id: RequestId | None = None
    keep: bool = False
    incomplete: Incomplete = Incomplete.DELIVER_REST
    options: SubscribeOptions = NO_OPTIONS


class LeaveChannel(msgspec.Struct, frozen=True):
    """Take the connection off the channel, then tell the client."""

    channel: str
    answer: Unsubscribed


class FetchHistory(msgspec.Struct, frozen=True):
    """Read what is kept of the channel, and answer with it."""

    operation: ReadHistory
    since: Position | None


class FetchPresence(msgspec.Struct, frozen=True):
    """Read who is on the channel, users or clients, and answer with it."""

    channel: str
    request_id: RequestId | None
    by_client: bool = False


class CountMembers(msgspec.Struct, frozen=True):
    """Read how many are on the channel, and answer with it."""

    channel: str
    request_id: RequestId | None


class NoteReceived(msgspec.Struct, frozen=True):
    """Note that the client has received everything up to these positions, if it was sent that; then answer."""

    positions: dict[str, Position]
    request_id: RequestId | None


class Reply(msgspec.Struct, frozen=True):
    """Send the event to the client."""

    event: Event


class Reject(msgspec.Struct, frozen=True):
    """Tell the client what was wrong; the connection stays open unless there is a close code."""

    code: ErrorCode
    message: str
    request_id: RequestId | None = None
    close: int | None = None
    number: int | None = None


class AskHook(msgspec.Struct, frozen=True):
    """Ask the user's backend about the operation, pass its verdict to `answered`, and carry out what that returns.

    Later operations wait.
    """

    operation: Send | Publish | Subscribe | ReadHistory | ReadPresence | CountPresence
    answered: "Callable[[Verdict], Action | None]"


# A message goes to the router unchanged, and is answered with the router's result.
Action = (
    Send
    | Publish
    | Emit
    | Rpc
    | Authenticate
    | RefreshToken
    | CheckPermit
    | ExtendSubscription
    | JoinChannel
    | LeaveChannel
    | FetchHistory
    | FetchPresence
    | CountMembers
    | NoteReceived
    | AskHook
    | Reply
    | Reject
)
