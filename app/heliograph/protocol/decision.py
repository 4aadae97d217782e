"""The answers of a policy: allow, deny with a reason, or ask the user's backend; and the backend's verdicts."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from heliograph.errors import ErrorCode


class Hook(StrEnum):
    """What the user's backend may be asked."""

    CONNECT = "connect"
    REFRESH = "refresh"
    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    RPC = "rpc"
    SUB_REFRESH = "sub_refresh"


@dataclass(frozen=True, slots=True)
class Allow:
    """It is allowed."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The message is allowed, with these data in the place of the client's (None: the client's own).

    `ephemeral`: it is not kept.
    """

    data: msgspec.Raw | None = None
    ephemeral: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """The subscription is allowed until `expires_at` (seconds since the epoch; None: for ever).

    `info`: what presence says of the client on this channel; `data`: what the client is told; both JSON.
    """

    info: bytes | None = None
    expires_at: float | None = None
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Deny:
    """It is not allowed; the client is told why.

    `number`: the code that the user's backend gave; `close`: the connection ends with this code.
    """

    reason: str
    code: ErrorCode = ErrorCode.NOT_ALLOWED
    number: int | None = None
    close: int | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """The user's backend decides.

    The policy does not wait: it returns this to the driver. The client's later operations wait for the answer.
    """


Verdict = Allow | Rewrite | Grant | Deny
Decision = Allow | Deny | Ask

ALLOW: Final = Allow()
ASK: Final = Ask()
