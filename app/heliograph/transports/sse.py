"""`/sse`: the endpoint for `EventSource`. One request, then a stream of events."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from heliograph.auth.authenticator import Authenticator, Credentials, Identity, credentials_of
from heliograph.codecs.plain.bookmark import ShortBookmark
from heliograph.codecs.plain.cursor import RIGHT, stated
from heliograph.errors import BusUnavailable, KeysUnavailable
from heliograph.hub.frames import Encoding, EventFrame
from heliograph.hub.outbox import Outbox, Outboxes
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Event, positions_after
from heliograph.protocol.identity import personal_channel
from heliograph.protocol.operations import Connect
from heliograph.protocol.session import JoinChannel
from heliograph.tasks import end
from heliograph.transports.driver import Driver, Drivers
from heliograph.transports.query import Query
from heliograph.transports.requests import PER_CHANNEL, RequestRate

logger = logging.getLogger(__name__)

ABORT_EXTENSION = "heliograph.abort"  # in the ASGI scope: cuts the client's connection at once
RETRY_MS = 1000  # until a client reconnects after the end of the stream
CLOSE_TIMEOUT_S = 1.0  # how long a client may take to read the last event
PIECE_BYTES = 65_536  # passed to the server at once
# A comment that ends no block. Some readers take every block for an event, even one without data.
KEEP_ALIVE = b":\n"


StreamFrame = EventFrame | bytes  # an event, or bytes between events


class DisconnectEvent(msgspec.Struct, frozen=True, tag="disconnect"):
    """The last event of a stream, like a close frame on a socket."""

    code: int
    reason: str


class SseEndpoint:
    """Answer `GET /sse` with a stream, or with a refusal before it begins. `encoding`: see `in_block`."""

    def __init__(
        self,
        drivers: Drivers,
        outboxes: Outboxes,
        encoding: Encoding[StreamFrame],
        authenticator: Authenticator,
        requests: RequestRate,
        *,
        keep_alive_s: float,
    ) -> None:
        self._drivers = drivers
        self._outboxes = outboxes
        self._encoding = encoding
        self._authenticator = authenticator
        self._requests = requests  # by user
        self._keep_alive_s = keep_alive_s

    async def serve(self, request: Request) -> Response:
        query = Query(request.scope)
        cursor, right = _parts_of_id(request.headers.get("last-event-id", ""))
        credentials = credentials_of(request.scope, query)
        try:
            identity, right = await self._identify(credentials, right)
        except (BusUnavailable, KeysUnavailable):
            if not right:
                raise
            return StreamingResponse(_again_soon(), media_type=EventStream.media_type)
        self._requests.take(identity.user, 1 + PER_CHANNEL * len(query.channels))
        cursor = cursor or query.get("cursor", "")
        stream = EventStream(self._outboxes, right, keep_alive_s=self._keep_alive_s)
        driver = self._drivers.new(self._encoding, stream.outbox, channels=query.channels)
        connect = Connect(credentials.token, credentials.user, stated(cursor), replay="replay" in query)
        try:
            joins = await driver.enter(connect, identity)
        except BaseException:
            driver.end()
            raise
        stream.begin(driver, joins, identity.user)
        return stream

    async def _identify(self, credentials: Credentials, right: str) -> tuple[Identity, str]:
        """Return the client's identity, and its right to return if it came with a ticket (otherwise empty).

        A ticket is valid once. An `EventSource` reconnects with the same URL, and the last id that it got. So the ids
        of its stream hold a secret, and a request with both comes from the client of that stream.
        """
        authenticator, ticket = self._authenticator, credentials.ticket
        if ticket is None:
            return await authenticator.identify(credentials), ""
        identity = await authenticator.identify_returning(ticket, right) if right else None
        if identity is None:
            identity, right = await authenticator.identify(credentials), ""
        try:
            right = await authenticator.keep_right_to_return(identity, ticket, right)
        except BusUnavailable as error:
            logger.debug("the right to reconnect to a stream was not kept: %s", error)
        return identity, right


class EventStream(Response):
    """A `Sink` that writes events as an event stream, with plain ASGI. It is also the response.

    While the server writes, the outbox waits, so a client that does not read is noticed there.
    """

    media_type = "text/event-stream"

    def __init__(self, outboxes: Outboxes, right: str, *, keep_alive_s: float) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.outbox: Outbox[StreamFrame] = outboxes.new(self)
        self._keep_alive_s = keep_alive_s
        self._driver: Driver
        self._joins: Sequence[JoinChannel] = ()
        self._frames: list[StreamFrame] = []
        self._bookmark = ShortBookmark(())
        self._right = f"&{RIGHT}{right}".encode() if right else b""  # the end of each id
        self._close_event: DisconnectEvent | None = None
        self._work = asyncio.Event()
        self._deadline: asyncio.Timeout | None = None  # for the end of the stream; None before it begins
        self._alive_at: asyncio.TimerHandle

    def begin(self, driver: Driver, joins: Sequence[JoinChannel], user: str) -> None:
        """Set the driver, the channels that are still to join, and the user."""
        self._driver, self._joins = driver, joins
        own = personal_channel(user)
        self._bookmark = ShortBookmark([own, *(join.channel for join in joins if join.channel != own)])

    def write(self, frames: list[StreamFrame]) -> None:
        self._frames += frames
        self.outbox.pause(self._frame_bytes())
        self._work.set()

    def close(self, code: int, reason: str) -> None:
        self._close_event = DisconnectEvent(code, reason)
        self._work.set()
        self._end_within(CLOSE_TIMEOUT_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(self._watch(receive), name="sse-watch")]
        if self._joins:
            tasks.append(asyncio.create_task(self._join_all(), name="sse-join"))
        self._alive_at = loop.call_later(self._keep_alive_s, self._keep_alive)
        try:
            async with asyncio.timeout(None if self._close_event is None else CLOSE_TIMEOUT_S) as self._deadline:
                await self._write_all(send)
        except TimeoutError:
            # The client is gone, or did not read the rest.
            abort: Callable[[], None] | None = scope.get("extensions", {}).get(ABORT_EXTENSION)
            if abort is not None:
                abort()
        except OSError as error:  # the error of servers for a peer that has gone
            logger.debug("a stream ended during a write: %s", error)
        finally:
            self._deadline = None
            self._alive_at.cancel()
            self.outbox.close(CloseCode.INTERNAL_ERROR, "the stream has ended")  # so that no caller waits for room
            try:
                await end(tasks)
            finally:
                self._driver.end()

    async def _write_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # Without a blank line, so that it is in the block of the first event.
        await send({"type": "http.response.body", "body": b"retry: %d\n" % RETRY_MS, "more_body": True})
        while self._close_event is None or self._frames:
            await self._work.wait()
            self._work.clear()
            while self._frames:
                piece = self._piece()
                self.outbox.pause(self._frame_bytes() + len(piece))
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            self.outbox.resume()
        last = b"data: %b\n\n" % msgspec.json.encode(self._close_event)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    def _piece(self) -> bytes:
        """Return some of the waiting bytes, each event with its id.

        The server gets little more at once than it would buffer. Ids are made only then, so none of them waits.
        """
        lines: list[bytes] = []
        size = taken = 0
        for frame in self._frames:
            if size >= PIECE_BYTES:
                break
            block = frame.payload if isinstance(frame, EventFrame) else frame
            if isinstance(frame, EventFrame) and (positions := positions_after(frame.event)):
                self._bookmark.move(positions)
                identity = b"id: %b%b\n" % (str(self._bookmark).encode(), self._right)
                lines.append(identity)
                size += len(identity)
            lines.append(block)
            size += len(block)
            taken += 1
        del self._frames[:taken]
        return b"".join(lines)

    def _frame_bytes(self) -> int:
        """Return how many bytes wait here; they count with those in the outbox."""
        return sum(map(len, self._frames))

    def _keep_alive(self) -> None:
        self._alive_at = asyncio.get_running_loop().call_later(self._keep_alive_s, self._keep_alive)
        if (code := self.outbox.offer(KEEP_ALIVE)) is not None:
            self._driver.connection.close(code, "the connection did not read what was sent to it")

    async def _watch(self, receive: Receive) -> None:
        """Notice when the client has gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._end_within(0)

    def _end_within(self, delay_s: float) -> None:
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time() + delay_s)

    async def _join_all(self) -> None:
        try:
            for join in self._joins:
                await self._driver.join_or_say(join)
        except Exception:
            logger.exception("failed", extra=self._driver.about)
            self._driver.connection.close(CloseCode.INTERNAL_ERROR, "internal error")


def _parts_of_id(last_event_id: str) -> tuple[str, str]:
    """Split the id of an event: the client's cursor, and its right to return (empty: none)."""
    parts = last_event_id.split("&")
    rights = [part.removeprefix(RIGHT) for part in parts if part.startswith(RIGHT)]
    return "&".join(part for part in parts if not part.startswith(RIGHT)), rights[-1] if rights else ""


async def _again_soon() -> AsyncIterator[bytes]:
    """Return a stream that ends at once. An `EventSource` reconnects after it, but not after an error."""
    yield b"retry: %d\n" % RETRY_MS


def in_block(payload: bytes, event: Event) -> StreamFrame:
    """Return an encoded event as a block of the stream."""
    return EventFrame(event_block(payload), event)


def event_block(payload: bytes) -> bytes:
    """Return an encoded event as one block of the stream. The author's JSON may span several lines."""
    if b"\n" in payload or b"\r" in payload:
        payload = b"\ndata: ".join(payload.splitlines())
    return b"data: %b\n\n" % payload
