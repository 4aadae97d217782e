"""Every error that this program raises on purpose, each with the code that a client sees on the wire."""

from enum import StrEnum


class ErrorCode(StrEnum):
    """The `code` of an `error` frame. The connection stays open unless a close code follows."""

    BAD_JSON = "bad_json"
    BAD_REQUEST = "bad_request"
    UNKNOWN_TYPE = "unknown_type"
    TOO_DEEP = "too_deep"
    RATE_LIMITED = "rate_limited"
    INVALID_TOKEN = "invalid_token"  # noqa: S105 - the name of an error
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - likewise; of subscription tokens only
    CONNECTION_LIMIT = "connection_limit"
    CHANNEL_LIMIT = "channel_limit"
    NOT_ALLOWED = "not_allowed"
    NOT_FOUND = "not_found"
    NOT_AVAILABLE = "not_available"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class HeliographError(Exception):
    """The base of all errors here. `str(error)` is for the person who must fix the cause."""

    code = ErrorCode.INTERNAL


class BadUserId(HeliographError):
    """A user id that is empty, too long or not printable text."""

    code = ErrorCode.BAD_REQUEST


class NotKnown(HeliographError):
    """What was asked about is not known, or not any more."""

    code = ErrorCode.NOT_FOUND


class BadDevice(HeliographError):
    """A device's name that is empty, too long or not printable text."""

    code = ErrorCode.BAD_REQUEST


class BadCursor(HeliographError):
    """A cursor that no replica has given."""

    code = ErrorCode.BAD_REQUEST


class BadChannel(HeliographError):
    """A name that is not valid for a channel."""

    code = ErrorCode.BAD_REQUEST


class UnknownNamespace(BadChannel):
    """A channel of a namespace that nobody has set up, where only those count that somebody has."""

    code = ErrorCode.NOT_FOUND


class BadData(HeliographError):
    """JSON that some reader could not read."""

    code = ErrorCode.BAD_REQUEST


class DataTooDeep(BadData):
    """JSON nested deeper than the limit."""

    code = ErrorCode.TOO_DEEP


class BadEnvelope(HeliographError):
    """Something on the bus that is not an envelope. It is logged, counted and skipped."""


class InvalidToken(HeliographError):
    """The client's credentials are not valid."""

    code = ErrorCode.INVALID_TOKEN


class TokenNotCurrent(InvalidToken):
    """The token has expired, or is not valid yet: another token of the same user may be."""


class UserBlocked(HeliographError):
    """The server keeps the user out for a while, whatever their token says."""

    code = ErrorCode.NOT_ALLOWED


class KeysUnavailable(HeliographError):
    """The keys that check tokens cannot be read: temporary, the client may retry."""

    code = ErrorCode.UNAVAILABLE


class HookUnavailable(HeliographError):
    """The user's backend did not answer a hook, or not in time, or with something else: temporary."""

    code = ErrorCode.UNAVAILABLE


class HookRefused(HeliographError):
    """The user's backend does not let the client in.

    `code`: NOT_ALLOWED, or UNAVAILABLE if the client may come back; `number`: the backend's own; `close`: the
    code to close the connection with.
    """

    def __init__(self, message: str, code: ErrorCode, number: int | None, close: int | None) -> None:
        super().__init__(message)
        self.code = code
        self.number = number
        self.close = close


class ConnectionLimit(HeliographError):
    """The user, or this replica, has as many connections as the settings allow."""

    code = ErrorCode.CONNECTION_LIMIT


class BusUnavailable(HeliographError):
    """Redis cannot be reached or did not answer in time: temporary, the caller may retry.

    `is_unsure`: the command may have been carried out, or may still be (a time-out, a connection that ended);
    otherwise nothing has happened. It is never retried for the caller: an ephemeral message that arrives twice is
    worse than an error for the sender.

    Clients see its text, so the text names nothing internal. `detail` is for operators: the text from Redis.
    """

    code = ErrorCode.UNAVAILABLE

    def __init__(self, message: str, *, is_unsure: bool = False, detail: str | None = None) -> None:
        super().__init__(message)
        self.is_unsure = is_unsure
        self.detail = message if detail is None else detail


class Unrecoverable(HeliographError):
    """Not everything is kept that was published since a client's position."""

    code = ErrorCode.NOT_FOUND


class StorageFull(BusUnavailable):
    """Messages of clients have filled their share of Redis: temporary. Nothing has happened."""


class OverBudget(HeliographError):
    """A user's clients have used up their budget for now. Nothing has happened.

    `excess`: which limit it was (see `protocol/budget.py`); `retry_s`: when there is room again.
    """

    code = ErrorCode.RATE_LIMITED

    def __init__(self, message: str, excess: str, retry_s: float) -> None:
        super().__init__(message)
        self.excess = excess
        self.retry_s = retry_s


class PublishError(BusUnavailable):
    """A publisher has given up: Redis refused, or could not be reached until the deadline.

    If Redis refused, nothing has happened, except that some of several lines may have been published. If it could not
    be reached, the message may have been published: to make sure, publish it again with `idempotency_key` (within
    300 s of the first attempt). `is_unsure` tells whether that may be.
    """

    def __init__(self, message: str, idempotency_key: str | None = None, advice: str = "") -> None:
        super().__init__(f"{message}; {advice}" if advice else message, is_unsure=bool(advice))
        self.idempotency_key = idempotency_key
        self.reason = message  # without the advice, for callers that retry by themselves


class NeedsRedis(HeliographError):
    """The call needs Redis, but this object reaches the cluster over HTTP. Nothing has happened."""

    code = ErrorCode.BAD_REQUEST


class BadSetting(HeliographError):
    """A `HELIOGRAPH_…` variable has an invalid value; the text names the variable."""


class BadSignature(HeliographError):
    """A webhook that the cluster did not sign, or not lately."""


class ClientError(HeliographError):
    """What a client that `heliograph.connect` made could not do, or was refused.

    `code` is the server's own (`not_allowed`, `rate_limited`, …: docs/protocol.md), or one of the client's: `closed`,
    `timeout`, `no_socket`, `token`, `http`, `bad_frame`.
    """

    code: str  # type: ignore[assignment]  # a newer server may know others than `ErrorCode`

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RequestRefused(ClientError):
    """The server has refused it. Nothing has happened, unless the text says that it is not known.

    `number`: the code that the user's own backend gave, if it did.
    """

    def __init__(self, code: str, message: str, number: int | None = None) -> None:
        super().__init__(code, message)
        self.number = number


class ClientClosed(ClientError):
    """The client is closed, or the connection ended before the answer came: it may have arrived all the same.

    `close_code`: why the connection ended (docs/protocol.md); None if there was none.
    """

    def __init__(self, message: str, close_code: int | None = None) -> None:
        super().__init__("closed", message)
        self.close_code = close_code


class NotAnswered(ClientError):
    """No answer came in time."""

    def __init__(self, message: str) -> None:
        super().__init__("timeout", message)


class NoSocket(ClientError):
    """The server is reached by server-sent events or polling only, and sending needs a WebSocket. It was not sent."""

    def __init__(self, message: str) -> None:
        super().__init__("no_socket", message)
