"""The numbers of errors and of closes that Centrifuge client SDKs know."""

from typing import Final

from heliograph.errors import ErrorCode
from heliograph.protocol.codes import CloseCode

INTERNAL: Final = 100
UNKNOWN_CHANNEL: Final = 102
DENIED: Final = 103
METHOD_NOT_FOUND: Final = 104
LIMIT: Final = 106
BAD_REQUEST: Final = 107
NOT_AVAILABLE: Final = 108
TOKEN_EXPIRED: Final = 109
TOO_MANY_REQUESTS: Final = 111
UNAUTHORIZED: Final = 101

# After an error with one of these numbers, a client tries again by itself.
TEMPORARY: Final = frozenset((INTERNAL, TOO_MANY_REQUESTS))

ERRORS: Final[dict[ErrorCode, int]] = {
    ErrorCode.BAD_JSON: BAD_REQUEST,
    ErrorCode.BAD_REQUEST: BAD_REQUEST,
    ErrorCode.UNKNOWN_TYPE: METHOD_NOT_FOUND,
    ErrorCode.TOO_DEEP: BAD_REQUEST,
    ErrorCode.RATE_LIMITED: TOO_MANY_REQUESTS,
    ErrorCode.INVALID_TOKEN: UNAUTHORIZED,
    ErrorCode.TOKEN_EXPIRED: TOKEN_EXPIRED,
    ErrorCode.CONNECTION_LIMIT: LIMIT,
    ErrorCode.CHANNEL_LIMIT: LIMIT,
    ErrorCode.NOT_ALLOWED: DENIED,
    ErrorCode.NOT_FOUND: UNKNOWN_CHANNEL,
    ErrorCode.NOT_AVAILABLE: NOT_AVAILABLE,
    ErrorCode.UNAVAILABLE: INTERNAL,
    ErrorCode.INTERNAL: INTERNAL,
}

# Where these SDKs know another number than clients of the plain protocol; or none below 3000, and so no reason.
CLOSES: Final[dict[int, int]] = {
    CloseCode.UNSUPPORTED_DATA: 3501,
    CloseCode.INTERNAL_ERROR: 3004,
    CloseCode.TRY_AGAIN_LATER: 3004,
    CloseCode.CONNECTION_LIMIT: 3504,
}
