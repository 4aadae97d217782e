"""Heliograph in a FastAPI application.

    api = FastAPI()
    mount(api, "/live")  # a replica in this process
    publish_from(api)  # a publisher for the endpoints
    api.get("/token")(token_endpoint(current_user, channels=["news"]))

    @api.post("/orders/{order_id}/pay")
    async def pay(order_id: int, live: LivePublisher) -> None:
        await live.publish(f"orders:{order_id}", {"paid": True})

Each of the three works without the others.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response

from heliograph.client.publisher import AsyncPublisher
from heliograph.client.tokens import TokenMaker

_Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def mount(api: FastAPI, path: str = "/live") -> None:
    """Serve a replica below `path`; it starts and stops with the application.

    It reads the variables that `heliograph serve` reads. Each process of the application is a replica. Needs
    `heliograph[server]`.

    Raises:
        BadSetting: a variable cannot be used.
    """
    from heliograph.main import app, lifespan

    _run_beside(api, lifespan)
    api.mount(path, app)


def publish_from(api: FastAPI, make: Callable[[], AsyncPublisher] = AsyncPublisher) -> None:
    """Open a publisher as the application starts, and close it at the end; endpoints get it as a `LivePublisher`.

    `make` returns the publisher, for one that needs arguments: `lambda: AsyncPublisher(deadline_s=2)`.
    """

    @asynccontextmanager
    async def with_publisher(_: FastAPI) -> AsyncIterator[None]:
        async with make() as publisher:
            api.state.heliograph_publisher = publisher
            yield

    _run_beside(api, with_publisher)


def _publisher_of(request: Request) -> AsyncPublisher:
    publisher: AsyncPublisher | None = getattr(request.app.state, "heliograph_publisher", None)
    if publisher is None:
        raise RuntimeError("no publisher: call heliograph.contrib.fastapi.publish_from(api), and run the lifespan")
    return publisher


LivePublisher = Annotated[AsyncPublisher, Depends(_publisher_of)]


def token_endpoint(
    current_user: Callable[..., Any], *, channels: object = None, tokens: TokenMaker | None = None
) -> Callable[[Any], Awaitable[Response]]:
    """Return an endpoint that gives a page its token, as plain text.

    Args:
        current_user: the application's own dependency that returns the user's id as text, or raises.
        channels: what the token gives beyond the namespaces; see `TokenMaker.make`. A function of the user's id may
            return it.
        tokens: without it, one that reads `HELIOGRAPH_AUTH__SECRET`.

    Raises:
        BadSetting: there is no secret.
    """
    maker = tokens or TokenMaker()
    user_of_request = Depends(current_user)

    async def token(user: Any = user_of_request) -> Response:
        given = channels(user) if callable(channels) else channels
        return Response(maker.make(user, given), media_type="text/plain", headers={"Cache-Control": "no-store"})

    return token


def _run_beside(api: FastAPI, lifespan: _Lifespan) -> None:
    """Have the application run this lifespan around its own."""
    own: _Lifespan = api.router.lifespan_context

    @asynccontextmanager
    async def both(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app), own(app) as state:
            yield state

    api.router.lifespan_context = both
