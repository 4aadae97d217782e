"""What a session decides to do with an operation of its client. A driver carries it out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Check these credentials, then call `Session.identified`, or close."""

    token: str | None
    user: str | None
    ticket: str | None = None


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """Check that this token is valid and the same user's, then call `Session.renewed`."""

    token: str
    request_id: RequestId | None


@dataclass(frozen=True, slots=True)
class CheckPermit:
    """Check that this subscription token is the client's and the channel's; carry out what `permitted` returns."""

    token: str
    channel: str
    request_id: RequestId | None
    permitted: "Callable[[Permit], Action]"


@dataclass(frozen=True, slots=True)
class ExtendSubscription:
    """Let the client stay on the channel until `expires_at` (seconds since the epoch; None: always), and tell it."""

    channel: str
    expires_at: float | None
    request_id: RequestId | None


@dataclass(frozen=True, slots=True)
class JoinChannel:
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


@dataclass(frozen=True, slots=True)
class LeaveChannel:
    """Take the connection off the channel, then tell the client."""

    channel: str
    answer: Unsubscribed


@dataclass(frozen=True, slots=True)
class FetchHistory:
    """Read what is kept of the channel, and answer with it."""

    operation: ReadHistory
    since: Position | None


@dataclass(frozen=True, slots=True)
class FetchPresence:
    """Read who is on the channel, users or clients, and answer with it."""

    channel: str
    request_id: RequestId | None
    by_client: bool = False


@dataclass(frozen=True, slots=True)
class CountMembers:
    """Read how many are on the channel, and answer with it."""

    channel: str
    request_id: RequestId | None


@dataclass(frozen=True, slots=True)
class Reply:
    """Send the event to the client."""

    event: Event


@dataclass(frozen=True, slots=True)
class Reject:
    """Tell the client what was wrong; the connection stays open unless there is a close code."""

    code: ErrorCode
    message: str
    request_id: RequestId | None = None
    close: int | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class AskHook:
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
    | AskHook
    | Reply
    | Reject
)
