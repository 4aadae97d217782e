"""A page, and a view that notifies another user."""

import logging

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from heliograph import PublishError
from heliograph.contrib.django import publisher

logger = logging.getLogger(__name__)


@login_required
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "index.html")


@login_required
@require_POST
def greet(request: HttpRequest, user_id: int) -> HttpResponse:
    """Notify a user, on every device."""
    try:
        publisher().send_to_user(str(user_id), {"text": f"{request.user.get_username()} says hello"})
    except PublishError:
        logger.exception("user %d was not notified", user_id)
        return HttpResponse(status=503)
    return HttpResponse(status=204)
