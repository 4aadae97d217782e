"""A streamed response with plain ASGI, under a server that does not offer its transport."""

import asyncio
import logging

from starlette.types import Receive, Send

from heliograph.tasks import end
from heliograph.transports.server_stream import Flow

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 1.0  # how long a client may take to read the end of its stream
PIECE_BYTES = 65_536  # passed to the server at once
STALL_S = 60.0  # how long a client may take to read a piece, so that the server takes the next


class AsgiStream:
    """A `ServerStream` that awaits the server's `send` for each piece; meanwhile the flow waits."""

    takes_chunks = False
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, *, keep_alive_s: float) -> None:
        self._keep_alive_s = keep_alive_s
        self._flow: Flow | None = None
        self._frames: list[bytes] = []
        self._last: bytes | None = None  # set when the stream is to end
        self._work = asyncio.Event()
        self._deadline: asyncio.Timeout | None = None  # for the end of the stream; None before it begins

    def write(self, frames: list[bytes]) -> None:
        self._frames += frames
        if self._flow is not None:
            self._flow.pause(self._waiting_bytes())
        self._work.set()

    def end(self, last: bytes) -> None:
        """See `ServerStream`."""
        self._last = last
        self._work.set()
        self._end_within(CLOSE_TIMEOUT_S)

    async def run(
        self, flow: Flow, receive: Receive, send: Send, *, keep_alive: bytes = b"", first: bytes = b""
    ) -> None:
        """Write the body, after the head of the response was sent, until one side ends it.

        `flow` waited until now. `keep_alive` is written now and then (empty: nothing is), `first` at once.
        """
        self._flow = flow
        if first:
            self.write([first])
        else:
            flow.resume()
        tasks = [asyncio.create_task(self._watch(receive), name="stream-watch")]
        if keep_alive:
            tasks.append(asyncio.create_task(self._stay_alive(keep_alive), name="stream-keep-alive"))
        try:
            async with asyncio.timeout(None if self._last is None else CLOSE_TIMEOUT_S) as self._deadline:
                await self._write_all(flow, send)
        except TimeoutError:
            pass  # the client is gone, or did not read the rest
        except OSError as error:  # the error of servers for a peer that has gone
            logger.debug("a stream ended during a write: %s", error)
        finally:
            self._deadline = None
            flow.abandon()
            await end(tasks)

    async def _write_all(self, flow: Flow, send: Send) -> None:
        while self._last is None or self._frames:
            await self._work.wait()
            self._work.clear()
            while self._frames:
                piece = self._piece()
                flow.pause(self._waiting_bytes() + len(piece))
                async with asyncio.timeout(STALL_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            if self._last is None:
                flow.resume()
        await send({"type": "http.response.body", "body": self._last, "more_body": False})

    def _piece(self) -> bytes:
        """Return some of the waiting bytes: the server gets little more at once than it would buffer."""
        size = taken = 0
        for frame in self._frames:
            if size >= PIECE_BYTES:
                break
            size += len(frame)
            taken += 1
        piece = b"".join(self._frames[:taken])
        del self._frames[:taken]
        return piece

    def _waiting_bytes(self) -> int:
        return sum(map(len, self._frames))

    async def _stay_alive(self, keep_alive: bytes) -> None:
        while True:
            await asyncio.sleep(self._keep_alive_s)
            if not self._frames:  # otherwise the client has something to read
                self.write([keep_alive])

    async def _watch(self, receive: Receive) -> None:
        """Notice when the client has gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._end_within(0)

    def _end_within(self, delay_s: float) -> None:
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time() + delay_s)
