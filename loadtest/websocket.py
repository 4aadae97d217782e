"""A WebSocket of the client's side, on a gevent socket.

`websockets` without its I/O does the protocol: no thread, no queue, and only as many system calls as there are writes
and reads. One message sent and one received cost 23 µs of CPU together; `websockets`' own synchronous client under
gevent 31 µs, wsproto 37 µs, websocket-client 70 µs (200 bytes, Python 3.11, 50 sockets).
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from gevent import Timeout
from gevent.lock import Semaphore
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidState, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

if TYPE_CHECKING:
    from loadtest.sources import Target

OPEN_WITHIN_S = 10.0
READ_BYTES = 65_536


class Refused(Exception):
    """The cluster did not let us in; the text says how it answered."""


class Ended(Exception):
    """The connection is over; the text says how."""


class WebSocket:
    """Open when it is made. One greenlet reads, any number write."""

    def __init__(self, target: Target, path: str, source: str) -> None:
        self._writing = Semaphore()
        self._protocol = ClientProtocol(parse_uri(f"ws://{target.host}:{target.port}{path}"))
        self._early: list[bytes] = []  # frames that came in one read with the answer to the handshake
        with Timeout(OPEN_WITHIN_S, Refused(f"no answer to the handshake within {OPEN_WITHIN_S:.0f} s")):
            try:
                self._socket = socket.create_connection((target.address, target.port), source_address=(source, 0))
            except OSError as error:
                raise Refused(f"cannot connect: {error}") from None
            try:
                self._shake_hands()
            except BaseException:
                self._socket.close()
                raise

    def send(self, text: bytes) -> None:
        """Write one text frame.

        Raises:
            Ended: there is nobody to write to.
        """
        try:
            self._protocol.send_text(text)
            self._flush()
        except (OSError, InvalidState) as error:  # InvalidState: the closing handshake has begun
            raise Ended(self._ending(error)) from None

    def pour(self, wire: bytes) -> None:
        """Write bytes as they are.

        Raises:
            Ended: there is nobody to write to.
        """
        try:
            with self._writing:
                self._socket.sendall(wire)
        except OSError as error:
            raise Ended(self._ending(error)) from None

    def read(self) -> bytes:
        """Read bytes as they are.

        Raises:
            Ended: there will be no more.
        """
        try:
            data = self._socket.recv(READ_BYTES)
        except OSError as error:
            raise Ended(self._ending(error)) from None
        if not data:
            raise Ended(self._ending())
        return data

    def receive(self) -> list[bytes]:
        """The text frames of one read; maybe none.

        Raises:
            Ended: there will be no more.
        """
        if self._early:
            early, self._early = self._early, []
            return early
        try:
            data = self._socket.recv(READ_BYTES)
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            texts = self._texts()
            self._flush()  # pongs
        except OSError as error:
            self.cut()
            raise Ended(self._ending(error)) from None
        if not texts and (not data or self._protocol.close_expected()):
            self.cut()
            raise Ended(self._ending())
        return texts

    def close(self) -> None:
        """Say goodbye; the reader then sees the end. The second time it is cut: somebody has waited enough."""
        try:
            self._protocol.send_close(1000)
            self._flush()
        except (OSError, InvalidState):
            self.cut()

    def cut(self) -> None:
        """Vanish without a word, as a phone in a tunnel does."""
        with contextlib.suppress(OSError):  # it may have ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _shake_hands(self) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = self._protocol.connect()
        request.headers["User-Agent"] = "heliograph-loadtest"
        self._protocol.send_request(request)
        answered = False
        try:
            self._flush()
            while not answered:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise Refused("the connection ended before the handshake was answered")
                self._protocol.receive_data(data)
                for event in self._protocol.events_received():
                    if isinstance(event, Frame):
                        self._keep(event, self._early)
                    else:
                        answered = True
                if self._protocol.handshake_exc is not None:
                    raise self._protocol.handshake_exc
        except InvalidStatus as error:
            body = (error.response.body or b"").decode(errors="replace").strip()
            raise Refused(f"HTTP {error.response.status_code} {body[:200]}") from None
        except (OSError, InvalidHandshake) as error:
            raise Refused(str(error)) from None

    def _texts(self) -> list[bytes]:
        texts: list[bytes] = []
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._keep(event, texts)
        return texts

    def _keep(self, frame: Frame, texts: list[bytes]) -> None:
        if frame.opcode is Opcode.TEXT:  # the cluster never sends fragments
            texts.append(bytes(frame.data))

    def _flush(self) -> None:
        with self._writing:  # a write that has to wait lets other greenlets run
            for data in self._protocol.data_to_send():
                if data:
                    self._socket.sendall(data)

    def _ending(self, error: BaseException | None = None) -> str:
        goodbye = self._protocol.close_rcvd
        if goodbye is not None:
            return f"closed with {int(goodbye.code)} {goodbye.reason}".rstrip()
        return f"cut: {error}" if error else "cut"
