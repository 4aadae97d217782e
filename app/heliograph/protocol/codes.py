"""Why a connection was closed. After 3000-3499 a client should come back, after 3500-3999 it should not."""

from enum import IntEnum


class CloseCode(IntEnum):
    """WebSocket close codes (RFC 6455 section 7.4); those from 3000 on are ours."""

    UNSUPPORTED_DATA = 1003
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013

    SHUTDOWN = 3001
    EXPIRED = 3005
    SLOW = 3008
    CONNECTION_LIMIT = 3010
    NO_PONG = 3012

    INVALID_TOKEN = 3500
    BAD_REQUEST = 3501
    FORCED = 3503
    NOT_ALLOWED = 3507
    TOO_MANY_ERRORS = 3509
