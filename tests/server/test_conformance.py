"""The cases of the Autobahn suite, against our WebSocket class as uvicorn runs it in a replica."""

import asyncio
from collections.abc import Callable
from importlib import import_module

import kosoku
import pytest
import uvicorn
from kosoku import _caseindex
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
        deflater = self._socket.deflater
        self._say(text_frame(text.encode()) if deflater is None else deflater.text_frame(text.encode()))

    def receive_binary(self, data: bytes) -> None:
        deflater = self._socket.deflater
        frame = bytes((0x80 | BINARY,)) + text_frame(data)[1:]
        self._say(frame if deflater is None else deflater.binary_frame(data))

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


# 7.1.5 is websockets' own: a close inside of a fragmented message is answered as a breach of the protocol there.
CASES = {
    "framing, pings, reserved bits, opcodes, fragments": ["1.*", "2.*", "3.*", "4.*", "5.*"],
    "UTF-8": ["6.*"],
    "closing, limits": ["7.*", "10.*"],
    "large messages": ["9.1.*", "9.2.*", "9.3.*", "9.4.*", "9.5.*", "9.6.*"],
    "compression of texts, images, books": ["12.*"],
    "compression with all kinds of offers": ["13.*"],
}
MESSAGES = 5  # of each case about compression; the suite sends 1,000, which takes minutes


@pytest.fixture
def settings() -> Settings:
    return settings_for(limits={"frame_bytes": LARGEST}, compression={"enabled": True, "min_bytes": 1})


@pytest.fixture
def _few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    _caseindex.initialize_shims()
    about_compression = import_module("case12_x_x")
    for case in (*about_compression.Case12_X_X, *about_compression.Case13_X_X):
        monkeypatch.setattr(case, "COUNT", MESSAGES)
        monkeypatch.setattr(case, "onMessage", _with_bytes(case.onMessage))


def _with_bytes(on_message: Callable[[object, bytes, bool], None]) -> Callable[[object, bytes | str, bool], None]:
    """A message that the server did not compress, as it would not become smaller, is a string to kosoku's cases."""

    def on_any_message(case: object, message: bytes | str, is_binary: bool) -> None:
        on_message(case, message.encode("latin-1") if isinstance(message, str) else message, is_binary)

    return on_any_message


@pytest.mark.slow
@pytest.mark.usefixtures("_few_messages")
@pytest.mark.filterwarnings("ignore:unclosed file .*/autobahntestsuite/testdata:ResourceWarning")  # of the suite
@pytest.mark.parametrize("cases", CASES.values(), ids=CASES)
async def test_conforms_to_the_standards(cases: list[str], settings: Settings) -> None:
    """Fails if a case of the suite is not answered as the standards want it (RFC 6455, and RFC 7692)."""
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
    assert [each.case_id for each in results if each.behavior.value == "UNIMPLEMENTED"] == []
