"""The positions of one client of the plain protocol in all of its channels, as a cursor."""

from collections.abc import Mapping, Sequence

from heliograph.codecs.plain.cursor import cursor_of, format_cursor, quoted
from heliograph.codecs.plain.short_cursor import ShortCursorWriter, cursor_of_one
from heliograph.protocol.position import Position

SHORT_NAME = 16  # characters: a longer name is left out of the cursor of one channel


class Bookmark:
    """The positions of one client in all of its channels, after everything that it was sent."""

    __slots__ = ("_positions",)

    def __init__(self) -> None:
        self._positions: dict[str, Position] = {}

    def move(self, positions: Mapping[str, Position]) -> None:
        """Move the client to these positions."""
        self._positions.update(positions)

    def __str__(self) -> str:
        """Return the whole cursor."""
        return format_cursor(self._positions)


class ShortBookmark:
    """A bookmark for channels that are known beforehand. Its cursor takes few bytes."""

    __slots__ = ("_others", "_writer")

    def __init__(self, channels: Sequence[str]) -> None:
        self._writer = ShortCursorWriter(channels)
        self._others: dict[str, str] = {}  # what the short form cannot hold, each as a cursor

    def move(self, positions: Mapping[str, Position]) -> None:
        """Move the client to these positions."""
        for channel, position in positions.items():
            if self._writer.move(channel, position.epoch, position.offset):
                self._others.pop(channel, None)
            else:
                self._others[channel] = cursor_of(channel, position)

    def __str__(self) -> str:
        """Return the whole cursor, without names: `Cursor.position_in` finds the channels in it."""
        return "&".join((str(self._writer), *self._others.values()))


def position_part(channel: str, position: Position) -> str:
    """Return the cursor of one channel in few bytes. Behind other cursors, it takes precedence over them."""
    short = cursor_of_one(channel, position.epoch, position.offset) if len(quoted(channel)) > SHORT_NAME else None
    return cursor_of(channel, position) if short is None else short
