"""What a wire format has to do, whatever it is: the seam between bytes and the rest of the cluster."""

from collections.abc import Sequence
from typing import Protocol

from heliograph.protocol.events import Event
from heliograph.protocol.operations import Operation, RequestId


class Encoder(Protocol):
    """The writing half of a wire format."""

    def encode(self, event: Event) -> bytes:
        """Return the payload of one frame."""
        ...


class Codec(Encoder, Protocol):
    """One wire format, in both directions. Nobody else knows its names, tags, cursors and limits.

    A codec has no state of one connection: an event is encoded once for all connections that speak the format. It
    does no I/O, and whatever comes in raises nothing.
    """

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The WebSocket subprotocols that mean this format."""
        ...

    @property
    def is_binary(self) -> bool:
        """Whether its frames are binary, in both directions; otherwise they are text."""
        ...

    def decode(self, frame: str | bytes) -> Sequence[Operation]:
        """Return the operations of one frame, in order. The frame is `bytes` if the format is binary, else `str`.

        What cannot be read is an operation too: `Malformed`, which is answered with an error.
        """
        ...

    def request_ids(self, frame: str | bytes) -> Sequence[RequestId | None]:
        """Return the request ids of a frame that is refused unread, one for each of its operations.

        None: that operation has no id, or none that can be read.
        """
        ...
