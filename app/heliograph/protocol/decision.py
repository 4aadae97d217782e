"""The answers of a policy: allow, deny with a reason, or ask a hook first."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from heliograph.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class Allow:
    """It is allowed."""


@dataclass(frozen=True, slots=True)
class Deny:
    """It is not allowed; the client is told why."""

    reason: str
    code: ErrorCode = ErrorCode.NOT_ALLOWED


Verdict = Allow | Deny
Hook = Callable[[], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True)
class Ask:
    """The hook decides, once it is awaited. It may raise a HeliographError, which denies.

    The policy does not wait: it returns this to the driver. The client's later operations wait for the answer.
    """

    hook: Hook


Decision = Allow | Deny | Ask

ALLOW: Final = Allow()
