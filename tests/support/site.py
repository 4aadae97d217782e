"""A user's own backend, which answers hooks: a real web server on loopback, as a test wants it."""

import asyncio
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.certificates import Certificate
from tests.support.ports import free_port
from tests.support.waiting import eventually

HOOKS = ("connect", "refresh", "subscribe", "publish", "rpc", "sub_refresh")
Answer = Callable[[dict[str, Any]], Any]


def _yes(_: dict[str, Any]) -> dict[str, Any]:
    return {"result": {}}


class ServedApp:
    """An ASGI application, served by uvicorn in this loop."""

    def __init__(self, app: Any, tls: Certificate | None = None, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            lifespan="off",
            ws="none",
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.key,
        )
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._server._serve(), name="site")
        await eventually(lambda: self._server.started or self._task.done())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = self._server.force_exit = True
        await self._task


class Site(ServedApp):
    """It answers `/<hook>` with what `answers` says: a dict, or a Response. `asked`: what came, with its headers."""

    def __init__(self, tls: Certificate | None = None) -> None:
        routes = [Route(f"/{hook}", self._answer, methods=["POST"]) for hook in HOOKS]
        super().__init__(Starlette(routes=routes), tls)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: dict[str, Answer] = {
            "connect": lambda _: {"result": {"user": "alice"}},
            "rpc": lambda request: {"result": {"data": {"method": request["method"], "got": request["data"]}}},
        }
        self.open = asyncio.Event()  # until it is set again, nothing is answered
        self.open.set()
        self.under_way = 0

    def urls(self, *hooks: str) -> dict[str, str]:
        """Settings that switch these hooks on."""
        return {hook: f"{self.url}/{hook}" for hook in hooks}

    def of(self, hook: str) -> list[dict[str, Any]]:
        """What this hook was asked."""
        return [request for name, request in self.asked if name == hook]

    async def _answer(self, request: Request) -> Response:
        hook, body = request.url.path[1:], await request.json()
        self.asked.append((hook, body))
        self.headers.append(dict(request.headers))
        self.under_way += 1
        try:
            await self.open.wait()
        finally:
            self.under_way -= 1
        given: Answer = self.answers.get(hook, _yes)
        answer = given(body)
        return answer if isinstance(answer, Response) else Response(json.dumps(answer))
