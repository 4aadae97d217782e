"""Where something stands in a channel, and where a client says that it stands."""

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec


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


class ReadPositions(Protocol):
    """Positions in any number of channels. `named`: by name, in order; it may tell of others too, when asked."""

    @property
    def named(self) -> Mapping[str, Position]: ...

    def position_in(self, channel: str) -> Position | None:
        """Return the position in the channel, named or not; None if that is not said."""
        ...


class StatedPositions(Protocol):
    """Where a client says that it stands, as its codec was given it.

    It costs next to nothing until it is read, which is when it is known who says so.
    """

    def check_size(self, channels: int) -> None:
        """Reject, unread, what is far longer than any of so many channels and the user's own.

        Raises:
            BadCursor: it is.
        """
        ...

    def read(self, channels: int) -> ReadPositions:
        """Read it. `channels`: of how many it may tell, beside the user's own.

        Raises:
            BadCursor: no replica has given this.
        """
        ...


class Positions(dict[str, Position]):
    """Positions by channel, which a codec states that has them at hand."""

    @property
    def named(self) -> Mapping[str, Position]:
        return self

    def position_in(self, channel: str) -> Position | None:
        return self.get(channel)

    def check_size(self, channels: int) -> None:
        pass

    def read(self, channels: int) -> ReadPositions:
        return self


NOWHERE: Final = Positions()
