"""Heliograph in a Django site: a token for the page, and notifications that wait for the transaction.

# urls.py
path("token", token_view(channels=["news"]))

# views.py
send_on_commit(order.user, {"order": order.pk, "paid": True}, f"order-{order.pk}-paid")

A cluster that runs beside the site can ask it what clients may do, so that a session of the site is enough:

# live.py
hooks = Hooks(settings.LIVE_SECRET)

@hooks.connect
def connect(request: HttpRequest, asked: ConnectRequest) -> Client | None:
    return Client(user_id(request.user)) if request.user.is_authenticated else None

@hooks.subscribe
def subscribe(request: HttpRequest, asked: SubscribeRequest) -> bool:
    return Membership.objects.filter(user=asked.user, room=asked.channel).exists()

# urls.py
path("live/<hook>", hooks.view)

Settings of the cluster: `HELIOGRAPH_HOOKS__CONNECT=https://…/live/connect`, `HELIOGRAPH_HOOKS__SUBSCRIBE=…`. What the
functions get and return: `heliograph.contrib.hooks`.

Lifecycle events, which the cluster pushes with `HELIOGRAPH_WEBHOOKS__URL`:

@webhook(settings.LIVE_WEBHOOK_SECRET)
def told(request: HttpRequest, events: list[LifecycleEvent]) -> None:
    for event in events:
        Seen.objects.update_or_create(event=event.id, defaults={"user": event.user, "kind": event.event})

# urls.py
path("live/events", told)
"""

import inspect
import logging
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from heliograph.client.publisher import Publisher
from heliograph.client.tokens import TokenMaker
from heliograph.contrib.hooks import KEY_HEADER, Disconnect, HookFunctions, Refuse, answer_of, read_request
from heliograph.contrib.webhooks import WebhookReceiver
from heliograph.errors import BadData, BadSignature, HeliographError
from heliograph.protocol.lifecycle import LifecycleEvent

logger = logging.getLogger(__name__)

DEADLINE_S = 2.0  # a request waits no longer than that


@cache
def publisher() -> Publisher:
    """Return the publisher of this process. It reads `HELIOGRAPH_REDIS__URL`, and connects when it is first used.

    Raises:
        BadSetting: the variable is missing, or cannot be used.
    """
    return Publisher(deadline_s=DEADLINE_S)


def user_id(user: Any) -> str:
    """Return the id that a user of the site has in the cluster: the primary key as text."""
    return str(user.pk)


def send_on_commit(user: Any, data: object, idempotency_key: str | None = None) -> None:
    """Send to a user of the site when the transaction is committed, or at once where there is none.

    Without the cluster the transaction is committed all the same; the log says who was not told.
    """

    def send() -> None:
        try:
            publisher().send_to_user(user_id(user), data, idempotency_key)
        except HeliographError:
            logger.exception("user %s was not told", user_id(user))

    transaction.on_commit(send)


def token_view(*, channels: object = None, tokens: TokenMaker | None = None) -> Callable[[HttpRequest], HttpResponse]:
    """Return a view that gives a page its token, as plain text; an empty 401 where nobody is logged in.

    Args:
        channels: what the token gives beyond the namespaces; see `TokenMaker.make`. A function of the user may
            return it.
        tokens: without it, one that reads `HELIOGRAPH_AUTH__SECRET`.

    Raises:
        BadSetting: there is no secret.
    """
    maker = tokens or TokenMaker()

    def token(request: HttpRequest) -> HttpResponse:
        user: Any = request.user
        if not user.is_authenticated:
            return HttpResponse(status=401)
        given = channels(user) if callable(channels) else channels
        text = maker.make(user_id(user), given)
        return HttpResponse(text, content_type="text/plain", headers={"Cache-Control": "no-store"})

    return token


def webhook(
    secret: str,
) -> Callable[[Callable[[HttpRequest, list[LifecycleEvent]], None]], Callable[[HttpRequest], HttpResponse]]:
    """Make a function the view of the cluster's webhooks. It gets their events; what is not signed is answered 403.

    If it raises, the cluster sends the events again.

    Raises:
        BadSetting: the secret cannot be one (see `heliograph.contrib.webhooks`).
        TypeError: the function is a coroutine function, which the view would call and not await.
    """
    receiver = WebhookReceiver(secret)

    def decorate(
        function: Callable[[HttpRequest, list[LifecycleEvent]], None],
    ) -> Callable[[HttpRequest], HttpResponse]:
        _refuse_coroutines(function)

        @wraps(function)
        def view(request: HttpRequest) -> HttpResponse:
            try:
                events = receiver.read(request.headers, request.body)
            except BadSignature as error:
                return HttpResponse(str(error), status=403)
            except BadData as error:
                return HttpResponse(str(error), status=400)
            function(request, events)
            return HttpResponse(status=204)

        protected: Callable[[HttpRequest], HttpResponse] = csrf_exempt(require_POST(view))
        return protected

    return decorate


class Hooks(HookFunctions):
    """A view for hooks. Each method decorates the function of one hook, which gets the HTTP request too.

    Without a function for it, a hook is answered with 404. A coroutine function is a TypeError, as for `webhook`.
    """

    def __init__(self, secret: str) -> None:
        """`secret`: what the cluster shows with each request (see `heliograph.contrib.hooks`).

        Raises:
            BadSetting: it is too short to be one.
        """
        super().__init__(secret)
        self._functions: dict[str, Callable[..., Any]] = {}

    @property
    def view(self) -> Callable[..., HttpResponse]:
        """The view, for a path that ends in `<hook>`."""
        view: Callable[..., HttpResponse] = csrf_exempt(require_POST(self._view))
        return view

    def _view(self, request: HttpRequest, hook: str) -> HttpResponse:
        if not self._secret.is_shown(request.headers.get(KEY_HEADER)):
            return HttpResponse(f"the header {KEY_HEADER} does not have the secret of the hooks", status=403)
        function = self._functions.get(hook)
        if function is None:
            return HttpResponse(f"nothing answers the hook {hook!r} here", status=404)
        try:
            answer = function(request, read_request(hook, request.body))
        except (Refuse, Disconnect) as raised:
            answer = raised
        except BadData as error:
            return HttpResponse(str(error), status=400)
        return HttpResponse(answer_of(hook, answer), content_type="application/json")

    def _add(self, hook: str, function: Callable[..., Any]) -> None:
        _refuse_coroutines(function)
        self._functions[hook] = function


def _refuse_coroutines(function: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{function.__qualname__} must not be async: the view answers when it has returned")
