"""The seam between our WebSocket server and its application: frames pass it without ASGI messages."""

from typing import Final, Protocol

from heliograph.hub.deflate import Deflater
from heliograph.hub.frames import Sink
from heliograph.hub.outbox import Outbox

SERVER_SOCKET: Final = "heliograph.socket"  # in the ASGI scope: our server's own socket, for direct use


class Receiver(Protocol):
    """Takes a client's frames. No method may block."""

    def receive_text(self, text: str) -> None: ...

    def receive_binary(self, data: bytes) -> None: ...

    def lost(self, code: int) -> None:
        """Handle the end: the client has gone, or the socket was closed, with this code. Called once."""
        ...


class ServerSocket(Sink[bytes], Protocol):
    """The socket that `heliograph.server` offers under `SERVER_SOCKET`: it takes frames and reports back-pressure."""

    @property
    def deflater(self) -> Deflater | None:
        """What compresses the frames for this client; None if it did not agree to permessage-deflate."""
        ...

    def attach(self, outbox: Outbox[bytes], receiver: Receiver) -> None:
        """Take over the socket; the application may return."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def hang_up(self) -> None:
        """End as soon as everything is written, without waiting for the peer's close frame."""
        ...
