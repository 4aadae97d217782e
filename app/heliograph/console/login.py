"""`/api/session`, `/api/login`, `/api/logout`: an operator's session with the console."""

import logging
import math
import time

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from heliograph.auth.operators import Operator, Operators
from heliograph.errors import ErrorCode, UserBlocked
from heliograph.transports.addresses import address_of
from heliograph.transports.body import read_body
from heliograph.transports.http import refusal
from heliograph.transports.operator_cookie import HEADER, is_from_console, secret_of, set_cookie

logger = logging.getLogger(__name__)

MOST_BYTES = 32_768
ELSEWHERE = f"only the console's own page logs in: requests need the header {HEADER}, and no other page can send it"


class LoginRequest(msgspec.Struct, frozen=True):
    """The key of the server API, or a token; neither where anyone is an operator."""

    key: str = ""
    token: str = ""


class Login:
    """Answer for the session of the operator who asks."""

    def __init__(self, operators: Operators) -> None:
        self._operators = operators

    async def session(self, request: Request) -> Response:
        """Return who the operator is, and how one can log in."""
        try:
            operator = await self._operators.recognise(secret_of(request))
        except UserBlocked:
            operator = None
        return JSONResponse(self._shown(request, operator))

    async def log_in(self, request: Request) -> Response:
        """Check the key or the token, and set the cookie.

        Raises:
            InvalidToken, UserBlocked, KeysUnavailable, BusUnavailable: as `Operators.log_in`.
        """
        if not is_from_console(request):
            return refusal(ErrorCode.NOT_ALLOWED, ELSEWHERE)
        body = await read_body(request, MOST_BYTES)
        try:
            given = msgspec.json.decode(body or b"", type=LoginRequest)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            text = 'the body must be {"key":"…"} or {"token":"…"}'
            return refusal(ErrorCode.BAD_REQUEST, text)
        secret, operator = await self._operators.log_in(address_of(request.scope), key=given.key, token=given.token)
        logger.info("an operator has logged in by %s", operator.way, extra={"user": operator.name or None})
        response = JSONResponse(self._shown(request, operator))
        set_cookie(response, request, secret, math.ceil(operator.ends_at - time.time()))
        return response

    async def log_out(self, request: Request) -> Response:
        """End the session, and have the browser forget the cookie.

        Raises:
            BusUnavailable: the session goes on once Redis can be reached.
        """
        if not is_from_console(request):
            return refusal(ErrorCode.NOT_ALLOWED, ELSEWHERE)
        await self._operators.log_out(secret_of(request))
        response = JSONResponse(self._shown(request, None))
        set_cookie(response, request, "", 0)
        return response

    def _shown(self, request: Request, operator: Operator | None) -> dict[str, object]:
        who: dict[str, object] | None = None
        if operator is not None:
            expires_in = max(0, int(operator.ends_at - time.time()))
            who = {"name": operator.name, "way": operator.way, "expires_in": expires_in}
        return {"operator": who, "ways": self._operators.ways_from(address_of(request.scope))}
