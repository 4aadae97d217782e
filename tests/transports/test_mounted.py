"""The application inside another one, as docs/fastapi.md says: a real FastAPI under uvicorn's own server."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.client import Client
from tests.support.cluster import ROOT
from tests.support.event_source import EventSource
from tests.support.http import http_client
from tests.support.poller import Poller
from tests.support.ports import free_port
from tests.support.raw_socket import RawSocket
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

KEY = "a key for the server API"
NOT_STARTED = """
from fastapi import FastAPI

from heliograph.main import app as live

api = FastAPI()
api.mount("/live", live)
"""


def examples() -> tuple[str, str]:
    """The applications in the docs: of FastAPI with `mount`, and of Starlette without it."""
    first, second, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "fastapi.md").read_text(), re.DOTALL)
    assert "mount(api" in first
    assert "lifespan=my_lifespan" in second
    return first, second


StartUvicorn = Callable[[str], "contextlib.AbstractAsyncContextManager[str]"]


def spawn(directory: Path, source: str, port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    directory.mkdir()
    (directory / "main.py").write_text(source)
    command = [sys.executable, "-m", "uvicorn", "main:api", "--port", str(port), "--log-level", "warning"]
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=directory, env=environment, stderr=log)


@pytest.fixture
def start(tmp_path: Path, own_redis: RedisServer) -> StartUvicorn:
    """Serve an application in a process of its own: `async with start(source) as url`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HELIOGRAPH_AUTH__MODE": "open",
        "HELIOGRAPH_API__KEY": KEY,
        "HELIOGRAPH_REDIS__URL": own_redis.url,
    }

    @contextlib.asynccontextmanager
    async def serve(source: str) -> AsyncIterator[str]:
        port = free_port()
        directory = tmp_path / str(port)
        process = spawn(directory, source, port, environment)
        url = f"http://127.0.0.1:{port}"
        try:

            async def is_up() -> bool:
                assert process.poll() is None, (directory / "log").read_text()
                with contextlib.suppress(httpx.TransportError):
                    async with http_client(url) as http:
                        return (await http.get("/live/ready")).status_code == 200 or source == NOT_STARTED
                return False

            await eventually(is_up, within_s=30)
            yield url
        finally:
            process.terminate()
            assert process.wait(10) in (0, -15), (directory / "log").read_text()

    return serve


async def api(url: str, method: str, **parameters: Any) -> dict[str, Any]:
    async with http_client(url, headers={"X-API-Key": KEY}) as http:
        answer = await http.post(f"/live/api/{method}", json=parameters)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


async def test_what_is_mounted_is_a_replica(start: StartUvicorn) -> None:
    """Fails if a client under the prefix is welcomed and nothing crosses, by any transport, or by the API."""
    with_mount, without = examples()
    async with start(with_mount) as one, start(without) as two:
        async with (
            Client(f"{one}/live", user="alice") as alice,
            Client(f"{two}/live", user="bob") as bob,
            Client(f"{two}/live", path="/ws/users/bob%2F2") as other,
            EventSource(f"{one}/live", user="bob", channels="news") as events,
            Poller(f"{two}/live", user="bob", channels="news") as poller,
        ):
            assert alice.replica != bob.replica
            assert (await other.next("connected"))["user"] == "bob/2"
            await events.next("subscribed")
            assert [each["channel"] for each in await poller.poll()] == ["news"]
            assert (await alice.send("bob", "hello"))["delivery"] == "remote"
            assert await bob.messages(1) == ["hello"]
            assert (await events.next("message"))["data"] == "hello"
            assert [each["data"] for each in await poller.poll()] == ["hello"]
            await api(two, "publish", channel="news", data="by the API")
            assert (await events.next("message"))["data"] == "by the API"
            assert [each["data"] for each in await poller.poll()] == ["by the API"]
        async with http_client(one) as http:
            assert (await http.get("/")).json() == {"socket": "/live/ws"}


async def test_what_nobody_has_started_says_so_at_once(start: StartUvicorn) -> None:
    """Fails if clients are welcomed by a replica whose bus will never begin."""
    async with start(NOT_STARTED) as url:
        async with RawSocket(url, "/live/ws?user=alice") as raw:
            assert raw.status == 503
        async with http_client(url) as http:
            for path in ("/live/sse?user=alice", "/live/api/poll?user=alice", "/live/ready"):
                answer = await http.get(path)
                assert answer.status_code == 503
                assert "lifespan" in answer.json()["error"]["message"]
