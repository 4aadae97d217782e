"""Frames with a compressed payload: each can be read on its own, and is made once."""

import json
import os
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.hub import deflate
from heliograph.hub.deflate import Deflater, Deflaters

JSON = json.dumps([{"host": f"web-{number}", "status": "finished"} for number in range(60)]).encode()


def read(frame: bytes, window_bits: int = 15) -> bytes:
    """The payload of one frame, as a client reads it that has seen no other."""
    length = frame[1]
    start = 2 if length < 126 else 4 if length == 126 else 10
    if length > 125:
        length = int.from_bytes(frame[2:start])
    assert len(frame) == start + length
    if not frame[0] & 0x40:
        return frame[start:]
    return zlib.decompressobj(-window_bits).decompress(frame[start:] + b"\x00\x00\xff\xff")


@settings(max_examples=50, deadline=None)
@given(payloads=st.lists(st.text(max_size=50).map(lambda text: (text * 5).encode()), max_size=8))
def test_each_frame_is_read_without_the_others(payloads: list[bytes]) -> None:
    """Fails if a frame refers to one before it, which a client that came later has not got."""
    deflater = Deflater(15, min_bytes=1)
    frames = [(deflater.text_frame(payload), deflater.binary_frame(payload)) for payload in payloads]
    for payload, (text, binary) in zip(payloads, frames, strict=True):
        assert read(text) == read(binary) == payload
        assert (text[0] & 0xBF, binary[0] & 0xBF) == (0x81, 0x82)


@pytest.mark.parametrize("window_bits", range(9, 16))
def test_a_client_with_a_small_window_can_read_it(window_bits: int) -> None:
    """Fails if a frame refers farther back than what the client keeps."""
    deflater = Deflaters(min_bytes=1).of(window_bits)
    payload = JSON * 20 + os.urandom(40_000) + JSON * 20  # the repetition is farther away than any window
    for _ in range(2):
        assert read(deflater.binary_frame(payload), window_bits) == payload
        assert read(deflater.text_frame(JSON), window_bits) == JSON


def test_only_what_becomes_smaller_is_compressed() -> None:
    """Fails if a small or random payload costs time, or becomes larger."""
    deflater = Deflater(15, min_bytes=512)
    assert deflater.text_frame(JSON)[0] == 0xC1
    assert len(deflater.text_frame(JSON)) < len(JSON) / 5
    for payload in (b"", JSON[:511], os.urandom(2000)):
        frame = deflater.binary_frame(payload)
        assert (frame[0], read(frame)) == (0x82, payload)


def test_what_is_sent_again_is_not_compressed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a publication is compressed for each client that comes back, or all of them are kept for ever."""
    monkeypatch.setattr(deflate, "RECENT_BYTES", 4 * len(JSON))
    deflater = Deflater(15, min_bytes=1)
    payloads = [JSON + b"%d" % number for number in range(20)]
    for payload in payloads:
        before = deflater._recent.get(payload)
        first, again = deflater.text_frame(payload), deflater.text_frame(payload)
        assert before is None
        assert first == again
    kept = [payload for payload in payloads if payload in {**deflater._recent, **deflater._older}]
    assert kept == payloads[-len(kept) :], "the latest"
    assert 3 <= len(kept) <= 10
    compressed = deflater._older.get(kept[0])
    assert deflater._compress(kept[0]) is compressed, "a payload that is asked for again stays"
    assert deflater._recent[kept[0]] is compressed


def test_one_window_has_one_deflater() -> None:
    """Fails if two connections with the same agreement do not share their frames."""
    deflaters = Deflaters(min_bytes=1)
    assert deflaters.of(15) is deflaters.of(15) is not deflaters.of(12)
