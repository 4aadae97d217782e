"""The address of a client behind a proxy: when `X-Forwarded-For` is trusted."""

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

HEADER = b"x-forwarded-for"


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
