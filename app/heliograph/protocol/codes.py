"""Numbers on the wire: of errors, and why a client was taken off a channel or a connection was closed."""

from enum import IntEnum
from typing import Final

CLOSE_REASON_BYTES: Final = 123  # RFC 6455 section 5.5: a control frame has 125, two of them are the code


class ErrorNumber(IntEnum):
    """What an error says in wire formats with numbers, where `ErrorCode` has one word for several."""

    ALREADY_SUBSCRIBED = 105
    TOKEN_EXPIRED = 109
    UNRECOVERABLE_POSITION = 112


class UnsubscribeCode(IntEnum):
    """Why the server takes a client off a channel. From 2500 on the client should subscribe again."""

    SERVER = 2000
    GAP = 2500  # publications are lost that it has not got
    EXPIRED = 2501  # the right to the channel has expired


class CloseCode(IntEnum):
    """WebSocket close codes (RFC 6455 section 7.4); those from 3000 on are ours.

    After 3000-3499 a client should come back, after 3500-3999 it should not. A server that disconnects a user may
    give a code of its own: after 4000-4499 a client should come back, after 4500-4999 it should not.
    """

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


def is_final(code: int) -> bool:
    """Return whether a client that is closed with this code should not come back."""
    return 3500 <= code <= 3999 or 4500 <= code <= 4999


def close_reason(text: str) -> str:
    """Return as much of the text as a close frame has room for."""
    return text.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore")
