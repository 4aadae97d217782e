"""The server API (`/api/publish` and others): commands of other programs for the cluster, with a key.

It follows the conventions of Centrifugo's HTTP API, so that its client libraries work unchanged: those that post to
`/api/<method>`, and those that post lines to `/api`.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from heliograph.api.endpoint import ApiEndpoint, LinesEndpoint
from heliograph.api.methods import Methods
from heliograph.api.openapi import openapi_document
from heliograph.clock import Clock
from heliograph.cluster.channel_counts import ChannelCounts
from heliograph.cluster.directory import Directory
from heliograph.cluster.user_commands import UserCommands
from heliograph.transports.driver import Parts


def http_api_routes(
    parts: Parts, user_commands: UserCommands, directory: Directory, channel_counts: ChannelCounts, clock: Clock
) -> list[BaseRoute]:
    """Return the routes of the methods: all paths under `/api/` that no other route has taken."""
    methods = Methods(parts, user_commands, directory, channel_counts, clock)
    return [
        Route("/api", LinesEndpoint(methods, parts.settings.api, parts.failed_attempts)),
        Route("/api/{method}", ApiEndpoint(methods, parts.settings.api, parts.failed_attempts)),
    ]


def openapi_route() -> BaseRoute:
    """Return the route of the document that describes the methods."""
    document = openapi_document()

    async def openapi(_: Request) -> Response:
        return JSONResponse(document)

    return Route("/api/openapi.json", openapi, methods=["GET"])
