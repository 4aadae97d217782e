"""Heliograph in a FastAPI application.

    api = FastAPI()
    mount(api, "/live")  # a replica in this process
    publish_from(api)  # a publisher for the endpoints
    api.get("/token")(token_endpoint(current_user, channels=["news"]))

    @api.post("/orders/{order_id}/pay")
    async def pay(order_id: int, live: LivePublisher) -> None:
        await live.publish(f"orders:{order_id}", {"paid": True})

Each of the three works without the others. A cluster that runs beside the application can ask it what clients may do:

    hooks = Hooks(SECRET)

    @hooks.connect
    def connect(asked: ConnectRequest, user: Annotated[User | None, Depends(session_user)]) -> Client | None:
        return None if user is None else Client(str(user.id), channels=["news"])

    @hooks.subscribe
    async def subscribe(asked: SubscribeRequest) -> bool:
        return await is_member(asked.user, asked.channel)

    api.include_router(hooks.router, prefix="/live")

Settings of the cluster: `HELIOGRAPH_HOOKS__CONNECT=https://…/live/connect`, `HELIOGRAPH_HOOKS__SUBSCRIBE=…`. What the
functions get and return: `heliograph.contrib.hooks`.

Lifecycle events, which the cluster pushes with `HELIOGRAPH_WEBHOOKS__URL`:

    events_of_webhook = webhook(SECRET)

    @api.post("/live/events", status_code=204)
    async def told(events: Annotated[list[LifecycleEvent], Depends(events_of_webhook)]) -> None:
        for event in events:
            await note(event.id, event.event, event.user)
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response

from heliograph.client.publisher import AsyncPublisher
from heliograph.client.tokens import TokenMaker
from heliograph.contrib.hooks import KEY_HEADER, Disconnect, HookFunctions, Refuse, answer_of
from heliograph.contrib.webhooks import WebhookReceiver
from heliograph.errors import BadData, BadSignature
from heliograph.protocol.lifecycle import LifecycleEvent

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


def webhook(secret: str) -> Callable[[Request], Awaitable[list[LifecycleEvent]]]:
    """Return a dependency: the events of a webhook that the cluster has signed. Others are answered with 403.

    Raises:
        BadSetting: the secret cannot be one (see `heliograph.contrib.webhooks`).
    """
    receiver = WebhookReceiver(secret)

    async def events(request: Request) -> list[LifecycleEvent]:
        try:
            return receiver.read(request.headers, await request.body())
        except BadSignature as error:
            raise HTTPException(403, str(error)) from None
        except BadData as error:
            raise HTTPException(400, str(error)) from None

    return events


class Hooks(HookFunctions):
    """Endpoints for hooks. Each method decorates the function of one hook, whose parameters are those of an endpoint.

    `router` has an endpoint for each. A plain function runs in a thread, as other endpoints do.
    """

    def __init__(self, secret: str) -> None:
        """`secret`: what the cluster shows with each request (see `heliograph.contrib.hooks`).

        Raises:
            BadSetting: it is too short to be one.
        """
        super().__init__(secret)
        self.router = APIRouter(dependencies=[Depends(self._check)], include_in_schema=False)

    def _check(self, key: Annotated[str | None, Header(alias=KEY_HEADER)] = None) -> None:
        if not self._secret.is_shown(key):
            raise HTTPException(403, f"the header {KEY_HEADER} does not have the secret of the hooks")

    def _add(self, hook: str, function: Callable[..., Any]) -> None:
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def endpoint(*args: Any, **kwargs: Any) -> Response:
                try:
                    return _response(hook, await function(*args, **kwargs))
                except (Refuse, Disconnect) as answer:
                    return _response(hook, answer)
        else:

            @wraps(function)
            def endpoint(*args: Any, **kwargs: Any) -> Response:
                try:
                    return _response(hook, function(*args, **kwargs))
                except (Refuse, Disconnect) as answer:
                    return _response(hook, answer)

        self.router.add_api_route(f"/{hook}", endpoint, methods=["POST"], response_model=None)


def _response(hook: str, answer: object) -> Response:
    return Response(answer_of(hook, answer), media_type="application/json")


def _run_beside(api: FastAPI, lifespan: _Lifespan) -> None:
    """Have the application run this lifespan around its own."""
    own: _Lifespan = api.router.lifespan_context

    @asynccontextmanager
    async def both(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app), own(app) as state:
            yield state

    api.router.lifespan_context = both
