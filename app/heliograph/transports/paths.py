"""Invalid paths."""

import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from heliograph.errors import ErrorCode
from heliograph.transports.handshake import deny
from heliograph.transports.http import refusal

_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_REFUSAL: Final = "the path holds a control character"


class PlainPaths:
    """Middleware: refuse control characters in a path with 400.

    No name may hold one. A pattern that ends with `$` also matches a path with a line end after it; a proxy that
    blocks the path without it would let that through.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _CONTROL_CHARACTER.search(scope["path"]) is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # websocket.connect
            await deny(scope, send, 400, _REFUSAL)
        else:
            await refusal(ErrorCode.BAD_REQUEST, _REFUSAL)(scope, receive, send)
