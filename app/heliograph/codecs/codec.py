"""The seam between the bytes of a wire format and the rest of the cluster."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from heliograph.protocol.events import Event
from heliograph.protocol.operations import Operation, RequestId


class Encoder(Protocol):
    """The writing half of a wire format."""

    def encode(self, event: Event) -> bytes:
        """Return the payload of one frame; empty if the format has nothing for this event."""
        ...

    def close_code(self, code: int) -> int:
        """Return the close code on the wire."""
        ...


class DeltaEncoders(NamedTuple):
    """Encoders for subscriptions with deltas: of whole publications, and of differences where a publication has one.

    Other events are the same in both as in the codec.
    """

    whole: Encoder
    differences: Encoder


class Codec(Encoder, Protocol):
    """One wire format, in both directions. No other code knows its names, tags, cursors and limits.

    A codec has no state of a connection: an event is encoded once for all connections with that format. It does no
    I/O, and never raises because of a client's data.
    """

    @property
    def name(self) -> str:
        """The name of this format, for operators."""
        ...

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The WebSocket subprotocols that name this format."""
        ...

    @property
    def is_binary(self) -> bool:
        """True if its frames are binary, in both directions; otherwise they are text."""
        ...

    @property
    def is_partial(self) -> bool:
        """True if the format has nothing for some events."""
        ...

    @property
    def deltas(self) -> DeltaEncoders | None:
        """How the format writes publications for subscriptions with deltas; None: it has no such thing."""
        ...

    def decode(self, frame: str | bytes) -> Sequence[Operation]:
        """Return the operations of one frame, in order. The frame is `bytes` if the format is binary, else `str`.

        A part that cannot be read is a `Malformed` operation, which is answered with an error.
        """
        ...

    def request_ids(self, frame: str | bytes) -> Sequence[RequestId | None]:
        """Return the request ids of a frame that is refused unread, one for each of its operations.

        None: the operation has no id, or it cannot be read.
        """
        ...
