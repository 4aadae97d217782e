"""The socket of a client that gets a stream, and posts its frames in requests of their own."""

from collections.abc import Callable
from typing import Final

from heliograph.cluster.forwarding import OnTaken
from heliograph.hub.connection import Connection
from heliograph.hub.outbox import Outbox
from heliograph.protocol.codes import CloseCode
from heliograph.transports.server_socket import Receiver
from heliograph.transports.stream_response import StreamSink

MOST_WAITING: Final = 16  # posts that wait until the client's earlier frames have been carried out
GONE: Final = 1006  # the close code of a stream whose client has gone


class PostedSocket:
    """A `ServerSocket` that writes to a stream, and a `Taker` of posted frames.

    While the connection reads nothing, posts are answered late: so a client that waits for its answers slows down.
    """

    deflater = None

    def __init__(self, sink: StreamSink, *, is_binary: bool) -> None:
        self._sink = sink
        self._is_binary = is_binary
        self._receiver: Receiver | None = None  # None before it begins, and after its end
        self._connection: Connection
        self._is_paused = False
        self._waiting: list[OnTaken] = []  # the answers to posts

    @property
    def write(self) -> Callable[[list[bytes]], None]:
        return self._sink.write

    def close(self, code: int, reason: str) -> None:
        self._sink.close(code, reason)

    def attach(self, outbox: Outbox[bytes], receiver: Receiver) -> None:
        self._receiver = receiver

    def begin(self, connection: Connection, frame: bytes) -> None:
        """Take the first frame, which came with the request for the stream, unless the request was refused."""
        self._connection = connection
        if self._receiver is not None and not connection.outbox.closed:
            self._receive(self._receiver, frame)

    def take(self, frames: bytes, taken: OnTaken) -> None:
        """See `Taker`."""
        receiver = self._receiver
        if receiver is None or self._connection.outbox.closed:
            taken(False)
            return
        if len(self._waiting) >= MOST_WAITING:
            self._connection.close(CloseCode.TOO_MANY_ERRORS, f"{MOST_WAITING} posts wait; await their answers")
            taken(False)
            return
        self._receive(receiver, frames)
        if self._is_paused:
            self._waiting.append(taken)
        else:
            taken(True)

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._answer(True)

    def hang_up(self) -> None:
        """Do nothing: the stream ends once its last bytes are written."""

    def lost(self) -> None:
        """End, because the stream has ended."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost(GONE)
        self._answer(False)

    def _receive(self, receiver: Receiver, frame: bytes) -> None:
        if self._is_binary:
            receiver.receive_binary(frame)
        else:
            receiver.receive_text(frame.decode(errors="replace"))

    def _answer(self, is_taken: bool) -> None:
        waiting, self._waiting = self._waiting, []
        for taken in waiting:
            taken(is_taken)
