"""The common part of plain HTTP endpoints: origins, refusals and URLs."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from heliograph.errors import BusUnavailable, ErrorCode, HeliographError, HookRefused, InvalidToken, KeysUnavailable
from heliograph.transports.address_limits import AddressLimits
from heliograph.transports.addresses import address_of
from heliograph.transports.failed_attempts import TOO_MANY
from heliograph.transports.origins import REFUSED, OriginPolicy
from heliograph.transports.remote_client import Disconnected
from heliograph.transports.stream_response import StreamResponse

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
PREFLIGHT_S = 600  # how long a browser may cache the answer to a preflight
ASKED_WITH = "Authorization, Cache-Control, Content-Type, Last-Event-ID"  # headers that a page may send


def refusal(code: ErrorCode, message: str) -> Response:
    """Return `{"error":{"code","message"}}` with the status of the code."""
    status = STATUS.get(code, 400)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": {"code": code.value, "message": message}}, status, headers)


class PublicEndpoint:
    """The ASGI application behind a path that pages may request, with one method: GET by default.

    `serve` answers it, and may raise the errors of a driver or an authenticator. A page of another origin needs an
    allowed origin, and gets the CORS headers; any other page is refused.
    """

    def __init__(
        self,
        origins: OriginPolicy,
        by_address: AddressLimits,
        serve: Callable[[Request], Awaitable[Response]],
        method: str = "GET",
    ) -> None:
        self._method = method
        self._origins = origins
        self._by_address = by_address
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connections = self._by_address.connections
        address = connections.enter(scope)
        if address is None:
            await refusal(ErrorCode.CONNECTION_LIMIT, connections.refusal)(scope, receive, send)
            return
        leave = partial(connections.leave, address)
        response: Response | None = None
        try:
            try:
                response = await self._response_to(Request(scope, receive))
            except ClientDisconnect:
                return  # it left in the middle of its body: nothing was done
            if isinstance(response, StreamResponse):
                response.on_end(leave)
            await response(scope, receive, send)
        finally:
            if not isinstance(response, StreamResponse):  # that goes on when this has returned
                leave()

    async def _response_to(self, request: Request) -> Response:
        is_admitted = self._origins.admits(request.headers.raw)
        response = await self._answer(request) if is_admitted else refusal(ErrorCode.NOT_ALLOWED, REFUSED)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["Vary"] = "Origin"
        origin = request.headers.get("origin")
        if origin is not None and is_admitted and self._origins.is_another(origin, request.headers.get("host", "")):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Retry-After"
        return response

    async def _answer(self, request: Request) -> Response:
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
            answer = refusal(ErrorCode.BAD_REQUEST, f"{request.method} is not supported here; use {self._method}")
            answer.status_code, answer.headers["Allow"] = 405, f"{self._method}, OPTIONS"
            return answer
        try:
            self._by_address.requests.take(address_of(request.scope))
            return await self._serve(request)
        except Disconnected as refused:
            return refusal(refused.code, str(refused))
        except (BusUnavailable, KeysUnavailable) as error:
            return refusal(error.code, f"not now, try again: {error}")
        except (InvalidToken, HookRefused) as error:
            if not await self._by_address.failed_attempts.failed(address_of(request.scope)):
                return refusal(ErrorCode.RATE_LIMITED, TOO_MANY)
            return refusal(error.code, str(error))
        except HeliographError as error:
            return refusal(error.code, str(error))
