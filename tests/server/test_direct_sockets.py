"""Handshakes that the server has answered past the application: the same checks, and the same answers."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState

from heliograph.server.opening import PendingHandshake
from heliograph.server.websocket import Sockets
from heliograph.transports.server_socket import ServerSocket
from tests.conftest import StartReplica
from tests.server.test_websocket import Transport
from tests.support.raw_socket import RawSocket
from tests.support.tokens import JWT, token
from tests.support.waiting import eventually

PAGE = {"Origin": "https://evil.test"}


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the handshakes that the application was asked about."""
    paths: list[str] = []
    run = PendingHandshake.run

    async def counted(self: PendingHandshake, app: ASGIApp, scope: Scope) -> None:
        paths.append(scope["raw_path"].decode())
        await run(self, app, scope)

    monkeypatch.setattr(PendingHandshake, "run", counted)
    return paths


async def test_the_usual_handshake_goes_past_the_application(start_replica: StartReplica, applied: list[str]) -> None:
    """Fails if a usual handshake takes the long way, or one that is not goes past what answers it."""
    one = await start_replica(redis_url=None, auth={"mode": "open"}, compression={"enabled": True})
    for target in ("/ws?user=alice&channels=news", "/ws", "/connection/websocket", "/connection/uni_websocket"):
        async with RawSocket(one.url, target) as raw:
            assert raw.status == 101
            assert "date: " in raw.head.lower()
        async with RawSocket(one.url, target, headers={"Sec-WebSocket-Extensions": "permessage-deflate"}) as raw:
            assert "sec-websocket-extensions: permessage-deflate" in raw.head.lower()
    assert applied == []
    for target, status in [("/ws/users/alice", 101), ("/ws/runs/1", 101), ("/%77s", 101), ("/nowhere", 403)]:
        async with RawSocket(one.url, target) as raw:
            assert raw.status == status
    for target, headers in [("/ws", PAGE), ("/connection/websocket", PAGE)]:
        async with RawSocket(one.url, target, headers=headers) as raw:
            assert raw.status == 403
    assert applied == ["/ws/users/alice", "/ws/runs/1", "/%77s", "/nowhere", "/ws", "/connection/websocket"]
    await eventually(lambda: one.replica.hub.connections == 0)


@pytest.mark.parametrize(
    "target", ["http://a?x", "http://a:99999/ws", "http://a:/ws", "http://[::1/ws", "/ws?user=\xe9"]
)
async def test_a_url_that_cannot_be_read_is_answered(start_replica: StartReplica, target: str) -> None:
    """Fails if a client is cut off without an answer, or the log has a traceback, because its URL is none."""
    one = await start_replica(redis_url=None, auth={"mode": "open"})
    async with RawSocket(one.url, target) as raw:
        assert raw.status == 400


async def test_a_bearer_without_a_name_is_refused_in_open_mode(start_replica: StartReplica) -> None:
    """Fails if a proxy that adds a header makes the server say that it has failed."""
    one = await start_replica(redis_url=None, auth={"mode": "open"})
    async with RawSocket(one.url, "/ws", headers={"Authorization": "Bearer x"}) as raw:
        assert raw.status == 400


async def test_the_subprotocol_is_chosen(start_replica: StartReplica, applied: list[str]) -> None:
    """Fails if a client is not told which of its subprotocols the server speaks, or gets a wrong one."""
    one = await start_replica(redis_url=None, auth={"mode": "open"})
    async with RawSocket(one.url, "/ws", headers={"Sec-WebSocket-Protocol": "other, json"}) as raw:
        assert "sec-websocket-protocol: json\r\n" in raw.head.lower() + "\r\n"
    async with RawSocket(one.url, "/connection/websocket?cf_protocol=protobuf") as raw:
        assert raw.status == 101
        assert "sec-websocket-protocol" not in raw.head.lower()
    assert applied == []


async def test_a_wrong_token_and_one_connection_too_many_are_refused(
    start_replica: StartReplica, applied: list[str]
) -> None:
    """Fails if a handshake that the application refuses gets in, or counts as a connection of its address."""
    one = await start_replica(redis_url=None, auth=JWT, limits={"connections_per_address": 1})
    bearer = {"Authorization": f"Bearer {token('alice')}"}
    async with RawSocket(one.url, "/ws", headers={"Authorization": "Bearer nonsense"}) as raw:
        assert raw.status == 401
    async with RawSocket(one.url, "/ws", headers=bearer) as raw, RawSocket(one.url, "/ws", headers=bearer) as other:
        assert (raw.status, other.status) == (101, 429)
    assert len(applied) >= 2


class Failing:
    """An endpoint with a defect, before or after it has accepted."""

    def __init__(self, *, accepts: bool) -> None:
        self.accepts = accepts

    def open(self, scope: Scope, socket: ServerSocket, accept: Callable[[str | None], object]) -> bool:
        if self.accepts:
            accept(None)
        raise ZeroDivisionError


@pytest.mark.parametrize(("accepts", "status"), [(False, b"500"), (True, b"101")])
async def test_an_unexpected_error_ends_the_connection(
    caplog: pytest.LogCaptureFixture, accepts: bool, status: bytes
) -> None:
    """Fails if an error leaves the client without an answer or an end, or is not in the log."""
    transport, loop = Transport(), asyncio.get_running_loop()
    sockets = Sockets(cast("Any", None), ServerState(), loop, max_bytes=100, ping_interval_s=1, ping_timeout_s=1)
    sockets.open(
        cast("asyncio.Transport", transport), {"type": "websocket"}, b"key", Failing(accepts=accepts)
    ).connection_lost(None)
    assert transport.written.startswith(b"HTTP/1.1 " + status)
    assert transport.written.count(b"HTTP/1.1") == 1
    assert transport.is_closed
    assert "WebSocket handshake failed with an unexpected error" in caplog.text
