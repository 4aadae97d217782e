"""A user's own backend, which takes webhooks."""

import asyncio
import base64
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from heliograph.contrib.webhooks import WebhookReceiver

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliograph.protocol.lifecycle import LifecycleEvent

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


class Receiver:
    """The user's backend. `status(events)`: what it answers; it takes the events with 2xx.

    It hangs while `may_answer` is not set.
    """

    def __init__(self) -> None:
        self.taken: list[LifecycleEvent] = []
        self.asked: list[list[LifecycleEvent]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.status: Callable[[list[LifecycleEvent]], int] = lambda events: 204
        self.app = Starlette(routes=[Route("/events", self._serve, methods=["POST"])])
        self._receiver = WebhookReceiver(SECRET)

    async def _serve(self, request: Request) -> Response:
        events = self._receiver.read(request.headers, await request.body())
        self.asked.append(events)
        await self.may_answer.wait()
        status = self.status(events)
        if status < 300:
            self.taken += events
        return Response(status_code=status)
