"""The splitter gives what websockets' own parser gives, however the bytes are cut."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from heliograph.server.frame_splitter import FrameSplitter

MAX_BYTES = 1000

Message = tuple[Opcode, bool, bytes]  # opcode, final, payload

text = st.tuples(st.just(Opcode.TEXT), st.just(True), st.text(max_size=200).map(str.encode))
bad_text = st.tuples(st.just(Opcode.TEXT), st.just(True), st.just(b"\xff\xfe"))
control = st.tuples(st.sampled_from([Opcode.PING, Opcode.PONG]), st.just(True), st.binary(max_size=125))
binary = st.tuples(st.just(Opcode.BINARY), st.just(True), st.binary(max_size=300))
fragmented = st.lists(
    control | st.text(max_size=20).map(lambda part: (Opcode.CONT, False, part.encode())), max_size=4
).map(lambda middle: [(Opcode.TEXT, False, "시작".encode()), *middle, (Opcode.CONT, True, b"end")])
frames = st.lists(st.lists(text | bad_text | control | binary, max_size=3) | fragmented, max_size=6).map(
    lambda groups: [frame for group in groups for frame in group]
)


def serialize(sent: list[Message]) -> bytes:
    return b"".join(Frame(opcode, payload, final).serialize(mask=True) for opcode, final, payload in sent)


def split(chunks: list[bytes], max_bytes: int = MAX_BYTES) -> list[str | bytes]:
    """What the splitter hands on, texts and frames in order."""
    seen: list[str | bytes] = []
    splitter = FrameSplitter(seen.append, seen.append, max_bytes)
    for chunk in chunks:
        splitter.feed(chunk)
    return seen


def parse(parts: list[str | bytes]) -> list[Message]:
    """The same as messages: texts as they are, the rest as websockets reads it."""
    parser = Protocol(Side.SERVER, state=State.OPEN, max_size=MAX_BYTES)
    read: list[Message] = []
    for part in parts:
        if isinstance(part, str):
            read.append((Opcode.TEXT, True, part.encode()))
        else:
            parser.receive_data(part)
            assert parser.parser_exc is None
            for event in parser.events_received():
                assert isinstance(event, Frame)
                read.append((event.opcode, event.fin, bytes(event.data)))
    return read


@settings(max_examples=300, deadline=None)
@given(sent=frames, cuts=st.lists(st.integers(min_value=1, max_value=400), max_size=40))
def test_however_the_bytes_are_cut(sent: list[Message], cuts: list[int]) -> None:
    """Fails if a frame is lost, doubled, moved or changed by where one read ends and the next begins."""
    data, chunks = serialize(sent), []
    for cut in cuts:
        chunks.append(data[:cut])
        data = data[cut:]
    parts = split([*chunks, data])
    assert parse(parts) == sent
    whole = [part for part in parts if isinstance(part, str)]
    is_alone = [opcode is Opcode.TEXT and final and payload != b"\xff\xfe" for opcode, final, payload in sent]
    assert len(whole) == sum(is_alone), "texts in one frame, and nothing else, are read here"


def test_one_byte_at_a_time() -> None:
    """Fails if a frame's head is read before it is there."""
    sent = [(Opcode.TEXT, True, b"x" * size) for size in (0, 1, 125, 126, 127, 700)]
    assert parse(split([bytes([byte]) for byte in serialize(sent)])) == sent


def test_a_text_inside_of_a_fragmented_message_is_left_to_the_parser() -> None:
    """Fails if a breach of the protocol is delivered as a message."""
    data = serialize([(Opcode.TEXT, False, b"begun"), (Opcode.TEXT, True, b"another")])
    assert all(isinstance(part, bytes) for part in split([data]))


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"\x81\xfe" + (MAX_BYTES + 1).to_bytes(2), id="too large"),
        pytest.param(b"\x82\xff" + (1 << 62).to_bytes(8), id="binary that would never end"),
        pytest.param(b"\x81\x05", id="not masked"),
    ],
)
def test_what_breaks_the_rules_is_not_waited_for(head: bytes) -> None:
    """Fails if a client can make us keep what we are never going to take."""
    data = head + (b"\0\0\0\0" if head[1] & 0x80 else b"")
    parser = Protocol(Side.SERVER, state=State.OPEN, max_size=MAX_BYTES)
    [part] = split([data])
    assert isinstance(part, bytes)
    parser.receive_data(part)
    assert parser.parser_exc is not None


@pytest.mark.parametrize("step", [1, 3, 1000, 100_000])
@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("size", [5, 200, MAX_BYTES + 1, 70_000])
def test_what_follows_a_frame_that_is_not_taken_is_understood(step: int, is_masked: bool, size: int) -> None:
    """Fails if a client's close frame is taken for a part of what it sent before, or the other way round."""
    refused = Frame(Opcode.TEXT, b"\x88\x80" * (size // 2) + b"x" * (size % 2)).serialize(mask=is_masked)
    close = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
    data = refused + close
    parts = split([data[at : at + step] for at in range(0, len(data), step)])
    assert parts[-1] == close
    assert len(parts) == 2


def test_a_large_frame_in_many_pieces() -> None:
    """Fails if what has come is gone through again with each piece (64 KiB by single bytes would take minutes)."""
    payload = os.urandom(32_768).hex().encode()
    data = serialize([(Opcode.TEXT, True, payload)])
    [whole] = split([data[at : at + 1] for at in range(len(data))], max_bytes=1 << 20)
    assert whole == payload.decode()
