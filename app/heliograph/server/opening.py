"""A socket before the application has it: an endpoint or, asked by ASGI, the application accepts or refuses."""

import asyncio
import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Scope

from heliograph.server.handshake import agreement, refusal
from heliograph.transports.direct import DirectSocket
from heliograph.transports.server_socket import ServerSocket

logger = logging.getLogger(__name__)

_FAILED = "WebSocket handshake failed with an unexpected error; answered 500"
_REFUSED: Message = {"type": "websocket.http.response.start", "status": HTTPStatus.FORBIDDEN, "headers": []}


class Socket(ServerSocket, Protocol):
    """The socket as it is used here."""

    transport: asyncio.Transport

    @property
    def attached(self) -> bool: ...

    def opened(self) -> None:
        """Start to send and receive frames."""
        ...


class PendingHandshake:
    """Have one handshake answered; `accept` is the value that accepts it.

    `extensions`: the WebSocket extensions that the answer names, if it accepts.
    After it has accepted, the application must attach to the socket in the scope. ASGI events neither read nor write
    that socket.
    """

    def __init__(
        self,
        socket: Socket,
        accept: bytes,
        extensions: bytes | None,
        default_headers: list[tuple[bytes, bytes]],
    ) -> None:
        self._socket = socket
        self._accept = accept
        self._extensions = extensions
        self._default_headers = default_headers
        self._is_announced = False
        self._refused: Message | None = None
        self._body = b""
        self._answered = False

    def begin(self, endpoint: DirectSocket, scope: Scope) -> bool:
        """Let an endpoint accept the handshake at once. False: it has done nothing, and the application answers."""
        try:
            if not endpoint.open(scope, self._socket, self._accept_with):
                return False
        except Exception:
            logger.exception(_FAILED)
            if not self._answered:
                self._refuse({**_REFUSED, "status": HTTPStatus.INTERNAL_SERVER_ERROR})
        self._close_unless_attached()
        return True

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the application answer the handshake."""
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            logger.exception(_FAILED)
        if not self._answered:
            self._refuse({**_REFUSED, "status": HTTPStatus.INTERNAL_SERVER_ERROR})
        self._close_unless_attached()

    async def _receive(self) -> Message:
        if self._is_announced:
            raise RuntimeError("attach to the socket in the scope: it cannot be read by ASGI events")
        self._is_announced = True
        return {"type": "websocket.connect"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept" and not self._answered:
            self._accept_with(message.get("subprotocol"), message.get("headers", ()))
        elif kind == "websocket.close" and not self._answered:
            self._refuse(_REFUSED)
        elif kind == "websocket.http.response.start" and not self._answered and self._refused is None:
            self._refused = message
        elif kind == "websocket.http.response.body" and not self._answered and self._refused is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                self._refuse(self._refused)
        else:
            raise RuntimeError(f"{kind} is not for this moment: a handshake is answered once, then attach")

    def _accept_with(self, subprotocol: str | None, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._answered = True
        headers = [*self._default_headers, *more]
        if subprotocol is not None:
            headers.append((b"sec-websocket-protocol", subprotocol.encode()))
        if self._extensions is not None:
            headers.append((b"sec-websocket-extensions", self._extensions))
        self._write(agreement(self._accept, headers))
        self._socket.opened()

    def _close_unless_attached(self) -> None:
        if not self._socket.attached:
            self._socket.transport.close()

    def _refuse(self, start: dict[str, Any] | Message) -> None:
        self._answered = True
        headers = [*self._default_headers, *start.get("headers", ())]
        self._write(refusal(start["status"], headers, self._body))

    def _write(self, data: bytes) -> None:
        if not self._socket.transport.is_closing():
            self._socket.transport.write(data)
