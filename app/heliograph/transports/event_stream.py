"""Events as an event stream (`text/event-stream`), each with an id that holds the client's whole cursor."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from heliograph.codecs.plain.bookmark import ShortBookmark, position_part
from heliograph.codecs.plain.cursor import RIGHT
from heliograph.codecs.plain.server_frames import Disconnect
from heliograph.hub.outbox import Outbox, Outboxes
from heliograph.protocol.events import Connected, Event, positions_after
from heliograph.protocol.position import Position
from heliograph.transports.server_stream import ServerStream, chunk

MEDIA_TYPE: Final = "text/event-stream"
RETRY_MS: Final = 1000  # until a client reconnects after the end of the stream
# Without a blank line, so that it is in the block of the first event.
PREFACE: Final = b"retry: %d\n" % RETRY_MS
# A comment that ends no block. Some readers take every block for an event, even one without data.
KEEP_ALIVE: Final = b":\n"
PIECE_BYTES: Final = 65_536  # written to a stream at once

_ID: Final = b"id: "


class EventBlock:
    """Consecutive events of one channel as blocks of a stream, shared by all streams.

    An id is a cursor of the client and, behind it, the position of its event, which takes precedence there. So only
    the cursor differs from stream to stream, and it need not change until another channel moves. `parts` are the
    bytes before, between and after that cursor. `moves` are the client's positions after the last event, in `channel`
    or, if that is empty, in any channels; then the ids are left to the stream.
    """

    __slots__ = ("channel", "moves", "parts", "size")

    def __init__(self, parts: list[bytes], channel: str, moves: Mapping[str, Position]) -> None:
        self.parts = parts
        self.channel = channel
        self.moves = moves
        self.size = sum(map(len, parts))

    def __len__(self) -> int:
        return self.size


def in_block(payload: bytes, event: Event) -> EventBlock:
    """Return an encoded event as a block of the stream."""
    block, moves = event_block(payload), positions_after(event)
    if not moves or isinstance(event, Connected):
        return EventBlock([block], "", moves)
    [(channel, position)] = moves.items()
    return EventBlock([_ID, b"&%b\n%b" % (position_part(channel, position).encode(), block)], channel, moves)


def join_blocks(blocks: list[EventBlock]) -> EventBlock:
    """Return consecutive blocks of one channel, or without a position, as one."""
    parts: list[bytes] = [b""]
    channel, moves = "", blocks[0].moves
    for block in blocks:
        parts[-1] += block.parts[0]
        parts += block.parts[1:]
        if block.channel:
            channel, moves = block.channel, block.moves
    return EventBlock(parts, channel, moves)


def event_block(payload: bytes) -> bytes:
    """Return an encoded event as one block of the stream. The author's JSON may span several lines."""
    if b"\n" in payload or b"\r" in payload:
        payload = b"\ndata: ".join(payload.splitlines())
    return b"data: %b\n\n" % payload


class EventSink:
    """A `Sink` that puts the client's cursor into the blocks, and a `Flow` for its stream.

    `channels`: those whose positions its ids hold. `right`: a secret that each id repeats (empty: none).
    """

    __slots__ = (
        "_bookmark",
        "_buffered",
        "_channel",
        "_channels",
        "_cursor",
        "_is_paused",
        "_moves",
        "_rest",
        "_right",
        "_stream",
        "_takes_chunks",
        "_write",
        "outbox",
    )

    def __init__(self, stream: ServerStream, outboxes: Outboxes, channels: Sequence[str], right: str) -> None:
        self._stream = stream
        self._write = stream.write
        self._takes_chunks = stream.takes_chunks
        self._channels = channels
        self._bookmark: ShortBookmark | None = None  # made with the first id: these channels may still be refused
        self._right = f"&{RIGHT}{right}" if right else ""
        self._channel = ""  # moves without a change of the cursor
        self._moves: Mapping[str, Position] = {}  # what is not in the cursor yet: the client's position there
        self._cursor = b""
        self._rest: list[EventBlock] = []  # what the stream could not take
        self._buffered = 0  # bytes in the stream's own buffer while it is paused
        self._is_paused = True
        self.outbox: Outbox[EventBlock] = outboxes.new(self)
        self.outbox.pause()  # until the stream begins

    def write(self, frames: list[EventBlock]) -> None:
        if len(frames) == 1:
            self._write([self._framed(frames[0])])
        else:
            self._write_pieces(frames)

    def close(self, code: int, reason: str) -> None:
        self._stream.end(event_block(msgspec.json.encode(Disconnect(code, reason))))

    # -- as the flow of the stream

    def pause(self, buffered: int = 0) -> None:
        self._is_paused = True
        self._buffered = buffered
        self.outbox.pause(buffered + sum(map(len, self._rest)))

    def resume(self) -> None:
        self._is_paused = False
        rest, self._rest = self._rest, []
        self._write_pieces(rest)
        if not self._is_paused:
            self.outbox.resume()

    def abandon(self) -> None:
        self._rest = []
        self.outbox.abandon()

    def _write_pieces(self, blocks: list[EventBlock]) -> None:
        """Write blocks until the stream has enough. Their ids are made only then, so none of them waits."""
        piece: list[bytes] = []
        size = 0
        for index, block in enumerate(blocks):
            if self._is_paused:
                self._rest += blocks[index:]
                self.pause(self._buffered)
                return
            data = self._framed(block)
            piece.append(data)
            size += len(data)
            if size >= PIECE_BYTES:
                self._write(piece)
                piece, size = [], 0
        if piece:
            self._write(piece)

    def _framed(self, block: EventBlock) -> bytes:
        data = self._with_ids(block)
        return chunk(data) if self._takes_chunks else data

    def _with_ids(self, block: EventBlock) -> bytes:
        if block.channel:
            if block.channel != self._channel:
                self._move_cursor(self._moves)
                self._channel = block.channel
            self._moves = block.moves
            return self._cursor.join(block.parts)
        if not block.moves:
            return block.parts[0]
        self._move_cursor({**self._moves, **block.moves})
        self._channel, self._moves = "", {}
        return b"%b%b\n%b" % (_ID, self._cursor, block.parts[0])

    def _move_cursor(self, moves: Mapping[str, Position]) -> None:
        if self._bookmark is None:
            self._bookmark, self._channels = ShortBookmark(self._channels), ()
        self._bookmark.move(moves)
        self._cursor = f"{self._bookmark}{self._right}".encode()
