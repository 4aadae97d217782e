"""The server API (`/api/publish` and others): commands of other programs for the cluster, with a key.

It follows the conventions of Centrifugo's HTTP API, so that its client libraries work unchanged: those that post to
`/api/<method>`, and those that post lines to `/api`.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from heliograph.api.direct_batch import DirectBatch
from heliograph.api.direct_broadcast import DirectBroadcast
from heliograph.api.direct_publish import DirectPublish
from heliograph.api.endpoint import ApiEndpoint, LinesEndpoint
from heliograph.api.methods import Methods
from heliograph.api.openapi import openapi_document
from heliograph.api.publishing import Publishing
from heliograph.settings import ApiSettings
from heliograph.transports.api_callers import ApiCallers
from heliograph.transports.direct import DirectEndpoint
from heliograph.transports.failed_attempts import FailedAttempts


def http_api_routes(
    methods: Methods, settings: ApiSettings, callers: ApiCallers, failed_attempts: FailedAttempts
) -> list[BaseRoute]:
    """Return the routes of the methods: all paths under `/api/` that no other route has taken."""
    return [
        Route("/api", LinesEndpoint(methods, settings, callers, failed_attempts)),
        Route("/api/{method}", ApiEndpoint(methods, settings, callers, failed_attempts)),
    ]


def direct_endpoints(publishing: Publishing, settings: ApiSettings) -> dict[bytes, DirectEndpoint]:
    """Return the endpoints that our server asks itself, by URL."""
    return {
        b"/api/publish": DirectPublish(publishing, settings),
        b"/api/batch": DirectBatch(publishing, settings),
        b"/api/broadcast": DirectBroadcast(publishing, settings),
    }


def openapi_route() -> BaseRoute:
    """Return the route of the document that describes the methods."""
    document = openapi_document()

    async def openapi(_: Request) -> Response:
        return JSONResponse(document)

    return Route("/api/openapi.json", openapi, methods=["GET"])
