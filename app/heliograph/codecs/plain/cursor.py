"""The cursor with which a client of the plain protocol resumes: its positions as one opaque string."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, quote

import msgspec

from heliograph.codecs.plain.short_cursor import MARK, ShortCursor
from heliograph.codecs.varint import MOST
from heliograph.errors import BadCursor
from heliograph.protocol.position import NOWHERE, Position, StatedPositions

MOST_SHORT: Final = 4  # short cursors that may be joined in a client's cursor
_DIGITS: Final = len(str(MOST))
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.~-]*")  # RFC 3986 section 2.3: characters that are never quoted
RIGHT: Final = "="  # begins the part of a stream's id that is the right to return: no channel has that name


def format_cursor(positions: Mapping[str, Position]) -> str:
    """Return the positions of any number of channels as one opaque string: ASCII, fit for URLs and SSE ids.

    Cursors can be joined with `&`.
    """
    return "&".join(cursor_of(channel, position) for channel, position in positions.items())


def cursor_of(channel: str, position: Position) -> str:
    """Return the cursor of one channel."""
    return f"{quoted(channel)}={position.epoch}.{position.offset}"


@lru_cache(maxsize=10_000)
def quoted(channel: str) -> str:
    if channel.startswith("#") and _PLAIN.fullmatch(channel, 1):
        return "%23" + channel[1:]  # the most frequent by far: each client has its own
    return quote(channel, safe="")


class Cursor(dict[str, Position]):
    """The content of a client's cursor: positions of the channels that it names, and of others by their hash.

    As a mapping it holds those that it names. `most`: how many channels each of its parts may hold.
    """

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self._short: list[ShortCursor] = []
        self._most = most

    @property
    def named(self) -> Mapping[str, Position]:
        return self

    def position_in(self, channel: str) -> Position | None:
        """Return the client's position in the channel, named or not; None if it is not in the cursor."""
        if (named := self.get(channel)) is not None:
            return named
        for short in reversed(self._short):
            if (found := short.find(channel)) is not None:
                return Position(*found)
        return None

    def add(self, part: str) -> None:
        """Read one more part; it takes precedence over earlier parts.

        Raises:
            ValueError: it is not a part of a cursor.
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
            # otherwise it is a right to return, which only `/sse` uses


class UnreadCursor(msgspec.Struct, frozen=True):
    """A client's cursor, not yet read: see `StatedPositions`."""

    text: str

    def check_size(self, channels: int) -> None:
        if self.text.count("&") > 2 * channels + 2:  # it may have been joined from several
            raise _too_many(channels)

    def read(self, channels: int) -> Cursor:
        return parse_cursor(self.text, channels)


def stated(cursor: str | None) -> StatedPositions:
    """Return a client's positions, unread. No cursor and an empty one have none."""
    return UnreadCursor(cursor) if cursor else NOWHERE


def parse_cursor(cursor: str, channels: int | None = None) -> Cursor:
    """Read the positions in a cursor; if a channel is in it twice, its last position counts.

    `channels`: how many it may hold, beside the user's own. That limits the cost of reading a client's cursor.

    Raises:
        BadCursor: no replica made this cursor.
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
    # The length first: `int` takes long for very many digits.
    if not text.isascii() or not epoch.isalnum() or not offset.isdigit() or len(offset) > _DIGITS:
        raise ValueError(text)
    if (number := int(offset)) > MOST:
        raise ValueError(text)
    return Position(epoch, number)
