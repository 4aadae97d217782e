"""The address of a client behind a proxy: when `X-Forwarded-For` is trusted."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

if TYPE_CHECKING:
    from collections.abc import Coroutine

HEADER = b"x-forwarded-for"
HEADERS = (HEADER, b"x-forwarded-proto")  # those that uvicorn reads


def believing(app: ASGIApp, trusted_proxies: str) -> ASGIApp:
    """Wrap the application for these proxies: addresses and networks, comma-separated, or `*` for every peer.

    Each proxy appends the address of its peer. So the client is the last address that is not a trusted proxy. With
    `*` it is the very last one, because only the proxy that connects is known to be a proxy.
    """
    trusted: ASGIApp = ProxyHeadersMiddleware(app, trusted_proxies)  # type: ignore[arg-type, assignment] # of uvicorn
    return _Last(trusted) if trusted_proxies.strip() == "*" else trusted


class _Last:
    """Keep only the last address of `X-Forwarded-For`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        values = [value for name, value in scope.get("headers", ()) if name == HEADER]
        if len(values) > 1 or (values and b"," in values[0]):
            others = [field for field in scope["headers"] if field[0] != HEADER]
            scope = {**scope, "headers": [*others, (HEADER, values[-1].rpartition(b",")[2].strip())]}
        await self._app(scope, receive, send)


class Believer:
    """Find out the client of a request outside of an application, as `believing` does."""

    def __init__(self, trusted_proxies: str) -> None:
        self._app = believing(self._take, trusted_proxies)
        self._scope: Scope = {}

    def __call__(self, scope: Scope) -> Scope:
        """Return the scope with the client's address."""
        for name, _ in scope["headers"]:
            if name in HEADERS:
                return self._asked(scope)
        return scope

    def _asked(self, scope: Scope) -> Scope:
        call = cast("Coroutine[Any, Any, None]", self._app(scope, _nothing, _nowhere))
        with suppress(StopIteration):  # it awaits nothing but the application
            call.send(None)
        found, self._scope = self._scope, {}
        return found

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope


async def _nothing() -> Message:
    raise RuntimeError("there is nothing to receive")


async def _nowhere(message: Message) -> None:
    raise RuntimeError("there is nobody to send to")
