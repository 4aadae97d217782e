"""Where something stands in a channel, and the cursor a client keeps to come back to it."""

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import parse_qsl, quote

import msgspec

from app.errors import BadCursor


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


def parse_cursor(cursor: str) -> dict[str, Position]:
    """The positions by channel; a channel that is named twice counts with its last position.

    Raises:
        BadCursor: this was not made by `format_cursor`.
    """
    if not cursor:
        return {}
    try:
        return {
            channel: _parse_position(text)
            for channel, text in parse_qsl(cursor, keep_blank_values=True, strict_parsing=True, errors="strict")
        }
    except ValueError:
        raise BadCursor("the cursor is not one that this cluster has given") from None


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


def _parse_position(text: str) -> Position:
    epoch, _, offset = text.rpartition(".")
    if not text.isascii() or not epoch.isalnum() or not offset.isdigit():
        raise ValueError(text)
    return Position(epoch, int(offset))
