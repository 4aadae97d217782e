"""Errors of the server API: the codes of Centrifugo's API, and the answer instead of a result."""

from typing import Final

from heliograph.api import models
from heliograph.errors import BusUnavailable, HeliographError, UnknownNamespace

INTERNAL: Final = 100  # also: Redis cannot be reached
UNAUTHORIZED: Final = 101
UNKNOWN_CHANNEL: Final = 102  # of a namespace that nobody has set up
DENIED: Final = 103  # by the user's backend
UNKNOWN_METHOD: Final = 104
LIMIT_EXCEEDED: Final = 106
BAD_REQUEST: Final = 107
NOT_AVAILABLE: Final = 108  # the channel's namespace has no such thing
UNRECOVERABLE: Final = 112
NOT_KNOWN: Final = 404  # not of that API: nobody knows the message, or not any more

UNEXPECTED: Final = "a server API method failed with an unexpected error"


class ApiError(Exception):
    """The answer instead of a result."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def body(self) -> models.ErrorInfo:
        return models.ErrorInfo(self.code, str(self))


class NotNow(ApiError):
    """Redis cannot be reached. The call may be retried."""

    def __init__(self, message: str) -> None:
        super().__init__(INTERNAL, message)


def api_error(error: HeliographError) -> ApiError:
    """Return what the caller is told of an error."""
    if isinstance(error, BusUnavailable):
        return NotNow(_not_done(error))
    return ApiError(UNKNOWN_CHANNEL if isinstance(error, UnknownNamespace) else BAD_REQUEST, str(error))


def _not_done(error: BusUnavailable) -> str:
    """Return the text for the caller, which says whether a retry may do it twice."""
    if error.is_unsure:
        return f"perhaps done, perhaps not; try again, a publication with the same idempotency_key: {error}"
    return f"not now, try again: {error}"
