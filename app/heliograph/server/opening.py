"""A socket before the application has it: ASGI asks, the application accepts or refuses."""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Scope

from heliograph.server.handshake import agreement, refusal

logger = logging.getLogger(__name__)

_REFUSED: Message = {"type": "websocket.http.response.start", "status": HTTPStatus.FORBIDDEN, "headers": []}


class Socket(Protocol):
    """The methods of the socket that are used here."""

    transport: asyncio.Transport

    @property
    def attached(self) -> bool: ...

    def opened(self) -> None:
        """Start to send and receive frames."""
        ...


class PendingHandshake:
    """Run the ASGI application for one handshake; `accept` is the value that answers it.

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

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            logger.exception("WebSocket handshake failed with an unexpected error; answered 500")
        if not self._answered:
            self._refuse({**_REFUSED, "status": HTTPStatus.INTERNAL_SERVER_ERROR})
        if not self._socket.attached:
            self._socket.transport.close()

    async def _receive(self) -> Message:
        if self._is_announced:
            raise RuntimeError("attach to the socket in the scope: it cannot be read by ASGI events")
        self._is_announced = True
        return {"type": "websocket.connect"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept" and not self._answered:
            self._answered = True
            headers = [*self._default_headers, *message.get("headers", ())]
            if (subprotocol := message.get("subprotocol")) is not None:
                headers.append((b"sec-websocket-protocol", subprotocol.encode()))
            if self._extensions is not None:
                headers.append((b"sec-websocket-extensions", self._extensions))
            self._write(agreement(self._accept, headers))
            self._socket.opened()
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

    def _refuse(self, start: dict[str, Any] | Message) -> None:
        self._answered = True
        headers = [*self._default_headers, *start.get("headers", ())]
        self._write(refusal(start["status"], headers, self._body))

    def _write(self, data: bytes) -> None:
        if not self._socket.transport.is_closing():
            self._socket.transport.write(data)
