"""One connection to Redis, without a stream, a task or an await on the path of a reply.

redis-py opens the connection and handles addresses, TLS, AUTH, SELECT, credential providers and time-outs. Then this
module takes its transport over, and `hiredis` reads replies in the event-loop iteration in which they arrive. That
uses two private attributes of redis-py's connection; opening the same connection ourselves would need more of them.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, cast

import hiredis
from redis._parsers import BaseParser
from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError

from heliograph.backends.redis.packing import packed

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 1.0
MOST_HELD_BYTES = 65_536
_NOT_YET = object()


class Connected(Protocol):
    """What sends commands over a connection that is open: a `Wire`, or a part of one that several share."""

    @property
    def reads(self) -> int:
        """Return the number of reads so far."""
        ...

    @property
    def is_paused(self) -> bool:
        """True if Redis reads more slowly than we write."""
        ...

    def send(self, commands: list[bytes]) -> None:
        """Send commands in one go."""
        ...

    def fail(self, reason: Exception) -> None:
        """End the connection for this reason."""
        ...

    async def close(self) -> None:
        """End the connection at once, without writing the rest."""
        ...


class BusWire(Protocol):
    """What listens to the bus over a connection that is open."""

    def say(self, *command: str | bytes | int) -> None:
        """Send one command at once."""
        ...

    def hold(self) -> None:
        """Hold replies back: they wait here and, if they are many, in the socket."""
        ...

    def release(self) -> None:
        """Pass on held replies, and later ones again."""
        ...

    async def close(self) -> None:
        """End the connection at once."""
        ...


class Wire(asyncio.Protocol):
    """`receive` is called with each reply, in order; `lost` once, with the reason, when the connection has ended.

    An error that `receive` raises ends the connection, and is the reason. `on_resume` is called when Redis reads
    again after a pause (`is_paused`). `keep`: an object that would close the transport if it were collected.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        receive: Callable[[Any], object],
        lost: Callable[[Exception], object],
        on_resume: Callable[[], object] | None = None,
        keep: object = None,
    ) -> None:
        self._transport = transport
        self._receive = receive
        self._lost = lost
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_NOT_YET
        )
        self._holds = False
        self._held_bytes = 0
        self._reason: Exception | None = None
        self._closed = asyncio.get_running_loop().create_future()
        self._keep: object = keep
        self.reads = 0  # number of reads
        self.is_paused = False  # Redis reads more slowly than we write
        self._on_resume = on_resume

    @classmethod
    async def open(
        cls,
        pool: ConnectionPool,
        receive: Callable[[Any], object],
        lost: Callable[[Exception], object],
        on_resume: Callable[[], object] | None = None,
    ) -> "Wire":
        """Open a new connection like the pool's, but outside of the pool.

        Raises the errors of redis-py; then nothing stays open.
        """
        connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
            writer = connection._writer
            if writer.transport.is_closing():  # it has said so to redis-py, and says it once
                raise RedisConnectionError("Redis has closed the connection at once")
        except BaseException:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            raise
        connection._reader = connection._writer = None
        wire = cls(cast("asyncio.Transport", writer.transport), receive, lost, on_resume, writer)
        writer.transport.set_protocol(wire)
        return wire

    def send(self, commands: list[bytes]) -> None:
        """Send commands in one go."""
        self._transport.write(commands[0] if len(commands) == 1 else b"".join(commands))

    def say(self, *command: str | bytes | int) -> None:
        """Send one command at once."""
        self._transport.write(packed(command))

    def hold(self) -> None:
        """Hold replies back: they wait here and, if they are many, in the socket."""
        self._holds = True

    def release(self) -> None:
        """Pass on held replies, and later ones again."""
        self._holds = False
        self._held_bytes = 0
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._hand_over()

    async def close(self) -> None:
        """End the connection at once, without writing the rest."""
        self._transport.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.shield(self._closed)

    def fail(self, reason: Exception) -> None:
        """End the connection for this reason."""
        self._reason = self._reason or reason
        self._transport.abort()

    # -- asyncio's side

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        self._reader.feed(data)
        if not self._holds:
            self._hand_over()
            return
        self._held_bytes += len(data)
        if self._held_bytes > MOST_HELD_BYTES:
            self._transport.pause_reading()

    def _hand_over(self) -> None:
        gets, receive = self._reader.gets, self._receive
        try:
            while (reply := gets()) is not _NOT_YET:
                receive(reply)
        except Exception as error:  # noqa: BLE001 - `lost` gets it
            self.fail(error)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        if self._on_resume is not None:
            self._on_resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closed.done():
            return
        self._closed.set_result(None)
        self._keep = None
        text = f"the connection to Redis has ended ({exc})" if exc else "Redis has closed the connection"
        self._lost(self._reason or RedisConnectionError(text))
