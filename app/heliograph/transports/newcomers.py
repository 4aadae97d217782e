"""Connections that have not identified themselves: a limited number for each address; the oldest makes room."""

from typing import Protocol

from heliograph.telemetry import Telemetry


class Newcomer(Protocol):
    """A connection whose client has not identified itself."""

    def make_room(self) -> None:
        """End at once, to make room for others of this address."""
        ...


class Newcomers:
    """Connections that have not identified themselves, by address: the last `limit` of each (0: no limit).

    A client identifies itself with its first frame, so it is among the last ones until then; silent connections
    cannot keep it out.
    """

    def __init__(self, limit: int, telemetry: Telemetry) -> None:
        self._limit = limit
        self._telemetry = telemetry
        self._by_address: dict[str, dict[Newcomer, None]] = {}  # in the order in which they came

    def enter(self, address: str, newcomer: Newcomer) -> None:
        """Add one. The oldest one of the address may have to make room."""
        newcomers = self._by_address.setdefault(address, {})
        newcomers[newcomer] = None
        if 0 < self._limit < len(newcomers):
            oldest = next(iter(newcomers))
            del newcomers[oldest]
            self._telemetry.connections_refused += 1
            oldest.make_room()

    def leave(self, address: str, newcomer: Newcomer) -> None:
        """Remove one that has identified itself or has gone. Do nothing if it is not there."""
        newcomers = self._by_address.get(address)
        if newcomers is not None:
            newcomers.pop(newcomer, None)
            if not newcomers:
                del self._by_address[address]
