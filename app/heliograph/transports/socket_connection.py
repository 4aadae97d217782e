"""The life of one WebSocket connection: it reads frames, and passes their operations to the connection's `Driver`."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

from heliograph.codecs.codec import Codec
from heliograph.errors import ErrorCode
from heliograph.protocol.actions import Reject
from heliograph.protocol.budget import LARGE_BYTES, SMALL_FRAMES
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.operations import Operation, RequestId
from heliograph.protocol.token_bucket import TokenBucket
from heliograph.settings import LimitSettings
from heliograph.transports.address_limits import AddressLimits
from heliograph.transports.driver import Driver
from heliograph.transports.handshake import Handshake
from heliograph.transports.remote_client import Disconnected
from heliograph.transports.server_socket import ServerSocket

logger = logging.getLogger(__name__)

MOST_OWED_S = 3.0  # how long a client waits at most because of what was read for it
GIVE_UP_AGAIN_S = 1.0  # until the next look at a client that is still being admitted at its deadline
MOST_WAITING = 64  # small frames that may wait for a slow one before the socket is no longer read


class SocketConnection:
    """One socket from its first frame to its last: a `Receiver`.

    Most operations are carried out at once, without a task. While one takes time, later frames wait, in order.
    """

    __slots__ = (
        "_address",
        "_bucket",
        "_by_address",
        "_close_code",
        "_codec",
        "_connect",
        "_decode",
        "_driver",
        "_identity",
        "_is_newcomer",
        "_limits",
        "_paid",
        "_patience",
        "_pause_until",
        "_reads",
        "_rest",
        "_socket",
        "_timer",
        "_traffic",
        "_uncounted",
        "_waiting",
        "_work",
    )

    def __init__(
        self,
        driver: Driver,
        handshake: Handshake,
        codec: Codec,
        by_address: AddressLimits,
        limits: LimitSettings,
        socket: ServerSocket | None = None,
    ) -> None:
        self._driver = driver
        self._by_address = by_address
        self._limits = limits
        self._socket = socket  # whose reading is paused; None if the reader waits until we are idle
        self._address = handshake.address
        self._connect = handshake.connect
        self._identity = handshake.identity
        self._codec = codec
        self._decode = codec.decode
        self._traffic = driver.connection.encoding.traffic
        self._bucket = TokenBucket(limits.messages_per_second, monotonic())
        self._patience: TokenBucket | None = None  # for frames over the rate
        self._uncounted = 0  # operations that the pace of reading has not counted yet
        self._reads: TokenBucket | None = None  # bytes read from the log
        self._paid: asyncio.Future[None] | None = None  # until the client may go on after large reads
        self._work: asyncio.Task[None] | None = None  # the operation that takes time
        self._rest: deque[Operation] | None = None  # the other operations of its frame
        self._waiting: deque[str | bytes] | None = None  # the frames after it
        self._pause_until = 0.0  # (monotonic) no further frame is handled before this time
        self._timer: asyncio.TimerHandle | None = None
        self._close_code: int | None = None  # of the ended socket
        self._is_newcomer = self._connect is None  # its client has not identified itself
        if self._is_newcomer:
            by_address.newcomers.enter(self._address, self)

    def begin(self) -> None:
        """Connect the client if the URL identifies it; otherwise give it some time to do so."""
        connect, self._connect = self._connect, None
        if isinstance(connect, Reject):
            with suppress(Disconnected):
                self._driver.refuse(connect)
        elif connect is not None and self._identity is not None:
            identity, self._identity = self._identity, None
            with suppress(Disconnected):
                work = self._driver.begin_as(connect, identity)
                if work is not None:
                    self._start(work)
        elif connect is not None:
            self._carry_out(connect)
        self._await_connect()

    def _await_connect(self) -> None:
        """Close the connection if its client does not identify itself in time."""
        timeout_s = self._limits.connect_timeout_s
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._give_up)

    async def idle(self) -> None:
        """Wait until no operation is under way."""
        while self._work is not None:
            await asyncio.wait([self._work])

    # -- Receiver

    def receive_text(self, text: str) -> None:
        if self._codec.is_binary:
            self._driver.connection.close(CloseCode.UNSUPPORTED_DATA, "frames are binary, not text")
        else:
            self._receive(text)

    def receive_binary(self, data: bytes) -> None:
        if self._codec.is_binary:
            self._receive(data)
        else:
            self._driver.connection.close(CloseCode.UNSUPPORTED_DATA, "frames are JSON text, not binary")

    def lost(self, code: int) -> None:
        self._close_code = code
        self._rest = self._waiting = None
        self._stop_timer()
        self._leave_newcomers()
        self._by_address.connections.leave(self._address)
        if self._paid is not None:
            self._go_on_reading(self._paid)
        self._driver.end(code)  # at once, whatever is under way: its user is not there any more

    # -- operations

    def _receive(self, frame: str | bytes) -> None:
        if self._work is None:
            self._handle(frame)
            return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(frame)
        if self._socket is not None and (len(self._waiting) >= MOST_WAITING or len(frame) > LARGE_BYTES):
            self._socket.pause_reading()

    def _handle(self, frame: str | bytes) -> None:
        """Handle a frame. Its first operation is charged before the frame is decoded."""
        if not self._bucket.take(now := monotonic()):
            for request_id in self._codec.request_ids(frame):
                self._traffic.messages_in += 1
                self._driver.connection.received += 1
                self._refuse_one_too_many(request_id, now)
            if len(frame) > LARGE_BYTES:
                self._pause_after(len(frame))
            return
        is_paid = True
        for operation in self._decode(frame):
            if not is_paid and self._driver.connection.outbox.closed:
                break  # an operation before it has closed the connection
            self._traffic.messages_in += 1
            self._driver.connection.received += 1
            self._uncounted += 1
            if not (is_paid or self._bucket.take(now)):
                self._refuse_one_too_many(operation.request_id, now)
            elif self._work is None:
                self._carry_out(operation)
            else:
                if self._rest is None:
                    self._rest = deque()
                self._rest.append(operation)
            is_paid = False
        if self._uncounted >= SMALL_FRAMES or len(frame) > LARGE_BYTES or self._driver.refusals:
            self._pause_after(len(frame))

    def _pause_after(self, size: int) -> None:
        """Stop reading for as long as the user's frames came too fast, so that others need not wait."""
        pause_s = self._driver.owed_s(size, self._uncounted)
        self._uncounted = 0
        if not pause_s:
            return
        if self._socket is not None:
            self._socket.pause_reading()
        self._pause_until = monotonic() + pause_s
        if self._work is None:
            self._work = asyncio.create_task(self._do(asyncio.sleep(0)), name="websocket-pause")

    def _refuse_one_too_many(self, request_id: RequestId | None, now: float) -> None:
        """Answer and drop a frame over the rate. Answers cost too: close a client that goes on."""
        limits = self._limits
        if self._patience is None:
            self._patience = TokenBucket(limits.messages_per_second, now, limits.refusals)
        if self._patience.take(now):
            refusal = f"more than {limits.messages_per_second:g} frames a second; this one is dropped"
            self._driver.refuse(Reject(ErrorCode.RATE_LIMITED, refusal, request_id))
        else:
            reason = f"{limits.refusals} frames over the rate of {limits.messages_per_second:g} a second were refused"
            self._driver.connection.close(CloseCode.TOO_MANY_ERRORS, reason)

    def _carry_out(self, operation: Operation) -> None:
        try:
            work = self._driver.begin(operation)
        except Disconnected:
            return
        except Exception:
            logger.exception("failed", extra=self._driver.about)
            self._fail()
            return
        if work is not None:
            self._start(work)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin what takes time."""
        self._work = asyncio.create_task(self._do(work), name="websocket-work")

    async def _do(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
            if self._driver.connection.read_bytes:
                await self._pay()
            if self._driver.refusals:
                self._pause_after(0)
            if self._close_code is None and (pause_s := self._pause_until - monotonic()) > 0:
                await asyncio.sleep(pause_s)
        except Disconnected:
            pass
        except Exception:
            logger.exception("failed", extra=self._driver.about)
            self._fail()
        finally:
            self._work = None
            if self._driver.registered:
                self._stop_timer()
                self._leave_newcomers()
            if self._close_code is not None:
                self._driver.end(self._close_code)  # again, for what has begun since
            else:
                self._go_on()

    async def _pay(self) -> None:
        """Charge what was read for the client. After large reads its next frames wait for some time.

        They are not refused: a client that comes back after an hour has much to read, and has done nothing wrong.
        """
        rate, now = self._limits.read_bytes_per_second, monotonic()
        if self._reads is None:
            self._reads = TokenBucket(rate, now)
        read, self._driver.connection.read_bytes = self._driver.connection.read_bytes, 0
        owed_s = self._reads.charge(read, now)
        if owed_s > 0 and self._close_code is None:
            loop = asyncio.get_running_loop()
            self._paid = loop.create_future()
            loop.call_later(min(owed_s, MOST_OWED_S), self._go_on_reading, self._paid)
            await self._paid
            self._paid = None

    def _go_on_reading(self, paid: asyncio.Future[None]) -> None:
        if not paid.done():
            paid.set_result(None)

    def _go_on(self) -> None:
        """Handle waiting operations and frames."""
        if self._driver.connection.outbox.closed:
            self._rest = self._waiting = None
        while self._rest and self._work is None:
            self._carry_out(self._rest.popleft())
        while self._waiting and self._work is None:
            self._handle(self._waiting.popleft())
        if self._socket is not None and not self._waiting:
            self._waiting = None
            self._socket.resume_reading()

    def _fail(self) -> None:
        self._driver.connection.close(CloseCode.INTERNAL_ERROR, "internal error")

    def make_room(self) -> None:
        """See `Newcomer`."""
        self._driver.connection.close(CloseCode.TRY_AGAIN_LATER, "no 'connect', and others of this address came")
        if self._socket is not None:
            self._socket.hang_up()

    def _give_up(self) -> None:
        self._timer = None
        if self._driver.registered:
            return
        if self._work is not None:  # we are slow, not the client
            self._timer = asyncio.get_running_loop().call_later(GIVE_UP_AGAIN_S, self._give_up)
            return
        self._driver.connection.close(CloseCode.BAD_REQUEST, "no 'connect' in time")
        if self._socket is not None:
            self._socket.hang_up()

    def _leave_newcomers(self) -> None:
        if self._is_newcomer:
            self._is_newcomer = False
            self._by_address.newcomers.leave(self._address, self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
