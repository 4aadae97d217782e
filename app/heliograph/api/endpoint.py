"""The endpoints of the server API: the key, the body, and the form of answers."""

import logging

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from heliograph.api import models
from heliograph.api.errors import BAD_REQUEST, UNAUTHORIZED, UNKNOWN_METHOD, ApiError
from heliograph.api.methods import METHODS, READS, Methods
from heliograph.auth.operators import Operator
from heliograph.settings import ApiSettings
from heliograph.transports.addresses import address_of
from heliograph.transports.api_callers import ApiCallers
from heliograph.transports.body import read_body
from heliograph.transports.failed_attempts import TOO_MANY, FailedAttempts

logger = logging.getLogger(__name__)


class ApiEndpoint:
    """The ASGI application behind `POST /api/{method}`.

    It answers 200 with `{"result":…}`, or with `{"error":{"code","message"}}` if the method could not be carried out;
    401 for a bad key, 400 for a body that is not a JSON object, 413 for one that is too large.
    """

    def __init__(
        self, methods: Methods, settings: ApiSettings, callers: ApiCallers, failed_attempts: FailedAttempts
    ) -> None:
        self._methods = methods
        self._callers = callers
        self._failed_attempts = failed_attempts
        self._has_key = bool(settings.secret())
        self._most_bytes = settings.body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return  # the client left in the middle of its body: nothing was done
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        name = request.path_params["method"]
        if request.method != "POST" and name not in METHODS:
            return _error(404, UNKNOWN_METHOD, f"there is nothing at {request.url.path[:128]!r}")
        body = await self._admitted_body(request)
        if isinstance(body, Response):
            return body
        try:
            if not isinstance(msgspec.json.decode(body), dict):
                return _error(400, BAD_REQUEST, "the body must be a JSON object")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
            return _error(400, BAD_REQUEST, f"the body is not JSON that every client can read: {error}")
        try:
            result = await self._methods.call(name, body)
        except ApiError as error:
            return _json(200, {"error": error.body})
        # A batch has its `replies` at the top, where cent and similar clients look for them.
        return _json(200, result if isinstance(result, models.BatchResult) else {"result": result})

    async def _admitted_body(self, request: Request) -> bytes | Response:
        """Return the body of a request with the right key, or the refusal."""
        if request.method != "POST":
            return _error(405, BAD_REQUEST, f"{request.method} is not supported here; use POST", {"Allow": "POST"})
        caller = await self._callers.admit(request)
        if caller is False:
            if not await self._failed_attempts.failed(address_of(request.scope)):
                return _error(429, UNAUTHORIZED, TOO_MANY, {"Retry-After": "1"})
            return _error(401, UNAUTHORIZED, self._why_not())
        if isinstance(caller, Operator) and (name := request.path_params.get("method")) not in READS:
            about = {"user": caller.name or None}
            logger.info("an operator (logged in by %s) calls %s", caller.way, repr(name)[:64], extra=about)
        body = await read_body(request, self._most_bytes)
        if body is None:
            text = f"the body has more than {self._most_bytes} bytes (HELIOGRAPH_API__BODY_BYTES); nothing was done"
            return _error(413, BAD_REQUEST, text)
        return body

    def _why_not(self) -> str:
        if not self._has_key:
            return "the server API is off: set HELIOGRAPH_API__KEY or HELIOGRAPH_API__KEY_FILE"
        return "the X-API-Key header must hold the key of this cluster (HELIOGRAPH_API__KEY)"


class LinesEndpoint(ApiEndpoint):
    """The same behind `POST /api`, for older API clients: `{"method":…,"params":…}`, one on each line.

    It answers 200 with a line for each, in order: `{"result":…}` or `{"error":{"code","message"}}`.
    """

    async def _answer(self, request: Request) -> Response:
        body = await self._admitted_body(request)
        if isinstance(body, Response):
            return body
        replies = await self._methods.call_each([line for line in body.splitlines() if line.strip()])
        return Response(b"\n".join(map(msgspec.json.encode, replies)), media_type="application/json")


def _error(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json(status, {"error": models.ErrorInfo(code, message)}, headers)


def _json(status: int, body: object, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
