"""Heliograph in a Django site: a token for the page, and notifications that wait for the transaction.

# urls.py
path("token", token_view(channels=["news"]))

# views.py
send_on_commit(order.user, {"order": order.pk, "paid": True}, f"order-{order.pk}-paid")
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse

from heliograph.client.publisher import Publisher
from heliograph.client.tokens import TokenMaker
from heliograph.errors import HeliographError

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
