"""An application that was not started refuses every request, and says what to do."""

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from heliograph.cluster.node import Node
from heliograph.errors import ErrorCode
from heliograph.transports.handshake import deny
from heliograph.transports.http import refusal

logger = logging.getLogger("heliograph")

_NOT_STARTED = (
    "Heliograph is not started: its lifespan does not run. Mounted in another application, it needs that one's: "
    "FastAPI(lifespan=heliograph.main.lifespan), "
    "or `async with heliograph.main.lifespan(api)` in a lifespan of your own"
)


class Started:
    """Middleware: refuse everything with 503 until the replica has been started.

    A framework does not run the lifespan of a mounted application. Clients could connect to it, but no message would
    ever reach another replica.
    """

    def __init__(self, app: ASGIApp, node: Node) -> None:
        self._app = app
        self._node = node
        self._has_said_so = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._node.was_started or scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if not self._has_said_so:
            self._has_said_so = True
            logger.error(_NOT_STARTED)
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await deny(scope, send, 503, _NOT_STARTED)
        else:
            await refusal(ErrorCode.UNAVAILABLE, _NOT_STARTED)(scope, receive, send)
