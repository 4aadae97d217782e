"""The seam between our HTTP server and a streamed response: prepared bytes pass it without ASGI messages."""

from collections.abc import Callable
from typing import Final, Protocol

SERVER_STREAM: Final = "heliograph.stream"  # in the ASGI scope: call it for the `ServerStream` of the request
LAST_CHUNK: Final = b"0\r\n\r\n"


class Flow(Protocol):
    """Waits while the client does not read. An `Outbox` does."""

    def pause(self, buffered: int = 0) -> None: ...

    def resume(self) -> None: ...

    def abandon(self) -> None: ...


class ServerStream(Protocol):
    """The body of one response: it takes prepared bytes and reports back-pressure. No method blocks.

    `takes_chunks`: what is written has the framing of a chunk already (`chunk`), so that all streams can share it.
    `headers`: those that the response needs beside its own.
    """

    takes_chunks: bool
    headers: tuple[tuple[bytes, bytes], ...]

    @property
    def write(self) -> Callable[[list[bytes]], None]: ...

    def end(self, last: bytes) -> None:
        """Write `last`, which is no chunk yet, and end. A client that does not read it in time is cut."""
        ...


def chunk(data: bytes) -> bytes:
    """Return the data, at least one byte, as a chunk of HTTP/1.1 (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
