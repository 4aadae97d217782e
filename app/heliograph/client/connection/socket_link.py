"""One WebSocket from its opening to its end."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Any, Final, Literal
from urllib.parse import urlencode, urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI

from heliograph.client.connection.credentials import Credentials
from heliograph.client.connection.dispatcher import Place
from heliograph.client.connection.events import Frame, Transport
from heliograph.client.connection.link import (
    ABNORMAL,
    BAD_REQUEST,
    NO_PONG,
    Closed,
    Handlers,
    LinkEnded,
    decode,
    refusal,
)
from heliograph.client.connection.receipts import Said
from heliograph.loopback import is_loopback_host

logger = logging.getLogger(__name__)

# Silent for this part of the server's ping interval, the connection is asked for a sign of life: a replica that hangs
# is to be noticed within seconds.
SILENT: Final = 1 / 4
# Without a sign of life for so long after it was asked for, the connection is in doubt: another is opened beside it.
DOUBT_S: Final = 2.0
# For so long, it is dead.
PONG_S: Final = 6.0
CLOSE_S: Final = 1.0  # the server must have answered our close frame


class SocketLink:
    """The handshake, and proof that the other side is alive. See `Link`."""

    transport: Transport = "websocket"
    takes_frames = True

    def __init__(
        self,
        number: int,
        url: str,
        credentials: Credentials,
        handlers: Handlers,
        *,
        within_s: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        """`within_s`: the handshake must be done."""
        self.number = number
        self.replica = ""
        self._url = url
        self._credentials = credentials
        self._handlers = handlers
        self._within_s = within_s
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None  # the one thing it waits for: handshake, silence or pong
        self._last_heard = 0.0
        self._silent_s = 0.0
        self._probing = False
        self._connected = False
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        self._task = self._loop.create_task(self._run(), name=f"heliograph-socket-{self.number}")
        return self._task

    def send(self, frame: bytes) -> None:
        self._outgoing.put_nowait(frame)

    async def received(self, cursor: str, device: str | None) -> Said:
        raise AssertionError("a socket takes frames; send it one")

    def probe(self, wait_s: float = PONG_S) -> None:
        if not self._connected or self._ended:
            return
        self._probing = True
        self.send(b'{"type":"ping"}')
        doubt_s = min(DOUBT_S, wait_s / 2)
        self._arm(doubt_s, lambda: self._doubt(wait_s - doubt_s))

    def close(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._disarm()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # by `close`, or by an end that was reported already
            try:
                # The token comes first: the server gives an open socket only seconds to present one.
                known = await self._credentials.for_socket()
            except Exception as error:  # noqa: BLE001 - the program's own function may raise anything
                self._end(Closed.without_credentials(error))
                return
            self._arm(self._within_s, lambda: self._end(Closed(ABNORMAL, "no answer to the handshake")))
            try:
                await self._serve(known.query, known.token, self._handlers.place(self))
            except LinkEnded as ended:
                self._end(ended.closed)
            except Exception as error:
                logger.exception("the connection to %s ends: a fault of the client", self._url)
                self._end(Closed(ABNORMAL, repr(error)))

    async def _serve(self, query: dict[str, str], token: str | None, place: Place) -> None:
        """Connect, and read until the end, which it raises."""
        where: dict[str, Any] = {"cursor": place.cursor} if place.cursor else {}
        if place.replay:
            where["replay"] = True
        if place.device is not None:
            where["device"] = place.device
        # Without a token the URL says who this is; or nothing does, and the server's backend may know it otherwise.
        is_in_url = token is None and bool(query)
        if is_in_url:
            query |= {name: value if isinstance(value, str) else "true" for name, value in where.items()}
        socket = await self._dial(f"{self._url}?{urlencode(query)}" if query else self._url)
        writer = self._loop.create_task(self._write(socket), name=f"heliograph-writer-{self.number}")
        try:
            if not is_in_url:
                said = where if token is None else {"token": token, **where}
                await socket.send(msgspec.json.encode({"type": "connect", **said}), text=True)
            while True:
                self._receive(await socket.recv(decode=False))
                if self._ended:
                    return
        except ConnectionClosed as error:
            code, reason = (ABNORMAL, "") if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)
            raise LinkEnded(Closed(code, reason)) from None
        finally:
            writer.cancel()
            await asyncio.gather(socket.close(), writer, return_exceptions=True)

    async def _dial(self, url: str) -> ClientConnection:
        options: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls}
        # No proxy is of use on the way to this machine itself.
        proxy: Literal[True] | None = None if is_loopback_host(urlsplit(url).hostname or "") else True
        try:
            return await connect(
                url,
                proxy=proxy,
                max_size=None,
                ping_interval=None,
                open_timeout=None,
                close_timeout=CLOSE_S,
                **options,
            )
        except (InvalidURI, InvalidProxy, ImportError) as error:  # SOCKS needs another package
            raise LinkEnded(Closed(BAD_REQUEST, str(error), unasked=True)) from None
        except InvalidStatus as error:
            raise LinkEnded(refusal(error.response.status_code, bytes(error.response.body or b""))) from None
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed, EOFError) as error:
            raise LinkEnded(Closed(ABNORMAL, str(error) or type(error).__name__)) from None

    async def _write(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):  # the reader tells
            while True:
                await socket.send(await self._outgoing.get(), text=True)

    def _receive(self, text: bytes) -> None:
        self._last_heard = self._loop.time()
        if self._probing:
            self._probing = False
            self._watch()
        try:
            frame = decode(text)
        except ValueError as error:
            self._handlers.on_garbled(self, error)
            return
        if frame["type"] == "connected" and not self._connected:
            self._welcome(frame)
        elif frame["type"] != "pong":
            self._handlers.on_frame(self, frame)

    def _welcome(self, hello: Frame) -> None:
        self._connected = True
        self.replica = hello["replica"]
        self._silent_s = SILENT * hello["ping"]
        self._watch()
        self._handlers.on_connected(self, hello)

    def _watch(self) -> None:
        """Look at the clock with one timer, instead of starting a timer with each message."""
        if self._silent_s <= 0:
            self._disarm()
            return
        rest_s = self._last_heard + self._silent_s - self._loop.time()
        if rest_s > 0:
            self._arm(rest_s, self._watch)
        else:
            self.probe()

    def _doubt(self, rest_s: float) -> None:
        self._arm(rest_s, lambda: self._end(Closed(NO_PONG, "no pong")))
        self._handlers.on_doubted(self)

    def _arm(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._disarm()
        if not self._ended:
            self._timer = self._loop.call_later(delay_s, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, closed: Closed) -> None:
        if self._ended:
            return
        self.close()
        self._handlers.on_closed(self, closed)
