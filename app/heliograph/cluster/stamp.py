"""The marks that this replica puts on everything that it sends."""

from collections.abc import Callable
from itertools import count


class Stamp:
    """The sender, a unique message id, and the time.

    `name`: this replica's name on the wire; `timestamp` returns the present time as ISO 8601 in UTC.
    """

    def __init__(self, name: str, node_id: str, timestamp: Callable[[], str]) -> None:
        self.name = name
        self.node_id = node_id
        self._timestamp = timestamp
        self._message_ids = map(f"{node_id}-%x".__mod__, count(1))  # fast

    def next_id(self) -> str:
        """Return a message id that no other message has."""
        return next(self._message_ids)

    def now(self) -> str:
        """Return the time."""
        return self._timestamp()
