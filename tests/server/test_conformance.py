"""The cases of the Autobahn suite, against our WebSocket class as uvicorn runs it in a replica."""

import asyncio

import kosoku
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from heliograph.hub.frames import text_frame
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.protocol.codes import CloseCode
from heliograph.server.heartbeat import Heartbeat
from heliograph.server.serving import server_config
from heliograph.settings import Settings
from heliograph.transports.server_socket import SERVER_SOCKET, ServerSocket
from tests.support.ports import free_port
from tests.support.raw_socket import BINARY
from tests.support.replicas import settings_for
from tests.support.waiting import eventually

LARGEST = 16 * 1024 * 1024  # of the messages of cases 9.*; a replica takes less by default


class Echo:
    """A receiver that says everything again."""

    def __init__(self, socket: ServerSocket, outbox: Outbox[bytes]) -> None:
        self._socket = socket
        self._outbox = outbox

    def receive_text(self, text: str) -> None:
        self._say(text_frame(text.encode()))

    def receive_binary(self, data: bytes) -> None:
        frame = text_frame(data)
        self._say(bytes((0x80 | BINARY,)) + frame[1:])

    def _say(self, frame: bytes) -> None:
        if self._outbox.offer(frame) is not None:
            self._outbox.close(CloseCode.SLOW, "too slow")

    def lost(self, code: int) -> None:
        self._outbox.close(CloseCode.INTERNAL_ERROR, "gone")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    socket: ServerSocket = scope["extensions"][SERVER_SOCKET]
    outbox = Outbox(
        socket, FlushScheduler(lambda callback: asyncio.get_running_loop().call_soon(callback)), 4 * LARGEST
    )
    socket.attach(outbox, Echo(socket, outbox))


# 12.* and 13.* are about compression, which we refuse. 7.1.5 is websockets' own: a close inside of a fragmented
# message is answered as a breach of the protocol there.
CASES = {
    "framing, pings, reserved bits, opcodes, fragments": ["1.*", "2.*", "3.*", "4.*", "5.*"],
    "UTF-8": ["6.*"],
    "closing, limits": ["7.*", "10.*"],
    "large messages": ["9.1.*", "9.2.*", "9.3.*", "9.4.*", "9.5.*", "9.6.*"],
}


@pytest.fixture
def settings() -> Settings:
    return settings_for(limits={"frame_bytes": LARGEST})


@pytest.mark.slow
@pytest.mark.parametrize("cases", CASES.values(), ids=CASES)
async def test_conforms_to_rfc_6455(cases: list[str], settings: Settings) -> None:
    """Fails if a case of the suite is not answered as the standard wants it."""
    port = free_port()
    server = uvicorn.Server(server_config(echo, settings, Heartbeat(), host="127.0.0.1", port=port, loop="asyncio"))
    task = asyncio.create_task(server._serve(), name="serve-echo")  # serve() would take over the test's signals
    await eventually(lambda: server.started)
    try:
        results = await kosoku.run_fuzzingclient(
            f"ws://127.0.0.1:{port}", cases=cases, exclude_cases=["7.1.5"], concurrency=4
        )
    finally:
        server.should_exit = True
        await task
    assert results, "there are cases of that name; it has raised by now if one of them failed"
