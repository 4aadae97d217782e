"""Positions in channels: of publications, and those that a client states."""

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from heliograph.errors import BadCursor


class Position(msgspec.Struct, frozen=True, gc=False):
    """The position of one publication in its channel's log.

    `offset` counts up by one with each publication, from 1; 0 is before the first. Offsets can be compared only
    within one `epoch`. The epoch changes when publications were lost, or may have been.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}"

    @property
    def next(self) -> "Position":
        """Return the position of the next publication."""
        return Position(self.epoch, self.offset + 1)


class ReadPositions(Protocol):
    """Positions in any number of channels. `named`: by name, in order; it may also know others."""

    @property
    def named(self) -> Mapping[str, Position]: ...

    def position_in(self, channel: str) -> Position | None:
        """Return the position in the channel, named or not; None if it is unknown."""
        ...


class StatedPositions(Protocol):
    """A client's positions, as its codec got them.

    They cost next to nothing until they are read, after the client has been identified.
    """

    def check_size(self, channels: int) -> None:
        """Reject, without reading, positions that are far too long for so many channels and the user's own.

        Raises:
            BadCursor: they are too long.
        """
        ...

    def read(self, channels: int) -> ReadPositions:
        """Read them. `channels`: how many they may hold, beside the user's own.

        Raises:
            BadCursor: no replica made this cursor.
        """
        ...


class Positions(dict[str, Position]):
    """Positions by channel, for a codec that has them decoded already."""

    @property
    def named(self) -> Mapping[str, Position]:
        return self

    def position_in(self, channel: str) -> Position | None:
        return self.get(channel)

    def check_size(self, channels: int) -> None:
        if len(self) > channels + 1:
            raise BadCursor(f"positions in more than the {channels} channels that a connection may be on")

    def read(self, channels: int) -> ReadPositions:
        return self


NOWHERE: Final = Positions()
