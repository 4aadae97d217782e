"""A Django site with sessions, whose views answer hooks: `python -m tests.contrib.django_site <port> <secret>`."""

import sys
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

if not settings.configured:
    settings.configure(
        SECRET_KEY="of the site alone",
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["127.0.0.1"],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
        ],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    )
    django.setup()

from heliograph.contrib.django import Hooks
from heliograph.contrib.hooks import (
    Client,
    ConnectRequest,
    Disconnect,
    Message,
    PublishRequest,
    RefreshRequest,
    Refuse,
    RpcRequest,
    SubscribeRequest,
    Subscription,
)

hooks = Hooks(sys.argv[2] if len(sys.argv) > 2 else "a secret of the tests")


@hooks.connect
def connect(request: HttpRequest, asked: ConnectRequest) -> Client | None:
    user = request.session.get("user")
    return (
        None if user is None else Client(user, channels=["news"], info={"name": user.title()}, meta={"plan": "pro"})
    )


@hooks.subscribe
def subscribe(_: HttpRequest, asked: SubscribeRequest) -> Subscription | bool:
    return Subscription(info={"role": "member"}) if asked.channel == f"of:{asked.user}" else False


@hooks.publish
def publish(_: HttpRequest, asked: PublishRequest) -> Message | bool:
    return Message({"checked": asked.data}) if asked.data != "rude" else False


@hooks.rpc
def rpc(_: HttpRequest, asked: RpcRequest) -> Any:
    match asked.method:
        case "sum":
            return {"sum": sum(asked.data), "plan": asked.meta["plan"]}
        case "leave":
            raise Disconnect("as you wish", 4501)
        case _:
            raise Refuse(f"there is no {asked.method}", 404)


@hooks.refresh
def refresh(_: HttpRequest, asked: RefreshRequest) -> float | bool:
    return asked.user == "alice"


def log_in(request: HttpRequest, user: str) -> HttpResponse:
    request.session["user"] = user
    return HttpResponse("welcome")


urlpatterns = [path("login/<user>", log_in), path("live/<hook>", hooks.view)]


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), get_wsgi_application(), handler_class=Quiet).serve_forever()
