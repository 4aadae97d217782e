"""`POST /api/ticket`: a ticket, which may stand in a URL, for a token, which may not."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.errors import BusUnavailable, ErrorCode, HeliographError, InvalidToken, KeysUnavailable
from app.transports.auth import Authenticator, OriginPolicy, credentials_of
from app.transports.http import refusal


class TicketDoor:
    """Answers `POST /api/ticket`."""

    def __init__(self, authenticator: Authenticator, origins: OriginPolicy) -> None:
        self._authenticator = authenticator
        self._origins = origins

    async def serve(self, request: Request) -> Response:
        if not self._origins.admits(request.headers):
            return refusal(ErrorCode.NOT_ALLOWED, "pages of this origin may not connect (HELIOGRAPH_ALLOWED_ORIGINS)")
        try:
            return await self._issue(request)
        except (BusUnavailable, KeysUnavailable) as error:
            return refusal(error.code, f"not now, try again: {error}")
        except HeliographError as error:
            return refusal(error.code, str(error))

    async def _issue(self, request: Request) -> Response:
        credentials = credentials_of(request.scope, request.query_params)
        if credentials.ticket is not None:
            raise InvalidToken("a ticket is given for a token, and not for another ticket")
        identity = await self._authenticator.identify(credentials)
        ticket = await self._authenticator.issue_ticket(identity)
        body = {"ticket": ticket, "expires_in": int(self._authenticator.ticket_ttl_s)}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})
