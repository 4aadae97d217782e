"""Turns an event into a frame, once for all connections with the same encoding."""

from collections.abc import Callable, Sized
from typing import Generic, Protocol, TypeVar

from heliograph.codecs.codec import DeltaEncoders, Encoder
from heliograph.protocol.events import Event
from heliograph.telemetry import Traffic

# RFC 6455 section 5.2: a final frame with opcode 1 (0x81) or 2 (0x82); a server does not mask.
_TEXT_HEADS = [bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2) for size in range(1024)]

F = TypeVar("F", bound=Sized)  # a frame: bytes, or another type that a sink takes; its length counts in an outbox


class Sink(Protocol[F]):
    """Where an outbox writes. Both calls return at once; neither raises for a peer that is gone."""

    def write(self, frames: list[F]) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


class EventFrame:
    """An encoded event with the event, for a sink that must know what it writes."""

    __slots__ = ("event", "payload")

    def __init__(self, payload: bytes, event: Event) -> None:
        self.payload = payload
        self.event = event

    def __len__(self) -> int:
        return len(self.payload)


def payload_only(payload: bytes, event: Event) -> bytes:
    """Return the payload without framing: the sink frames it."""
    return payload


def as_text_frame(payload: bytes, event: Event) -> bytes:
    """Return `payload` as a WebSocket text frame."""
    return text_frame(payload)


def as_binary_frame(payload: bytes, event: Event) -> bytes:
    """Return `payload` as a WebSocket binary frame."""
    return b"\x82" + text_frame(payload)[1:]


def or_nothing(frame: Callable[[bytes, Event], bytes]) -> Callable[[bytes, Event], bytes]:
    """Return a `frame` for a codec that has nothing for some events: no payload makes no frame."""
    return lambda payload, event: frame(payload, event) if payload else payload


def text_frame(payload: bytes) -> bytes:
    """Return `payload` (UTF-8) as one unmasked WebSocket text frame."""
    size = len(payload)
    if size < len(_TEXT_HEADS):
        return _TEXT_HEADS[size] + payload
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2) + payload
    return b"\x81\x7f" + size.to_bytes(8) + payload


def payloads_in(frames: bytes) -> list[bytes]:
    """Return the payloads of WebSocket frames that follow each other; text without frames as it is."""
    found: list[bytes] = []
    at = 0
    while at + 1 < len(frames):  # other binary data are taken for frames of any size, and come to an end here
        if frames[at] < 0x80:
            found.append(frames[at:])
            break
        size = frames[at + 1]
        at += 2
        if size >= 126:
            digits = 2 if size == 126 else 8
            size = int.from_bytes(frames[at : at + digits])
            at += digits
        found.append(frames[at : at + size])
        at += size
    return found


class Encoding(Generic[F]):
    """A codec and the framing around it. Connections that share an `Encoding` object share its frames.

    `frame`: makes a frame from a payload and its event. `traffic`: the counters of its transport. `join`: makes one
    frame of consecutive ones, for all connections (`b"".join` for bytes); without it they stay apart. `deltas`:
    encoders of the codec for subscriptions with deltas.
    """

    def __init__(
        self,
        codec: Encoder,
        frame: Callable[[bytes, Event], F],
        traffic: Traffic,
        *,
        join: "Callable[[list[F]], F] | None" = None,
        deltas: DeltaEncoders | None = None,
    ) -> None:
        self._codec = codec
        self._frame = frame
        self.traffic = traffic
        self.join = join
        self.whole: Encoding[F] | None = None  # for a subscription with deltas, until it has got a publication
        self.differences: Encoding[F] | None = None  # for such a subscription from then on
        if deltas is not None:
            self.whole = Encoding(deltas.whole, frame, traffic, join=join)
            self.differences = Encoding(deltas.differences, frame, traffic, join=join)

    def close_code(self, code: int) -> int:
        """Return the code on the wire."""
        return self._codec.close_code(code)

    def frame(self, event: Event) -> F:
        """Return one event, ready to be written."""
        return self._frame(self._codec.encode(event), event)
