"""Encoders for subscriptions with deltas: a publication's data is its text, or its difference from the one before."""

from collections.abc import Callable

import msgspec

from heliograph.codecs.codec import DeltaEncoders, Encoder
from heliograph.protocol.events import Event
from heliograph.protocol.publication import Publication

Push = Callable[[Publication, bool], bytes]  # encodes the push of a publication, and whether its data is a difference


class _DeltaEncoder:
    """An `Encoder`. `as_data`: turns a text into the data of a publication."""

    def __init__(
        self, codec: Encoder, push: Push, as_data: Callable[[bytes], msgspec.Raw], *, sends_differences: bool
    ) -> None:
        self._codec = codec
        self._push = push
        self._as_data = as_data
        self._sends_differences = sends_differences

    def encode(self, event: Event) -> bytes:
        if not isinstance(event, Publication):
            return self._codec.encode(event)
        is_difference = self._sends_differences and event.delta is not None
        text = event.delta if is_difference and event.delta is not None else bytes(event.data)
        return self._push(msgspec.structs.replace(event, data=self._as_data(text)), is_difference)

    def close_code(self, code: int) -> int:
        return self._codec.close_code(code)


def delta_encoders(codec: Encoder, push: Push, as_data: Callable[[bytes], msgspec.Raw]) -> DeltaEncoders:
    """Return the encoders of a codec for subscriptions with deltas."""
    return DeltaEncoders(
        _DeltaEncoder(codec, push, as_data, sends_differences=False),
        _DeltaEncoder(codec, push, as_data, sends_differences=True),
    )
