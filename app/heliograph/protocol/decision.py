"""What a policy answers: yes, no and why, or that somebody else has to be asked first."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from heliograph.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class Allow:
    """It may be done."""


@dataclass(frozen=True, slots=True)
class Deny:
    """It may not be done; the client is told why."""

    reason: str
    code: ErrorCode = ErrorCode.NOT_ALLOWED


Verdict = Allow | Deny
Hook = Callable[[], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True)
class Ask:
    """The hook says, once it is awaited. It may raise a HeliographError, which denies.

    What decides does not wait: it hands this on to whoever drives it. Until the answer is there, the client's later
    operations wait.
    """

    hook: Hook


Decision = Allow | Deny | Ask

ALLOW: Final = Allow()
