"""Which messages without a position have been seen."""

from typing import Final

MOST: Final = 1000


class RecentIds:
    """The last ids seen, so that what comes over two connections is delivered once."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def add(self, message_id: str) -> bool:
        """Return whether it is new."""
        if message_id in self._ids:
            return False
        self._ids[message_id] = None
        if len(self._ids) > MOST:
            del self._ids[next(iter(self._ids))]
        return True
