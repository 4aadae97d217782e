"""What the doors that speak plain HTTP share: how a refusal looks."""

from typing import Final

from starlette.responses import JSONResponse, Response

from app.errors import ErrorCode

STATUS: Final = {
    ErrorCode.INVALID_TOKEN: 401,
    ErrorCode.NOT_ALLOWED: 403,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.CONNECTION_LIMIT: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.UNAVAILABLE: 503,
}  # any other: 400
RETRY_AFTER_S = 1


def refusal(code: ErrorCode, message: str) -> Response:
    """`{"error":{"code","message"}}` with the status that belongs to the code."""
    status = STATUS.get(code, 400)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": {"code": code.value, "message": message}}, status, headers)
