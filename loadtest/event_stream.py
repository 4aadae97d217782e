"""A stream of server-sent events, read line by line from a gevent socket."""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import TYPE_CHECKING

from loadtest.websocket import OPEN_WITHIN_S, Ended, Refused

if TYPE_CHECKING:
    from loadtest.sources import Target

SILENT_FOR_S = 90.0  # several keep-alives


class EventStream:
    """Open once created. The data of each event is one frame, the same as on a WebSocket."""

    def __init__(self, target: Target, path: str, source: str, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self._connection = http.client.HTTPConnection(
            target.address, target.port, timeout=OPEN_WITHIN_S, source_address=(source, 0)
        )
        headers = {"Host": f"{target.host}:{target.port}", "Accept": "text/event-stream"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        try:
            self._connection.request("GET", path, headers=headers)
            self._response = self._connection.getresponse()
            self._socket = self._connection.sock
            if self._response.status != 200:
                body = self._response.read(200).decode(errors="replace").strip()
                raise Refused(f"HTTP {self._response.status} {body}")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Refused(f"cannot connect: {error}") from None
        except Refused:
            self._connection.close()
            raise
        self._socket.settimeout(SILENT_FOR_S)

    def receive(self) -> list[bytes]:
        """Return the data of the next event.

        Raises:
            Ended: there will be no more.
        """
        data: list[bytes] = []
        while True:
            try:
                line = self._response.readline()
            except (OSError, ValueError, http.client.HTTPException) as error:
                self._connection.close()
                raise Ended(f"cut: {error}") from None
            if not line:
                self._connection.close()
                raise Ended("the stream ended")
            line = line.rstrip(b"\r\n")
            if not line and data:
                return [b"\n".join(data)]
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"id":
                self.last_event_id = value.decode()

    def close(self) -> None:
        """Leave. The reader then sees the end, and closes: its socket must not be closed under it."""
        with contextlib.suppress(OSError):  # it may have ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    cut = close  # a stream has no closing handshake
