"""Cuts clients that read nothing of what is written to them."""

import asyncio

from heliograph.deadlines import Deadlines, Loop


class Stalls:
    """Watch transports with something to be read, and abort one of which the client reads nothing for `delay_s`."""

    def __init__(self, loop: Loop, delay_s: float) -> None:
        self._deadlines: Deadlines[asyncio.Transport] = Deadlines(loop, delay_s, self._look)
        self._unread: dict[asyncio.Transport, int] = {}  # bytes that its client had not read when it was looked at

    def watch(self, transport: asyncio.Transport) -> None:
        """Begin anew with what the client has not read now, if that is anything."""
        if unread := transport.get_write_buffer_size():
            self._unread[transport] = unread
            self._deadlines.put(transport)

    def forget(self, transport: asyncio.Transport) -> None:
        """Watch it no longer, if it is watched."""
        self._unread.pop(transport, None)
        self._deadlines.take_out(transport)

    def _look(self, transport: asyncio.Transport) -> None:
        if transport.get_write_buffer_size() < self._unread.pop(transport):
            self.watch(transport)
        else:
            transport.abort()
