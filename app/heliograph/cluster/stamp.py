"""What this replica writes on everything that it sends."""

from collections.abc import Callable
from itertools import count


class Stamp:
    """Who sends, a message id unlike any other replica's, and the time.

    `name`: what this replica is called on the wire; `timestamp` gives the present as ISO 8601 in UTC.
    """

    def __init__(self, name: str, node_id: str, timestamp: Callable[[], str]) -> None:
        self.name = name
        self.node_id = node_id
        self._timestamp = timestamp
        self._message_ids = map(f"{node_id}-%x".__mod__, count(1))  # quick

    def next_id(self) -> str:
        """Return a message id that no other message has."""
        return next(self._message_ids)

    def now(self) -> str:
        """Return the time."""
        return self._timestamp()
