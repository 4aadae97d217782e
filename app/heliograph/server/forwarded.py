"""Who a client is behind a proxy: what `X-Forwarded-For` is believed of."""

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

HEADER = b"x-forwarded-for"


def believing(app: ASGIApp, trusted_proxies: str) -> ASGIApp:
    """The application behind these proxies: addresses and networks, comma-separated, or `*` for whoever connects.

    Each proxy adds whom it has heard from at the end. So of the named ones the last that is no proxy is the client;
    with `*` that is the last of all, as the proxy that connects is the only one that is known to be one.
    """
    trusted: ASGIApp = ProxyHeadersMiddleware(app, trusted_proxies)  # type: ignore[arg-type, assignment] # of uvicorn
    return _Last(trusted) if trusted_proxies.strip() == "*" else trusted


class _Last:
    """Leaves of `X-Forwarded-For` its last address."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        values = [value for name, value in scope.get("headers", ()) if name == HEADER]
        if len(values) > 1 or (values and b"," in values[0]):
            others = [field for field in scope["headers"] if field[0] != HEADER]
            scope = {**scope, "headers": [*others, (HEADER, values[-1].rpartition(b",")[2].strip())]}
        await self._app(scope, receive, send)
