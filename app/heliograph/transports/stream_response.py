"""A response whose body is a stream of events, until one side ends it."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from heliograph.codecs.codec import DeltaEncoders, Encoder
from heliograph.hub.frames import Encoding
from heliograph.protocol.events import Event
from heliograph.tasks import end
from heliograph.telemetry import Traffic
from heliograph.transports.asgi_stream import AsgiStream
from heliograph.transports.server_stream import SERVER_STREAM, Flow, ServerStream, chunk


class LastingStream(ServerStream, Protocol):
    """The `ServerStream` of our own server, which `SERVER_STREAM` in the scope returns. It needs no task."""

    def attach(
        self, flow: Flow, on_lost: Callable[[], object], *, keep_alive: bytes = b"", first: bytes = b""
    ) -> None:
        """Begin the body, after the head of the response was sent; the application may return.

        `flow` waited until now. `on_lost` is called once, when the stream has ended, for whatever reason.
        `keep_alive` is written now and then (empty: nothing is), `first` at once; neither is a chunk yet.
        """
        ...


@dataclass(frozen=True)
class StreamFormat:
    """A codec and what stands around its payloads in a stream: as chunks for our own server, as bytes for others."""

    chunks: Encoding[bytes]
    blocks: Encoding[bytes]

    @classmethod
    def of(
        cls,
        codec: Encoder,
        block: Callable[[bytes], bytes],
        traffic: Traffic,
        deltas: DeltaEncoders | None = None,
    ) -> "StreamFormat":
        """`block`: makes a block of the stream from a payload. No payload makes nothing. `deltas`: see `Encoding`."""

        def as_block(payload: bytes, event: Event) -> bytes:
            return block(payload) if payload else payload

        def as_chunk(payload: bytes, event: Event) -> bytes:
            return chunk(block(payload)) if payload else payload

        return cls(
            Encoding(codec, as_chunk, traffic, join=b"".join, deltas=deltas),
            Encoding(codec, as_block, traffic, join=b"".join, deltas=deltas),
        )

    def encoding_for(self, stream: ServerStream) -> Encoding[bytes]:
        return self.chunks if stream.takes_chunks else self.blocks


class StreamSink:
    """A `Sink` for the frames of a `StreamFormat`. `last_block`: makes the one that says why it ends."""

    __slots__ = ("_last_block", "_stream")

    def __init__(self, stream: ServerStream, last_block: Callable[[int, str], bytes]) -> None:
        self._stream = stream
        self._last_block = last_block

    @property
    def write(self) -> Callable[[list[bytes]], None]:
        return self._stream.write

    def close(self, code: int, reason: str) -> None:
        self._stream.end(self._last_block(code, reason))


def stream_for(scope: Scope, *, keep_alive_s: float) -> LastingStream | AsgiStream:
    """Return the body for the response to this request. `keep_alive_s`: between two keep-alives, if there are any."""
    begin: Callable[[], LastingStream] | None = scope.get("extensions", {}).get(SERVER_STREAM)
    return AsgiStream(keep_alive_s=keep_alive_s) if begin is None else begin()


class StreamResponse(Response):
    """The response. Its outbox must be paused until it begins.

    `flow`: the outbox, or what stands before it. `work`: does what is left to do for the client, beside the stream.
    `on_end` is called when the stream has ended, and the work too. `first` and `keep_alive`: bytes that are written
    at once, and now and then (empty: none).

    On our own server the call returns as soon as the work is done, and the stream goes on.
    """

    def __init__(
        self,
        stream: LastingStream | AsgiStream,
        flow: Flow,
        work: Callable[[], Coroutine[Any, Any, None]],
        on_end: Callable[[], object],
        *,
        media_type: str,
        first: bytes = b"",
        keep_alive: bytes = b"",
    ) -> None:
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._stream = stream
        self._flow = flow
        self._work = work
        self._end = _End(on_end)
        self._first = first
        self._keep_alive = keep_alive

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call this too at the end."""
        self._end.callbacks += (callback,)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = self._stream
        try:
            headers = [*self.raw_headers, *stream.headers]
            await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
            if isinstance(stream, AsgiStream):
                await self._run(stream, receive, send)
            else:
                stream.attach(self._flow, self._end.one_part, keep_alive=self._keep_alive, first=self._first)
        except BaseException:
            self._end.all_parts()
            raise
        if isinstance(stream, AsgiStream):
            self._end.all_parts()
            return
        try:
            await self._work()
        finally:
            self._end.one_part()

    async def _run(self, stream: AsgiStream, receive: Receive, send: Send) -> None:
        working = asyncio.create_task(self._work(), name="stream-work")
        try:
            await stream.run(self._flow, receive, send, keep_alive=self._keep_alive, first=self._first)
        finally:
            await end([working])


class _End:
    """The end of the stream and that of the work, whichever is later."""

    __slots__ = ("_parts", "callbacks")

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callbacks: tuple[Callable[[], object], ...] = (callback,)
        self._parts = 2

    def one_part(self) -> None:
        self._parts -= 1
        if not self._parts:
            self.all_parts()

    def all_parts(self) -> None:
        callbacks, self.callbacks = self.callbacks, ()
        for callback in callbacks:
            callback()
