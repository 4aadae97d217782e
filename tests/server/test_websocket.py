"""One of our sockets on a transport that keeps what is written to it."""

import asyncio
from typing import Any, cast

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.protocol.codes import CloseCode
from heliograph.server.websocket import FrameWebSocket, Sockets
from heliograph.transports.server_socket import SERVER_SOCKET
from tests.conftest import StartReplica
from tests.support.raw_socket import CLOSE, PING, TEXT, RawSocket
from tests.support.waiting import eventually

MASK = b"\x00\x00\x00\x00"


def frame(opcode: int, payload: bytes) -> bytes:
    """A short frame of a client."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + MASK + payload


class Transport:
    """What a socket needs of one."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = self.is_aborted = False

    def set_protocol(self, protocol: object) -> None: ...

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        assert not self.is_aborted
        self.written += data

    def writelines(self, frames: list[bytes]) -> None:
        self.write(b"".join(frames))

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return 1234


class Ears:
    """A receiver that remembers."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.codes: list[int] = []

    def receive_text(self, text: str) -> None:
        self.texts.append(text)

    def receive_binary(self, data: bytes) -> None:
        raise AssertionError

    def lost(self, code: int) -> None:
        self.codes.append(code)


class Case:
    """A socket, opened by an application that accepts, and attaches when the test says so."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.accepts = accepts
        self.transport = Transport()
        self.ears = Ears()
        self.state = ServerState()
        loop = asyncio.get_running_loop()
        self.sockets = Sockets(
            cast("Any", self), self.state, loop, max_bytes=100, ping_interval_s=0.05, ping_timeout_s=1
        )
        self.goes_on = asyncio.Event()
        self.socket = self.sockets.open(cast("asyncio.Transport", self.transport), {"type": "websocket"}, b"key")
        self.outbox = Outbox(self.socket, FlushScheduler(loop.call_soon), 10_000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        if self.accepts:
            await send({"type": "websocket.accept"})
        await self.goes_on.wait()
        socket: FrameWebSocket = scope["extensions"][SERVER_SOCKET]
        if self.accepts:
            socket.attach(self.outbox, self.ears)

    async def attach(self) -> None:
        self.goes_on.set()
        await self.turn()
        self.transport.written = b""

    async def turn(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)


async def test_what_comes_before_somebody_listens_is_kept() -> None:
    """Fails if frames that come while an application takes its time are lost, or get out of order."""
    case = Case()
    await case.turn()
    case.socket.data_received(frame(TEXT, b"one")[:4])
    case.socket.data_received(frame(TEXT, b"one")[4:] + frame(TEXT, b"two"))
    case.goes_on.set()
    await case.turn()
    case.socket.data_received(frame(TEXT, b"three"))
    assert case.ears.texts == ["one", "two", "three"]


async def test_but_not_any_amount_of_it() -> None:
    """Fails if who is not let in yet can have the server keep what it likes."""
    case = Case()
    await case.turn()
    for _ in range(3):
        case.socket.data_received(b"x" * 50)
    assert case.transport.is_aborted
    case.socket.connection_lost(None)
    await case.attach()
    assert case.ears.codes == [1006], "a receiver that comes too late hears so at once"
    assert case.outbox.closed


async def test_one_that_is_lost_before_it_is_accepted_is_never_pinged() -> None:
    """Fails if a ping is written to a transport that has ended: uvloop's raises an error then."""
    case = Case()
    case.socket.connection_lost(None)
    case.transport.is_closed = True
    await case.attach()
    assert case.ears.codes == [1006]
    assert not len(case.sockets.pings)


@pytest.mark.parametrize("ending", ["closed by us", "closed by the peer", "broken", "server stops", "gone"])
async def test_nothing_follows_the_end(ending: str) -> None:
    """Fails if something is written behind a close frame, a text counts after it, or the receiver hears twice."""
    case = Case()
    await case.attach()
    case.outbox.offer(b"waits")
    match ending:
        case "closed by us":
            case.socket.close(CloseCode.FORCED, "x" * 500)
        case "closed by the peer":
            case.socket.data_received(frame(CLOSE, b"\x03\xe8"))
        case "broken":
            case.socket.data_received(frame(0x3, b""))
        case "server stops":
            case.socket.shutdown()
        case "gone":
            case.socket.connection_lost(None)
    goodbye = case.transport.written
    assert len(goodbye) <= 127
    case.outbox.offer(b"late")
    case.socket.data_received(frame(TEXT, b"late"))
    case.socket.close(CloseCode.FORCED, "again")
    case.socket.connection_lost(None)
    await case.turn()
    assert case.transport.written == goodbye
    assert case.ears.texts == []
    assert len(case.ears.codes) == 1
    assert not case.state.connections
    assert not len(case.sockets.pings)
    assert not len(case.sockets.pongs)


async def test_hanging_up_waits_for_nobody() -> None:
    """Fails if a client that says nothing keeps its connection for the seconds that a goodbye may take."""
    case = Case()
    await case.attach()
    case.socket.close(CloseCode.BAD_REQUEST, "no 'connect' in time")
    case.socket.hang_up()
    assert case.transport.written.startswith(b"\x88")
    assert case.transport.is_closed
    assert not case.transport.is_aborted, "the close frame goes out"


async def test_it_pings_for_as_long_as_pongs_come() -> None:
    """Fails if a peer that answers is closed, one that does not is kept, or a stale pong counts."""
    case = Case()
    await case.attach()
    for _ in range(3):
        await eventually(lambda: bool(case.transport.written))
        ping = case.transport.written
        case.transport.written = b""
        assert ping[:2] == bytes((0x80 | PING, 4))
        case.socket.data_received(frame(0xA, b"old!"))
        assert len(case.sockets.pongs) == 1
        case.socket.data_received(frame(0xA, ping[2:]))
        assert len(case.sockets.pongs) == 0
    await eventually(lambda: bool(case.ears.codes))
    assert case.ears.codes == [CloseCode.NO_PONG]


async def test_what_the_transport_keeps_is_told_to_the_outbox() -> None:
    """Fails if back-pressure does not reach the outbox, or what the transport holds does not count."""
    case = Case()
    await case.attach()
    case.socket.pause_writing()
    case.outbox.offer(b"x" * 8000)
    await case.turn()
    assert case.transport.written == b""
    assert case.outbox.offer(b"x" * 800) == CloseCode.SLOW, "8,800 of ours and 1,234 there"
    case.socket.resume_writing()
    await case.turn()
    assert len(case.transport.written) == 8800


async def test_an_application_that_does_not_answer() -> None:
    """Fails if a client waits for an answer to its handshake that never comes."""
    case = Case(accepts=False)
    case.goes_on.set()
    await case.turn()
    assert case.transport.written.startswith(b"HTTP/1.1 500 ")
    assert case.transport.is_closed
    assert not case.state.tasks


BROKEN = {
    "reserved opcode": (1002, frame(0x3, b"")),
    "no mask": (1002, b"\x81\x05hello"),
    "no mask, long": (1002, b"\x81\x7e\x01\x00" + b"x" * 256),
    "fragmented ping": (1002, b"\x09\x80" + MASK),
    "bad text": (1007, frame(TEXT, b"\xff")),
    "bad text in fragments": (1007, b"\x01\x81" + MASK + b"\xff" + b"\x80\x80" + MASK),
    "too large": (1009, b"\x82\xff" + (200_000).to_bytes(8) + MASK + b"\x88" * 200_000),
    "close frame of one byte": (1002, frame(CLOSE, b"x")),
}


@pytest.mark.parametrize("answer_comes", ["with it", "later", "in pieces"])
@pytest.mark.parametrize("kind", BROKEN)
async def test_who_answers_the_close_is_let_go_at_once(
    start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch, kind: str, answer_comes: str
) -> None:
    """Fails if a client that broke the protocol, and says goodbye as it should, waits for the server to close."""
    monkeypatch.setattr("heliograph.server.websocket.DISCARD_S", 60)
    code, data = BROKEN[kind]
    goodbye = frame(CLOSE, code.to_bytes(2))
    one = await start_replica(redis_url=None, limits={"frame_bytes": 1024})
    async with RawSocket(one.url, "/ws?user=alice") as raw:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(raw.socket, data + (goodbye if answer_comes == "with it" else b""))
        assert (await raw.closed())[0] == code
        if kind != "close frame of one byte":
            for piece in {"with it": [], "later": [goodbye], "in pieces": [goodbye[:3], goodbye[3:]]}[answer_comes]:
                await loop.sock_sendall(raw.socket, piece)
                await asyncio.sleep(0.01)
        assert await raw.body() == b""
