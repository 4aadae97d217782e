"""`POST /api/ticket`: exchange a token, which must not be in a URL, for a ticket, which may be."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from heliograph.auth.authenticator import Authenticator, credentials_of
from heliograph.errors import InvalidToken
from heliograph.transports.peers import Peers
from heliograph.transports.query import Query
from heliograph.transports.requests import RequestRate


class TicketEndpoint:
    """Give a client with valid credentials a ticket."""

    def __init__(self, authenticator: Authenticator, requests: RequestRate, peers: Peers) -> None:
        self._authenticator = authenticator
        self._requests = requests
        self._peers = peers

    async def serve(self, request: Request) -> Response:
        credentials = credentials_of(request.scope, Query(request.scope))
        if credentials.ticket is not None:
            raise InvalidToken("a ticket is given for a token, and not for another ticket")
        identity = await self._authenticator.identify(credentials, self._peers.of(request.scope, "http"))
        self._requests.take(identity.user)
        ticket = await self._authenticator.issue_ticket(identity)
        body = {"ticket": ticket, "expires_in": int(self._authenticator.ticket_ttl_s)}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})
