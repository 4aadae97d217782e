"""Headers of every HTTP answer of a replica."""

from typing import Final
from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STARTS: Final = ("http.response.start", "websocket.http.response.start")


class SafeHeaders:
    """Middleware: a browser must not guess an answer's type, and a redirect stays on this host.

    The client chooses the `Host` header, and a redirect that repeats it could lead elsewhere.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] in STARTS:
                headers = MutableHeaders(scope=message)
                add_to(headers)
                if "location" in headers:
                    headers["location"] = urlunsplit(("", "", *urlsplit(headers["location"])[2:]))
            await send(message)

        await self._app(scope, receive, send_safely)


def add_to(headers: MutableHeaders) -> None:
    """Forbid browsers to guess the type of the answer."""
    headers.setdefault("X-Content-Type-Options", "nosniff")


async def internal_error(_: Request, __: Exception) -> Response:
    """Return the answer after an error in an endpoint. No middleware applies to it."""
    response = PlainTextResponse("internal error; the log of this replica says which\n", 500)
    add_to(response.headers)
    return response
