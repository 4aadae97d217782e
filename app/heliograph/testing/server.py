"""A real server in a thread of the test's process: memory instead of Redis, open mode, a free port of loopback.

    with EmbeddedServer() as server:
        publisher = Publisher(server.url, api_key=server.api_key)

Needs `heliograph[server]`. It has all endpoints of a replica, and the server API.
"""

import asyncio
import contextlib
import secrets
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from heliograph.errors import BadSetting

if TYPE_CHECKING:
    from heliograph.server.serving import DrainingServer

STARTS_WITHIN_S: Final = 30.0
ENDS_WITHIN_S: Final = 10.0
SIGTERM: Final = 15


class EmbeddedServer:
    """One replica without Redis. It forgets all publications when it stops.

    `url`: `http://127.0.0.1:<port>`; `websocket_url`: where clients connect; `api_key`: the key of the server API.
    """

    def __init__(self, **groups: Mapping[str, Any]) -> None:
        """Start nothing yet. `groups`: settings by group, such as `namespaces={"chat": {"presence": True}}`."""
        self.api_key = secrets.token_hex(16)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.websocket_url = f"ws://127.0.0.1:{self.port}/ws"
        self._groups: dict[str, Any] = {
            "redis": {"url": None, "durable_url": None},
            "auth": {"mode": "open"},
            "drain": {"grace_s": 0, "deadline_s": 2},
            "api": {"key": self.api_key, "key_file": None},
        }
        for name, values in groups.items():
            self._groups[name] = {**self._groups.get(name, {}), **values}
        self._thread: threading.Thread | None = None
        self._server: DrainingServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> Self:
        """Start the server, and return when it accepts connections. Raises RuntimeError if it does not start."""
        self._thread = threading.Thread(target=self._run, name="heliograph-embedded", daemon=True)
        self._thread.start()
        if not self._started.wait(STARTS_WITHIN_S) or self._error is not None:
            raise RuntimeError(f"the embedded server has not started on {self.url}") from self._error
        return self

    def stop(self) -> None:
        """Close all connections, and wait until the server has ended. May be called twice."""
        if self._thread is None:
            return
        loop, server = self._loop, self._server
        if loop is not None and server is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself, and its loop is closed
                loop.call_soon_threadsafe(server.handle_exit, SIGTERM, None)
        self._thread.join(ENDS_WITHIN_S)
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - `start` raises it, in the thread that waits for it
            self._error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        from heliograph.application import build_replica
        from heliograph.server.serving import build_server
        from heliograph.settings import Settings

        if unknown := self._groups.keys() - Settings.model_fields:
            raise BadSetting(f"there is no such group of settings: {', '.join(sorted(unknown))}")
        settings = Settings(**self._groups)
        replica = build_replica(settings, "embedded")
        server = build_server(replica, settings, host="127.0.0.1", port=self.port, loop="asyncio")
        self._loop, self._server = asyncio.get_running_loop(), server
        serving = asyncio.create_task(server.serve(), name="embedded-server")
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        if server.started:
            self._started.set()
        await serving


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
