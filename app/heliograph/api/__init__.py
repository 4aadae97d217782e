"""`/api/publish` and its kind: what other programs ask of the cluster, with a key.

Compatible with the conventions of Centrifugo's HTTP API, so that client libraries for it work unchanged: those that
post to `/api/<method>`, and those that post lines to `/api`.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from heliograph.api.endpoint import ApiEndpoint, LinesDoor
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
    """The methods: whatever no other route under `/api/` has taken."""
    methods = Methods(parts, user_commands, directory, channel_counts, clock)
    return [
        Route("/api", LinesDoor(methods, parts.settings.api, parts.failed_attempts)),
        Route("/api/{method}", ApiEndpoint(methods, parts.settings.api, parts.failed_attempts)),
    ]


def openapi_route() -> BaseRoute:
    """The document that describes the methods."""
    document = openapi_document()

    async def openapi(_: Request) -> Response:
        return JSONResponse(document)

    return Route("/api/openapi.json", openapi, methods=["GET"])
