"""Where something stands in a channel, and the cursor a client keeps to come back to it."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, quote

import msgspec

from heliograph.errors import BadCursor
from heliograph.protocol.short_cursor import MARK, ShortCursor, ShortCursorWriter

MOST_SHORT: Final = 4  # short cursors that a client's may be joined from
RIGHT: Final = "="  # begins the part of a stream's id that is its client's right to return: a name that none has


class Position(msgspec.Struct, frozen=True, gc=False):
    """The place of one publication in its channel's log.

    `offset` counts up by one with each publication, from 1; 0 stands before the first. Offsets can be compared within
    one `epoch` only: it changes when the past of the log is not certain (it was lost, or may have been).
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}"

    @property
    def next(self) -> "Position":
        """The place of the publication that follows."""
        return Position(self.epoch, self.offset + 1)


def format_cursor(positions: Mapping[str, Position]) -> str:
    """The positions of any number of channels as one opaque string: ASCII, fit for URLs and SSE ids.

    Cursors can be joined with `&`.
    """
    return "&".join(cursor_of(channel, position) for channel, position in positions.items())


def cursor_of(channel: str, position: Position) -> str:
    """The cursor of one channel."""
    return f"{_quoted(channel)}={position.epoch}.{position.offset}"


@lru_cache(maxsize=10_000)
def _quoted(channel: str) -> str:
    return quote(channel, safe="")


class Cursor(dict[str, Position]):
    """What a client's cursor says: the positions of the channels that it names, and of others that it can tell.

    As a mapping it holds those that it names. `most`: how many channels each of its parts may tell of.
    """

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self._short: list[ShortCursor] = []
        self._most = most

    def position_in(self, channel: str) -> Position | None:
        """Where the client stands in the channel, named or not; None if that is not said."""
        if (named := self.get(channel)) is not None:
            return named
        for short in reversed(self._short):
            if (found := short.find(channel)) is not None:
                return Position(*found)
        return None

    def add(self, part: str) -> None:
        """Read one more part, which counts where another part says something else.

        Raises:
            ValueError: it is not one.
        """
        if part.startswith(MARK) and "=" not in part:
            if len(self._short) >= MOST_SHORT:
                raise ValueError(part)
            short = ShortCursor(part, self._most)
            for name in [name for name in self if short.find(name) is not None]:
                del self[name]
            self._short.append(short)
            return
        for channel, text in parse_qsl(part, keep_blank_values=True, strict_parsing=True, errors="strict"):
            if channel or not text:
                self[channel] = _parse_position(text)
            # else it is a right to return, which counts at `/sse` alone


def check_cursor_size(cursor: str, channels: int) -> None:
    """Reject, before it is read, a cursor that is far longer than any of so many channels and the user's own.

    Raises:
        BadCursor: it is.
    """
    if cursor.count("&") > 2 * channels + 2:  # it may have been joined from several
        raise _too_many(channels)


def parse_cursor(cursor: str, channels: int | None = None) -> Cursor:
    """The positions that a cursor holds; a channel that is in it twice counts with its last position.

    `channels`: of how many it may tell, beside the user's own. A client's costs no more to read than that.

    Raises:
        BadCursor: no replica gave this.
    """
    if channels is not None:
        check_cursor_size(cursor, channels)
    parsed = Cursor(None if channels is None else channels + 1)
    if not cursor:
        return parsed
    try:
        for part in cursor.split("&") if MARK in cursor else (cursor,):
            parsed.add(part)
    except ValueError:
        raise BadCursor("the cursor is not one that this cluster has given") from None
    if channels is not None and len(parsed) > channels + 1:
        raise _too_many(channels)
    return parsed


def _too_many(channels: int) -> BadCursor:
    return BadCursor(f"the cursor names more than the {channels} channels that a connection may be on")


class Bookmark:
    """Where one client stands in all of its channels, after all that it has been told."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}

    def keep(self, cursor: str) -> None:
        """The client has come as far as this cursor says, in the channels that it names."""
        for part in cursor.split("&") if cursor else ():
            self._parts[part.partition("=")[0]] = part

    def __str__(self) -> str:
        """The whole cursor."""
        return "&".join(self._parts.values())


class ShortBookmark(Bookmark):
    """One for channels that are known beforehand, which can also say it in few bytes."""

    __slots__ = ("_names", "_others", "_writer")

    def __init__(self, channels: Sequence[str]) -> None:
        super().__init__()
        self._names = {_quoted(channel): channel for channel in channels}
        self._writer = ShortCursorWriter(channels)
        self._others: dict[str, str] = {}  # what the short form cannot hold

    def keep(self, cursor: str) -> None:
        super().keep(cursor)
        for part in cursor.split("&") if cursor else ():
            quoted, _, text = part.partition("=")
            epoch, _, offset = text.rpartition(".")
            if self._writer.move(self._names.get(quoted, ""), epoch, int(offset)):
                self._others.pop(quoted, None)
            else:
                self._others[quoted] = part

    @property
    def short(self) -> str:
        """The whole cursor without names: `Cursor.position_in` finds the channels in it."""
        return "&".join((str(self._writer), *self._others.values()))


def _parse_position(text: str) -> Position:
    epoch, _, offset = text.rpartition(".")
    if not text.isascii() or not epoch.isalnum() or not offset.isdigit():
        raise ValueError(text)
    return Position(epoch, int(offset))
