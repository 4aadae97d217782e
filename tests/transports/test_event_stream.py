"""Blocks of an event stream: what all streams share, and the ids that each of them puts in between."""

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.codecs.plain.codec import PlainCodec
from heliograph.codecs.plain.cursor import parse_cursor
from heliograph.hub.frames import Encoding
from heliograph.hub.outbox import FlushScheduler, Outboxes
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Connected, Event, Progress, Subscribed, Unsubscribed
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.telemetry import Traffic
from heliograph.transports.event_stream import PIECE_BYTES, EventBlock, EventSink, event_block, in_block, join_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

CHANNELS = ("#alice", "news", "방:42", "run:7", "x" * 300)
ENCODING = Encoding(PlainCodec(32), in_block, Traffic(), join=join_blocks)


class Stream:
    """A `ServerStream` that keeps what is written; with `room`, its flow pauses when so many bytes were."""

    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, *, takes_chunks: bool = False, room: int = 1 << 30) -> None:
        self.takes_chunks = takes_chunks
        self.written: list[bytes] = []
        self.last: bytes | None = None
        self.room = room
        self.pause: Callable[[], None] | None = None

    def write(self, frames: list[bytes]) -> None:
        self.written += frames
        self.room -= sum(map(len, frames))
        if self.room <= 0 and self.pause is not None:
            self.pause()

    def end(self, last: bytes) -> None:
        self.last = last


def sink_on(stream: Stream, right: str = "") -> EventSink:
    callbacks: list[Callable[[], None]] = []
    sink = EventSink(stream, Outboxes(FlushScheduler(callbacks.append), 1 << 20), CHANNELS, right)
    stream.pause = sink.pause
    sink.resume()
    return sink


def publication(channel: str, offset: int, epoch: str = "0a0b0c0d", data: bytes = b"1") -> Publication:
    position = Position(epoch, offset) if offset else None
    return Publication(channel=channel, data=msgspec.Raw(data), message_id="m", sent_at="now", position=position)


EPOCHS = st.sampled_from(("0a0b0c0d", "ffffffff", "odd"))
PUBLICATIONS = st.builds(publication, st.sampled_from(CHANNELS), st.integers(0, 300), EPOCHS)
POSITIONS = st.builds(Position, EPOCHS, st.integers(1, 300))
EVENTS = st.one_of(
    PUBLICATIONS,
    st.builds(lambda each: Progress(each, "RUNNING", 1.0, None), PUBLICATIONS),
    st.builds(lambda channel, position: Subscribed(channel, position, True), st.sampled_from(CHANNELS), POSITIONS),
    st.builds(lambda channel: Unsubscribed(channel), st.sampled_from(CHANNELS)),
    st.builds(
        lambda positions: Connected("alice", "s", "r", positions, 25),
        st.dictionaries(st.sampled_from(CHANNELS), POSITIONS, max_size=3),
    ),
)


def expected(events: list[Event]) -> list[dict[str, Position]]:
    """Where the client is after each event."""
    at: dict[str, Position] = {}
    places = []
    for event in events:
        match event:
            case (
                Publication(channel=channel, position=position)
                | Progress(publication=Publication(channel=channel, position=position))
            ):
                at.update({channel: position} if position else {})
            case Subscribed():
                at[event.channel] = event.position
            case Connected():
                at.update(event.positions)
        places.append(dict(at))
    return places


def read(data: bytes) -> list[tuple[str | None, str]]:
    """The id (None: none of its own) and the type of each block."""
    blocks = []
    for block in data.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        blocks.append((fields.get("id"), json.loads(fields["data"])["type"]))
    return blocks


def split_at(events: list[Event], joins: list[int]) -> list[list[EventBlock]]:
    """Writes of so many events each; consecutive publications of one channel are joined as a batch does."""
    frames: list[list[EventBlock]] = []
    left = list(events)
    for count in [*joins, len(left)]:
        part, left = left[:count], left[count:]
        channels = {each.channel for each in part if isinstance(each, Publication)}
        blocks = [ENCODING.frame(event) for event in part]
        if len(channels) == 1 and all(isinstance(each, Publication) for each in part):
            blocks = [join_blocks(blocks)]
        frames += [blocks] if blocks else []
    return frames


@given(st.lists(EVENTS, max_size=30), st.lists(st.integers(1, 4), max_size=30), st.sampled_from(("", "secret.0.x")))
def test_each_id_says_where_the_client_is(events: list[Event], joins: list[int], right: str) -> None:
    """Fails if an id leaves out a channel, runs ahead of or behind its event, or is missing."""
    stream = Stream()
    sink = sink_on(stream, right)
    for frames in split_at(events, joins):
        sink.write(frames)
    blocks = read(b"".join(stream.written))
    assert len(blocks) == len(events)
    last = ""
    for (identity, _), places in zip(blocks, expected(events), strict=True):
        last = identity or last
        cursor = parse_cursor(last)
        assert {each: cursor.position_in(each) for each in CHANNELS} == {each: places.get(each) for each in CHANNELS}
        assert not last or not right or f"&={right}" in last


def test_what_differs_from_stream_to_stream_is_only_the_cursor() -> None:
    """Fails if the blocks of an event are made anew for each stream."""
    block = ENCODING.frame(publication("news", 7))
    assert block.parts[0] == b"id: "
    assert block.parts[1].startswith(b"&news=0a0b0c0d.7\ndata: {")
    joined = join_blocks([block, ENCODING.frame(publication("news", 0)), ENCODING.frame(publication("news", 8))])
    assert len(joined.parts) == 3
    assert joined.moves == {"news": Position("0a0b0c0d", 8)}
    assert len(joined) == sum(map(len, joined.parts))


@pytest.mark.parametrize("takes_chunks", [True, False])
def test_a_stream_gets_no_more_than_it_takes(takes_chunks: bool) -> None:
    """Fails if ids, which nobody has counted, wait in bulk in a stream whose client does not read."""
    stream = Stream(takes_chunks=takes_chunks, room=PIECE_BYTES)
    sink = sink_on(stream)
    sink.write([ENCODING.frame(publication("news", number, data=b"%d" % number)) for number in range(1, 2001)])
    first = sum(map(len, stream.written))
    assert PIECE_BYTES <= first < PIECE_BYTES + 2000
    outbox = sink.outbox
    assert outbox._paused
    assert outbox._buffered > 100_000
    stream.room = 1 << 30
    sink.resume()
    assert not sink.outbox._paused
    data = b"".join(stream.written)
    for number in range(1, 2001):
        assert data.count(b'"data":%d,' % number) == 1
    if takes_chunks:
        assert all(
            int(each.partition(b"\r\n")[0], 16) == len(each.partition(b"\r\n")[2]) - 2 for each in stream.written
        )


def test_the_end_says_why() -> None:
    """Fails if a stream ends without its last event."""
    stream = Stream()
    sink = sink_on(stream)
    sink.outbox.close(CloseCode.SHUTDOWN, "this replica is shutting down")
    assert stream.last == event_block(b'{"type":"disconnect","code":3001,"reason":"this replica is shutting down"}')


def test_json_over_several_lines_stays_one_event() -> None:
    """Fails if the line breaks of an author's JSON end the event early."""
    pretty = '{\n  "a": 1,\r\n  "b": "\\n"\r}'
    block = event_block(pretty.encode())
    assert block.endswith(b"\n\n")
    lines = block[:-2].split(b"\n")
    assert all(line.startswith(b"data: ") and b"\r" not in line for line in lines)
    assert json.loads(b"\n".join(line[6:] for line in lines)) == {"a": 1, "b": "\n"}
