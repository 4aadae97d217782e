"""Connections that have not said who they are: few of one address, of which the oldest makes room."""

from typing import Protocol


class Newcomer(Protocol):
    """A connection whose client has not said who it is."""

    def make_room(self) -> None:
        """End at once: others of this address want to come in."""
        ...


class Newcomers:
    """Who has not said who they are yet, by address; of each the last `limit` that came (0: any number).

    A client says it with its first frame, so it is among the last for as long as that takes; those that say nothing
    cannot keep it out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_address: dict[str, dict[Newcomer, None]] = {}  # in the order in which they came

    def enter(self, address: str, newcomer: Newcomer) -> None:
        """One more. The one that has been there for longest may have to go for it."""
        newcomers = self._by_address.setdefault(address, {})
        newcomers[newcomer] = None
        if 0 < self._limit < len(newcomers):
            oldest = next(iter(newcomers))
            del newcomers[oldest]
            oldest.make_room()

    def leave(self, address: str, newcomer: Newcomer) -> None:
        """It has said who it is, or has gone; nothing happens if it is not there any more."""
        newcomers = self._by_address.get(address)
        if newcomers is not None:
            newcomers.pop(newcomer, None)
            if not newcomers:
                del self._by_address[address]
