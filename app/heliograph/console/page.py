"""The console: a page that shows the cluster and sends messages through it, and the page's data."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import PathLike, StaticFiles
from starlette.types import Message, Receive, Scope, Send

from heliograph.auth.authenticator import Authenticator, credentials_of
from heliograph.clock import Clock
from heliograph.cluster.node import Node
from heliograph.cluster.replicas import Replicas
from heliograph.errors import BusUnavailable
from heliograph.transports.api_callers import ApiCallers
from heliograph.transports.query import Query

STATIC = Path(__file__).parent / "static"
# The JavaScript client is served beside the console's files. A build of the package copies it there (setup.py); a
# checkout serves it from its source.
CLIENT = STATIC if (STATIC / "heliograph.js").exists() else Path(__file__).parents[3] / "clients" / "js" / "src"

# The page loads only its own files, and makes no markup out of text. It may open sockets to any replica that a
# developer names.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Console:
    """The page and its data."""

    node: Node
    replicas: Replicas
    clock: Clock
    authenticator: Authenticator
    callers: ApiCallers

    async def page(self, _: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers=HEADERS)

    async def cluster(self, request: Request) -> Response:
        """Return the replicas with a live lease; only this one, with the reason, if Redis cannot be reached.

        In jwt mode this needs a token, an operator's session or the key of the server API; other requests get only
        the mode.
        """
        answer: dict[str, object] = {"auth": self.authenticator.mode, "replica": self.node.name}
        if self.authenticator.mode != "open" and not await self.callers.admit(request):
            credentials = credentials_of(request.scope, Query(request.scope))
            if credentials.token is None:
                text = "the replicas are shown only with a token, or with the key of the server API"
                return JSONResponse({**answer, "replicas": [], "error": text})
            await self.authenticator.identify(credentials)
        try:
            replicas = await self.replicas.all()
        except BusUnavailable as error:
            replicas = [self.node.describe()]
            answer["error"] = str(error)
        now = self.clock.now()
        answer["replicas"] = [
            {**msgspec.structs.asdict(info), "seen_ms": max(0, round((now - info.renewed_at) * 1000))}
            for info in replicas
        ]
        if shards := self.node.shards:
            answer["shards"] = [msgspec.structs.asdict(each) for each in shards]
        return JSONResponse(answer)


def static_routes() -> list[BaseRoute]:
    """Return the routes of the console's files, with the client library, which any page may import."""
    return [Mount("/static", _WithHeaders(_Files(directory=STATIC)))]


class _Files(StaticFiles):
    """Serve the files of two directories under one path."""

    def get_directories(
        self, directory: PathLike | None = None, packages: list[str | tuple[str, str]] | None = None
    ) -> list[PathLike]:
        return [*super().get_directories(directory, packages), CLIENT]


class _WithHeaders:
    """Add `HEADERS` to every response of an ASGI application, and let pages of any origin read it."""

    def __init__(self, app: StaticFiles) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {**HEADERS, "Access-Control-Allow-Origin": "*"}
                added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, with_headers)
