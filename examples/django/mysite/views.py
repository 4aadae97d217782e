"""A page, a token for it, and a view that notifies another user."""

import logging
import time

import jwt
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from heliograph.errors import PublishError
from mysite.live import publisher

logger = logging.getLogger(__name__)
TOKEN_LIFE_S = 300


@login_required
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "index.html")


@login_required
def token(request: HttpRequest) -> HttpResponse:
    """A token for the page: who the user is, which channels they may read, and until when."""
    claims = {"sub": str(request.user.pk), "exp": int(time.time()) + TOKEN_LIFE_S, "channels": ["news"]}
    return HttpResponse(jwt.encode(claims, settings.HELIOGRAPH_SECRET, "HS256"), content_type="text/plain")


@login_required
@require_POST
def greet(request: HttpRequest, user_id: int) -> HttpResponse:
    """Notify a user, on every device."""
    try:
        publisher.send_to_user(str(user_id), {"text": f"{request.user.get_username()} says hello"})
    except PublishError:
        logger.exception("user %d was not notified", user_id)
        return HttpResponse(status=503)
    return HttpResponse(status=204)
