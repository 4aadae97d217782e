"""The WebSocket endpoint with a second wire format: binary frames, each with any number of operations."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from starlette.routing import WebSocketRoute
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from heliograph.codecs.plain.codec import PlainCodec
from heliograph.protocol.events import Event
from heliograph.protocol.operations import Operation, RequestId
from heliograph.transports.websocket import WebSocketEndpoint, WireFormat
from tests.conftest import StartReplica
from tests.support.asgi_socket import AsgiSocket
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually


class Lines:
    """Plain frames, one a line, in binary frames."""

    name = "lines"
    subprotocols = ("lines",)
    is_binary = True
    is_partial = False
    deltas = None

    def __init__(self) -> None:
        self._plain = PlainCodec(8)

    def decode(self, frame: str | bytes) -> Sequence[Operation]:
        return [operation for line in frame.splitlines() for operation in self._plain.decode(line)]

    def request_ids(self, frame: str | bytes) -> Sequence[RequestId | None]:
        return [request_id for line in frame.splitlines() for request_id in self._plain.request_ids(line)]

    def encode(self, event: Event) -> bytes:
        return self._plain.encode(event) + b"\n"

    def close_code(self, code: int) -> int:
        return code


def add_lines(one: RunningReplica) -> None:
    """Have the replica answer at `/both`, in the plain format and in the other."""
    routes = one.replica.app.router.routes
    endpoint = next(route.app for route in routes if isinstance(route, WebSocketRoute))
    assert isinstance(endpoint, WebSocketEndpoint)
    traffic = one.replica.telemetry.traffic["websocket"]
    both = replace(endpoint, formats=(*endpoint.formats, WireFormat.of(Lines(), traffic)))
    routes.append(WebSocketRoute("/both", both))


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    one = await start_replica(redis_url=None, limits={"messages_per_second": 20})
    add_lines(one)
    return one


@pytest.fixture
async def socket(one: RunningReplica) -> AsyncIterator[ClientConnection]:
    """Connected to `/both`, and nothing said yet."""
    async with connect(one.url.replace("http", "ws", 1) + "/both", subprotocols=["lines"], proxy=None) as socket:  # type: ignore[list-item]
        yield socket


def lines(*frames: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps(frame).encode() for frame in frames)


async def hear(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    """The next events, each of which came in a binary frame."""
    heard: list[dict[str, Any]] = []
    while len(heard) < count:
        frame = await socket.recv()
        assert isinstance(frame, bytes)
        heard += map(json.loads, frame.splitlines())
    return heard


CONNECT = {"type": "connect", "user": "alice", "id": 1}


class TestAnotherFormat:
    async def test_the_operations_of_a_frame_are_carried_out_in_order(self, socket: ClientConnection) -> None:
        """Fails if what follows an operation that takes its time is lost, overtakes it, or waits for a frame."""
        await socket.send(
            lines(
                CONNECT,
                {"type": "subscribe", "channel": "news", "id": 2},
                {"type": "nonsense", "id": 3},
                {"type": "ping", "id": 4},
                {"type": "unsubscribe", "channel": "news", "id": 5},
            )
        )
        await socket.send(lines({"type": "ping", "id": 6}))
        heard = await hear(socket, 6)
        assert socket.subprotocol == "lines"
        assert [(frame["type"], frame["id"]) for frame in heard] == [
            ("connected", 1),
            ("subscribed", 2),
            ("error", 3),
            ("pong", 4),
            ("unsubscribed", 5),
            ("pong", 6),
        ]

    async def test_each_operation_counts(self, one: RunningReplica, socket: ClientConnection) -> None:
        """Fails if a client passes the rate by putting more into each frame, or is answered under another id."""
        await socket.send(lines(CONNECT, *({"type": "ping", "id": number} for number in range(2, 26))))
        heard = await hear(socket, 25)
        assert [frame["id"] for frame in heard if frame["type"] == "error"] == [21, 22, 23, 24, 25]
        assert one.replica.telemetry.traffic["websocket"].messages_in == 25
        await socket.send(lines({"type": "ping", "id": "a"}, {"type": "ping", "id": "b"}))
        assert [frame["id"] for frame in await hear(socket, 2)] == ["a", "b"]

    async def test_both_formats_hear_the_same(self, one: RunningReplica, socket: ClientConnection) -> None:
        """Fails if a message is encoded for one format only, or bytes of one reach a socket of the other."""
        url = one.url.replace("http", "ws", 1) + "/both?user=bob"
        async with connect(url, proxy=None) as plain:
            assert plain.subprotocol is None
            await socket.send(lines(CONNECT, {"type": "subscribe", "channel": "news", "id": 2}))
            await hear(socket, 2)
            await plain.recv()
            await plain.send('{"type":"subscribe","channel":"news"}')
            await plain.recv()
            await one.replica.manager.publish("news", {"글": 1})
            [message] = await hear(socket, 1)
            text = await plain.recv()
            assert isinstance(text, str)
            assert json.loads(text) == message

    async def test_a_frame_of_the_other_sort_ends_the_connection(self, socket: ClientConnection) -> None:
        """Fails if text is handed to a format that takes bytes."""
        await socket.send("text")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1003

    async def test_under_another_server(self, one: RunningReplica) -> None:
        """Fails if bytes are sent as text by plain ASGI."""
        async with AsgiSocket(one.replica.app, path="/both", subprotocols=["lines"]) as bare:
            bare.say_bytes(lines(CONNECT))
            await eventually(lambda: any("bytes" in message for message in bare.sent))
