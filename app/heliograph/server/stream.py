"""A streamed response on uvicorn's transport: it writes prepared chunks, and costs no task, timer or coroutine."""

import asyncio
from collections.abc import Callable
from functools import lru_cache

from uvicorn.server import ServerState

from heliograph.deadlines import Deadlines
from heliograph.server.stalls import Stalls
from heliograph.transports.server_stream import LAST_CHUNK, Flow, chunk

END_TIMEOUT_S = 1.0  # how long a client may take to read the end of its stream before it is cut
MOST_READ_BYTES = 65_536  # from a client whose stream has begun: it has nothing to say

_framed = lru_cache(maxsize=16)(chunk)  # keep-alives: the same few for all streams


class Streams:
    """What all streamed responses of one server share."""

    def __init__(
        self, state: ServerState, loop: asyncio.AbstractEventLoop, *, keep_alive_s: float, stalls: Stalls
    ) -> None:
        self.state = state
        self.loop = loop
        self.stalls = stalls
        self.keep_alives = Deadlines(loop, keep_alive_s, TransportStream.keep_alive)
        self.ends = Deadlines(loop, END_TIMEOUT_S, TransportStream.cut)


class TransportStream(asyncio.Protocol):
    """A `ServerStream`, and from `attach` on the protocol of its connection, with a `shutdown` for uvicorn.

    `take_over`: gives the connection to the stream; it returns whether the client is still there, and reads.
    """

    __slots__ = (
        "_flow",
        "_is_ended",
        "_keep_alive",
        "_last",
        "_on_lost",
        "_read_bytes",
        "_streams",
        "_take_over",
        "transport",
    )

    takes_chunks = True
    headers = ((b"connection", b"close"),)  # no other request follows on the connection

    def __init__(
        self,
        streams: Streams,
        transport: asyncio.Transport,
        take_over: "Callable[[TransportStream], tuple[bool, bool]]",
    ) -> None:
        self._streams = streams
        self.transport = transport
        self._take_over: Callable[[TransportStream], tuple[bool, bool]] | None = take_over
        self._flow: Flow | None = None
        self._on_lost: Callable[[], object] | None = None
        self._keep_alive = b""
        self._last: bytes | None = None  # of a stream that was to end before it began
        self._is_ended = False
        self._read_bytes = 0

    # -- for the application

    @property
    def write(self) -> Callable[[list[bytes]], None]:
        """The transport's own method, without Python in between."""
        return self.transport.writelines

    def attach(
        self, flow: Flow, on_lost: Callable[[], object], *, keep_alive: bytes = b"", first: bytes = b""
    ) -> None:
        """Begin the body, after the head of the response was sent without a length; the application may return.

        `flow` waited until now. `on_lost` is called once, when the connection has ended, for whatever reason.
        `keep_alive` is written now and then (empty: nothing is), `first` at once; neither is a chunk yet.
        """
        take_over, self._take_over = self._take_over, None
        if take_over is None:
            raise RuntimeError("a stream is attached once")
        is_there, reads = take_over(self)
        self._flow = flow
        self._on_lost = on_lost
        if not is_there:
            self._lose()
            return
        self._streams.state.connections.add(self)  # type: ignore[arg-type] # to uvicorn one of its own
        if keep_alive:
            self._keep_alive = _framed(keep_alive)
            self._streams.keep_alives.put(self)
        if first:
            self.transport.write(_framed(first))
        if self._last is not None:
            self.end(self._last)
        elif reads:
            flow.resume()
        else:
            self.pause_writing()

    def end(self, last: bytes) -> None:
        """See `ServerStream`."""
        if self._take_over is not None:
            self._last = last
            return
        if self._is_ended:
            return
        self._is_ended = True
        self._streams.keep_alives.take_out(self)
        self._streams.ends.put(self)  # also of a client that has closed its side, and does not read
        if not self.transport.is_closing():
            self.transport.write((chunk(last) if last else b"") + LAST_CHUNK)
            self.transport.close()

    # -- from the transport

    def data_received(self, data: bytes) -> None:
        self._read_bytes += len(data)
        if self._read_bytes > MOST_READ_BYTES:
            self.transport.abort()

    def pause_writing(self) -> None:
        if self._flow is not None and not self._is_ended:
            self._streams.stalls.watch(self.transport)
            self._flow.pause(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        if self._flow is not None and not self._is_ended:
            self._streams.stalls.forget(self.transport)
            self._flow.resume()

    def eof_received(self) -> None:
        """Let the transport close itself, and cut a client that does not read what is still to be written."""
        self._streams.ends.put(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.state.connections.discard(self)
        self._lose()

    # -- from uvicorn and the timers

    def shutdown(self) -> None:
        """End, because the server stops."""
        self.transport.close()

    def keep_alive(self) -> None:
        if self.transport.is_closing():
            return
        if not self.transport.get_write_buffer_size():  # otherwise it has something to read
            self.transport.write(self._keep_alive)
        self._streams.keep_alives.put(self)

    def cut(self) -> None:
        """End without waiting for the client."""
        self.transport.abort()

    def _lose(self) -> None:
        """Let the application know, once, in the next event-loop iteration."""
        self._is_ended = True
        self._streams.keep_alives.take_out(self)
        self._streams.ends.take_out(self)
        self._streams.stalls.forget(self.transport)
        if self._flow is not None:
            self._flow.abandon()
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            self._streams.loop.call_soon(on_lost)
