"""A socket of a client that compresses: it reads what websockets' own parser reads, and no bomb costs much."""

import random
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from heliograph.hub.deflate import Deflater, Deflaters
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.server.compressed_websocket import CompressedSockets, CompressedWebSocket
from heliograph.server.compression import inflating_extension

if TYPE_CHECKING:
    import asyncio

MAX_BYTES = 1000
FIN, RSV1 = 0x80, 0x40


def deflate(data: bytes, level: int = 6) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def frame(first: int, payload: bytes, *, masked: bool = True) -> bytes:
    """A frame of a client, with any first byte."""
    size, mask = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 1 << 16:
        head = bytes((first, mask | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, mask | 127)) + size.to_bytes(8)
    return head + (bytes(4) if masked else b"") + payload  # a mask of zeroes changes nothing


class Transport:
    """What a socket needs of one."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = self.is_paused = False

    def set_protocol(self, protocol: object) -> None: ...

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, frames: list[bytes]) -> None:
        self.write(b"".join(frames))

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class Ears:
    """A receiver that remembers, and pauses reading before each of the messages that `pauses` names."""

    def __init__(self, pauses: frozenset[int] = frozenset()) -> None:
        self.heard: list[str | bytes] = []
        self._pauses = pauses
        self.socket: CompressedWebSocket

    def receive_text(self, text: str) -> None:
        self._hear(text)

    def receive_binary(self, data: bytes) -> None:
        self._hear(data)

    def _hear(self, message: str | bytes) -> None:
        self.heard.append(message)
        if len(self.heard) in self._pauses:
            self.socket.pause_reading()

    def lost(self, code: int) -> None: ...


class Idle:
    """An event loop that runs nothing, and its own timers."""

    time = staticmethod(time.monotonic)

    def call_soon(self, *_: Any) -> None: ...

    def call_later(self, *_: Any) -> "Idle":
        return self

    def cancel(self) -> None: ...


def listening(
    max_bytes: int = MAX_BYTES, pauses: frozenset[int] = frozenset()
) -> tuple[CompressedWebSocket, Transport, Ears]:
    """A socket on a transport that keeps what is written, attached to a receiver."""
    loop = cast("asyncio.AbstractEventLoop", Idle())
    sockets = CompressedSockets(
        Deflaters(1),
        cast("Any", None),
        ServerState(),
        loop,
        max_bytes=max_bytes,
        ping_interval_s=60,
        ping_timeout_s=60,
    )
    transport, ears = Transport(), Ears(pauses)
    socket = CompressedWebSocket(sockets, cast("asyncio.Transport", transport), Deflater(15, 1))
    socket.opened()
    ears.socket = socket
    socket.attach(Outbox(socket, FlushScheduler(lambda _: None), 100_000), ears)
    return socket, transport, ears


def close_code(written: bytes) -> int | None:
    """The code of the first close frame among the frames of the server, which are all short."""
    while written:
        size = written[1]
        if written[0] == 0x88:
            return int.from_bytes(written[2:4])
        written = written[2 + size :]
    return None


def as_the_library_reads(data: bytes) -> tuple[list[str | bytes], int | None]:
    """The messages in the data, and the code with which it fails them (None: it does not)."""
    parser = Protocol(Side.SERVER, state=State.OPEN, max_size=MAX_BYTES)
    parser.extensions = [inflating_extension()]
    parser.receive_data(data)
    heard: list[str | bytes] = []
    parts: list[bytes] = []
    is_text = False
    for event in parser.events_received():
        assert isinstance(event, Frame)
        if event.opcode is Opcode.CLOSE:
            return heard, int.from_bytes(event.data[:2]) if event.data else None
        if event.opcode in (Opcode.PING, Opcode.PONG):
            continue
        if event.opcode is not Opcode.CONT:
            is_text, parts = event.opcode is Opcode.TEXT, []
        parts.append(bytes(event.data))
        if event.fin:
            whole = b"".join(parts)
            try:
                heard.append(whole.decode() if is_text else whole)
            except UnicodeDecodeError:
                return heard, 1007
    return heard, None if parser.close_sent is None else parser.close_sent.code


contents = st.text(max_size=30).flatmap(lambda text: st.integers(1, 30).map(lambda times: (text * times).encode()))
payloads = contents | st.binary(max_size=150) | st.just(b"x" * 5 * MAX_BYTES) | st.just(b"\xff\xfe" * 40)
levels = st.sampled_from([0, 1, 9])
compressed = st.builds(deflate, payloads.filter(lambda data: not 990 < len(data) < 1010), levels)
opcodes = st.sampled_from([1, 2])
whole = st.builds(lambda opcode, data: [frame(FIN | RSV1 | opcode, data)], opcodes, compressed)
plain = st.builds(lambda opcode, text: [frame(FIN | opcode, text.encode())], opcodes, st.text(max_size=50))
control = st.builds(
    lambda opcode, data: [frame(FIN | opcode, data)], st.sampled_from([9, 10]), st.binary(max_size=20)
)


@st.composite
def fragmented(draw: st.DrawFn) -> list[bytes]:
    """A message in several frames, with control frames in between."""
    is_compressed = draw(st.booleans())
    data = draw(compressed) if is_compressed else draw(st.text(max_size=80)).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    first = draw(opcodes) | (RSV1 if is_compressed else 0)
    sent: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        final = FIN if end == len(data) and len(sent) >= len(cuts) else 0
        sent += [frame(final | first, data[begin:end]), *draw(st.just([]) | control)]
        first = 0
    if not final:
        sent.append(frame(FIN, b""))
    return sent


# The bits of the reserved kinds, compressed control frames and continuations, garbage instead of deflated data,
# frames without a mask, the end of the conversation.
wrong = st.builds(
    lambda first, data, masked: [frame(first, data, masked=masked)],
    st.integers(0, 255),
    st.binary(max_size=40) | compressed.filter(lambda data: len(data) < 100),
    st.booleans(),
)
good: st.SearchStrategy[list[list[bytes]]] = st.lists(whole | plain | control | fragmented(), max_size=6)
conversations = st.tuples(good, st.lists(wrong, max_size=1), good).map(
    lambda parts: [each for part in parts for group in part for each in group]
)


@settings(max_examples=150, deadline=None)
@given(
    sent=conversations,
    cuts=st.lists(st.integers(1, 300), max_size=30),
    pauses=st.frozensets(st.integers(1, 8), max_size=4),
)
def test_it_reads_what_the_library_reads(sent: list[bytes], cuts: list[int], pauses: frozenset[int]) -> None:
    """Fails if a message is lost, moved or changed, or a violation is answered with another code.

    However the bytes are cut, whenever the receiver pauses, whatever is compressed.
    """
    data = b"".join(sent)
    heard, code = as_the_library_reads(data)
    socket, transport, ears = listening(pauses=pauses)
    for cut in [*cuts, len(data)]:
        socket.data_received(data[:cut])
        data = data[cut:]
        while transport.is_paused and not transport.is_closed:
            socket.resume_reading()
    assert ears.heard == heard
    if code not in (None, 1006):
        assert close_code(transport.written) == code
    elif code is None:
        assert close_code(transport.written) in (None, 1005, 0), transport.written


NUMBERS = "".join(map(str, range(1000))).encode()

WRONG = {
    "a compressed ping": (1002, [frame(FIN | RSV1 | 9, deflate(b"ping"))]),
    "a compressed close": (1002, [frame(FIN | RSV1 | 8, deflate(b"\x03\xe8"))]),
    "the second reserved bit": (1002, [frame(FIN | 0x20 | 1, b"x")]),
    "both bits": (1002, [frame(FIN | RSV1 | 0x20 | 1, deflate(b"x"))]),
    "a compressed continuation": (1002, [frame(RSV1 | 1, b""), frame(FIN | RSV1, deflate(b"x"))]),
    "a continuation of nothing": (1002, [frame(FIN | RSV1, deflate(b"x"))]),
    "a message inside of another": (1002, [frame(RSV1 | 1, b""), frame(FIN | RSV1 | 1, deflate(b"x"))]),
    "no deflated data": (1002, [frame(FIN | RSV1 | 1, b"\xff\xff\xff\xff")]),
    "no deflated data, fragmented": (1002, [frame(RSV1 | 1, b""), frame(FIN, b"\xff\xff\xff\xff")]),
    "no mask": (1002, [frame(FIN | RSV1 | 1, deflate(b"x"), masked=False)]),
    "no UTF-8": (1007, [frame(FIN | RSV1 | 1, deflate(b"\xff"))]),
    "too large": (1009, [frame(FIN | RSV1 | 1, deflate(b"x" * (MAX_BYTES + 1)))]),
    "too large as it comes": (1009, [frame(FIN | RSV1 | 1, deflate(random.Random(1).randbytes(2000)))]),
    "too large in fragments": (
        1009,
        [frame(RSV1 | 2, deflate(NUMBERS)[:1000]), frame(FIN, deflate(NUMBERS)[1000:])],
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_said(kind: str) -> None:
    """Fails if the code is not the one of RFC 6455 section 7.4.1, or what comes before or after counts too."""
    code, frames = WRONG[kind]
    socket, transport, ears = listening()
    hello, late = frame(FIN | RSV1 | 1, deflate(b"hello")), frame(FIN | RSV1 | 1, deflate(b"late"))
    socket.data_received(b"".join([hello, *frames, late]))
    assert ears.heard == ["hello"]
    assert close_code(transport.written) == code


def test_the_largest_message_is_let_in() -> None:
    """Fails if the limit is not the one of messages that are not compressed."""
    socket, transport, ears = listening()
    socket.data_received(frame(FIN | RSV1 | 1, deflate(b"x" * MAX_BYTES)))
    assert ears.heard == ["x" * MAX_BYTES]
    assert transport.written == b""


BOMBS = {
    "one frame": lambda data: [frame(FIN | RSV1 | 1, data)],
    "fragments": lambda data: [
        frame(RSV1 | 1, data[:100]),
        *(frame(0, data[at : at + 100]) for at in range(100, len(data), 100)),
        frame(FIN, b""),
    ],
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_costs_little(kind: str) -> None:
    """Fails if a frame that inflates to 10 MB takes its memory or its time, or is not closed with 1009."""
    largest = 65_536
    data = deflate(b" " * 10_000_000, 9)
    assert len(data) < largest
    bomb = b"".join(BOMBS[kind](data))
    socket, transport, ears = listening(largest)
    tracemalloc.start()
    before, began = tracemalloc.get_traced_memory()[0], time.process_time()
    socket.data_received(bomb)
    took_s, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert close_code(transport.written) == 1009
    assert ears.heard == []
    assert peak < 1_000_000
    assert took_s < 0.1


def test_messages_that_nobody_is_ready_for_stay_compressed() -> None:
    """Fails if a read of thousands of small frames becomes a hundred megabytes while the receiver is busy."""
    one = frame(FIN | RSV1 | 1, deflate(b'"%b"' % (b"x" * 60_000), 9))
    read = one * (262_144 // len(one))  # what an event loop reads at once
    every = frozenset(range(1, 10_000))
    socket, transport, ears = listening(65_536, pauses=every)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    socket.data_received(read)
    assert tracemalloc.get_traced_memory()[1] - before < 3_000_000
    tracemalloc.stop()
    assert len(ears.heard) == 1
    for count in range(2, 6):
        assert transport.is_paused
        socket.resume_reading()
        assert len(ears.heard) == count
    socket.close(cast("Any", 3000), "enough")
    assert not transport.is_paused, "the rest is dropped, and the client's close frame is looked for"
    assert len(ears.heard) == 5
    socket.data_received(frame(FIN | 8, b"\x0b\xb8"))
    assert transport.is_closed
