"""From an event to the bytes that go out, made once for all connections that speak the same encoding."""

from collections.abc import Callable
from typing import Protocol

from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Event
from heliograph.telemetry import Traffic

# RFC 6455 section 5.2: a final frame with opcode 1 (0x81); a server does not mask.
_HEADS = [bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2) for size in range(1024)]


class Codec(Protocol):
    """The writing half of a wire format."""

    def encode(self, event: Event) -> bytes: ...


class Sink(Protocol):
    """Where an outbox writes. Both calls return at once; neither raises for a peer that is gone."""

    def write(self, frames: list[bytes]) -> None: ...

    def close(self, code: CloseCode, reason: str) -> None: ...


def text_frame(payload: bytes) -> bytes:
    """`payload` (UTF-8) as one unmasked WebSocket text frame."""
    size = len(payload)
    if size < len(_HEADS):
        return _HEADS[size] + payload
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2) + payload
    return b"\x81\x7f" + size.to_bytes(8) + payload


class Encoding:
    """A codec and the framing around it. Connections that share an `Encoding` object share its bytes.

    `traffic` counts what goes out in it: that of the transport it belongs to. `joins`: frames one behind the other
    are the same as one frame, so that a row of them is joined once for everybody. `label`: makes of a frame, its
    event and its `at` one that knows what it is.
    """

    def __init__(
        self,
        codec: Codec,
        frame: Callable[[bytes], bytes],
        traffic: Traffic,
        *,
        joins: bool = False,
        label: Callable[[bytes, Event, str | None], bytes] | None = None,
    ) -> None:
        self._codec = codec
        self._frame = frame
        self._label = label
        self.traffic = traffic
        self.joins = joins

    def frame(self, event: Event, at: str | None = None) -> bytes:
        """One event, ready to be written. `at`: where its channel stands then, if not as its own cursor says."""
        frame = self._frame(self._codec.encode(event))
        return frame if self._label is None else self._label(frame, event, at)
