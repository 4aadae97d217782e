"""What the doors that speak plain HTTP share: who may ask, how a refusal looks, what a URL says."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from app.errors import BusUnavailable, ErrorCode, HeliographError, KeysUnavailable
from app.transports.addresses import Addresses, address_of
from app.transports.auth import OriginPolicy
from app.transports.driver import Disconnected
from app.transports.requests import RequestRate

STATUS: Final = {
    ErrorCode.INVALID_TOKEN: 401,
    ErrorCode.NOT_ALLOWED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.CONNECTION_LIMIT: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.UNAVAILABLE: 503,
}  # any other: 400
RETRY_AFTER_S = 1
PREFLIGHT_S = 600  # how long a browser need not ask again
ASKED_WITH = "Authorization, Cache-Control, Last-Event-ID"  # the headers that a page may send


def refusal(code: ErrorCode, message: str) -> Response:
    """`{"error":{"code","message"}}` with the status that belongs to the code."""
    status = STATUS.get(code, 400)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": {"code": code.value, "message": message}}, status, headers)


class PageDoor:
    """The ASGI application behind a path that pages ask too, by one method: GET unless another is named.

    `serve` answers it, and may raise what a driver or an authenticator does. A page of another origin may ask if
    that origin is allowed, and is told so as CORS has it; any other page is refused.
    """

    def __init__(
        self,
        origins: OriginPolicy,
        addresses: Addresses,
        rate: RequestRate,
        serve: Callable[[Request], Awaitable[Response]],
        method: str = "GET",
    ) -> None:
        self._method = method
        self._origins = origins
        self._addresses = addresses
        self._rate = rate  # by address
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = self._addresses.enter(scope)
        if address is None:
            await refusal(ErrorCode.CONNECTION_LIMIT, self._addresses.refusal)(scope, receive, send)
            return
        try:
            await self._serve_one(scope, receive, send)
        finally:
            self._addresses.leave(address)

    async def _serve_one(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["Vary"] = "Origin"
        origin = request.headers.get("origin")
        if origin is not None and self._origins.allows(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Retry-After"
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if not self._origins.admits(request.headers):
            return refusal(ErrorCode.NOT_ALLOWED, "pages of this origin may not connect (HELIOGRAPH_ALLOWED_ORIGINS)")
        if request.method == "OPTIONS":
            return Response(
                status_code=204,
                headers={
                    "Allow": f"{self._method}, OPTIONS",
                    "Access-Control-Allow-Methods": self._method,
                    "Access-Control-Allow-Headers": ASKED_WITH,
                    "Access-Control-Max-Age": str(PREFLIGHT_S),
                },
            )
        if request.method != self._method:
            answer = refusal(ErrorCode.BAD_REQUEST, f"{request.method} means nothing here; use {self._method}")
            answer.status_code, answer.headers["Allow"] = 405, f"{self._method}, OPTIONS"
            return answer
        try:
            self._rate.take(address_of(request.scope))
            return await self._serve(request)
        except Disconnected as refused:
            return refusal(refused.code, str(refused))
        except (BusUnavailable, KeysUnavailable) as error:
            return refusal(error.code, f"not now, try again: {error}")
        except HeliographError as error:
            return refusal(error.code, str(error))
