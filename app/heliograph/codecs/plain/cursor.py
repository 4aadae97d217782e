"""The cursor that a client of the plain protocol keeps to come back: its positions as one opaque string."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, quote

from heliograph.codecs.plain.short_cursor import MARK, ShortCursor
from heliograph.errors import BadCursor
from heliograph.protocol.position import NOWHERE, Position, StatedPositions

MOST_SHORT: Final = 4  # short cursors that a client's may be joined from
RIGHT: Final = "="  # begins the part of a stream's id that is its client's right to return: a name that none has


def format_cursor(positions: Mapping[str, Position]) -> str:
    """The positions of any number of channels as one opaque string: ASCII, fit for URLs and SSE ids.

    Cursors can be joined with `&`.
    """
    return "&".join(cursor_of(channel, position) for channel, position in positions.items())


def cursor_of(channel: str, position: Position) -> str:
    """The cursor of one channel."""
    return f"{quoted(channel)}={position.epoch}.{position.offset}"


@lru_cache(maxsize=10_000)
def quoted(channel: str) -> str:
    return quote(channel, safe="")


class Cursor(dict[str, Position]):
    """What a client's cursor says: the positions of the channels that it names, and of others that it can tell.

    As a mapping it holds those that it names. `most`: how many channels each of its parts may tell of.
    """

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self._short: list[ShortCursor] = []
        self._most = most

    @property
    def named(self) -> Mapping[str, Position]:
        return self

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


@dataclass(frozen=True, slots=True)
class UnreadCursor:
    """A cursor as a client has given it: see `StatedPositions`."""

    text: str

    def check_size(self, channels: int) -> None:
        if self.text.count("&") > 2 * channels + 2:  # it may have been joined from several
            raise _too_many(channels)

    def read(self, channels: int) -> Cursor:
        return parse_cursor(self.text, channels)


def stated(cursor: str | None) -> StatedPositions:
    """Return where a client says that it stands, unread. No cursor and an empty one say nothing."""
    return UnreadCursor(cursor) if cursor else NOWHERE


def parse_cursor(cursor: str, channels: int | None = None) -> Cursor:
    """The positions that a cursor holds; a channel that is in it twice counts with its last position.

    `channels`: of how many it may tell, beside the user's own. A client's costs no more to read than that.

    Raises:
        BadCursor: no replica gave this.
    """
    if channels is not None:
        UnreadCursor(cursor).check_size(channels)
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


def _parse_position(text: str) -> Position:
    epoch, _, offset = text.rpartition(".")
    if not text.isascii() or not epoch.isalnum() or not offset.isdigit():
        raise ValueError(text)
    return Position(epoch, int(offset))
