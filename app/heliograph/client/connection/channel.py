"""One channel as a client has heard it."""

from typing import Literal

from heliograph.client.connection.events import Frame
from heliograph.codecs.plain.cursor import cursor_of, parse_cursor
from heliograph.protocol.position import Position

# A position that is in no log, so that all that is kept follows it.
_BEGINNING = Position("0", 0)


class Channel:
    """A channel over any number of connections: in order, without a repeat.

    While a connection replaces another, both bring the same messages. A position shows whether a kept message is new.
    A run's progress has no position: it counts only from the connection that gave the run's state last.
    """

    def __init__(self, name: str, *, position: Position | None = None, replay: bool = False) -> None:
        """`position`: up to where it was heard before. `replay`: without a position it begins with what is kept."""
        self.name = name
        self.position = position
        self.is_run = False
        # The server refuses it to this client. Over HTTP, another attempt would refuse all others with it.
        self.refused = False
        # The program reads too slowly: the channel is left, and continues from its position later.
        self.paused = False
        self.deaf_to: set[int] = set()  # connections on which something was passed over meanwhile
        self._replay = replay
        self._state_from: int | None = None  # the connection that gave the run's state

    def forget(self) -> None:
        """Forget what was heard: another user listens from now on."""
        self.position = None
        self.is_run = False
        self.refused = False
        self._state_from = None

    @property
    def cursor(self) -> str:
        """Return its position as a cursor; empty if it has none."""
        return "" if self.position is None else cursor_of(self.name, self.position)

    @property
    def resume_cursor(self) -> str:
        """Return where a new connection continues; empty for a run, whose state is given anew, and to begin now."""
        if self.is_run:
            return ""
        if self.position is None and self._replay:
            return cursor_of(self.name, _BEGINNING)
        return self.cursor

    def begin(self, frame: Frame) -> bool:
        """Take in a `subscribed`. Return whether messages are missing between what was heard and what comes now."""
        self.refused = False
        before, begins = self.position, self._position_in(frame["cursor"])
        recovered = bool(frame["recovered"])
        if (
            before is not None
            and begins is not None
            and before.epoch == begins.epoch
            and before.offset >= begins.offset
        ):
            return False
        if before is None or not recovered:
            self.position = begins
        return before is not None and not recovered and not self.is_run

    def accept(self, cursor: str, *, in_use: bool) -> Literal["new", "known", "after_loss"]:
        """Take in a kept message. `in_use`: it came by the connection in use, not by one that is being left.

        `after_loss`: it is new, and messages before it are missing, which the server has not reported.
        """
        known, position = self.position, self._position_in(cursor)
        if position is None:
            return "known"
        if known is not None:
            is_known = position.offset <= known.offset if known.epoch == position.epoch else not in_use
            if is_known:
                return "known"
        self.position = position
        return "new" if known is None or position == known.next else "after_loss"

    def begin_run(self, connection: int) -> None:
        """Note that this connection has given the run's state."""
        self.is_run = True
        self._state_from = connection

    def advances_run(self, connection: int) -> bool:
        """Return whether progress that this connection brings is new."""
        return self.is_run and connection == self._state_from

    def _position_in(self, cursor: str) -> Position | None:
        return parse_cursor(cursor).position_in(self.name)
