"""Which transport to try."""

from collections.abc import Callable, Sequence
from typing import Final

from heliograph.client.connection.events import Transport

# What has worked before is not given up for one failure: a replica may just have been restarted.
PATIENCE: Final = 3
UPGRADE_FIRST_S: Final = 5.0
UPGRADE_LONGEST_S: Final = 120.0


class TransportSelector:
    """The transports from best to worst. One that cannot be established gives way to the next; the first follows the
    last."""

    def __init__(self, transports: Sequence[Transport], random: Callable[[], float]) -> None:
        """`random` returns a number in [0, 1)."""
        self._transports = tuple(transports)
        self._random = random
        self._index = 0
        self._failures = 0
        self._upgrades = 0
        self._worked: set[Transport] = set()

    @property
    def current(self) -> Transport:
        """Return the one to try now."""
        return self._transports[self._index]

    def has(self, transport: Transport) -> bool:
        return transport in self._transports

    def can_upgrade(self) -> bool:
        """Return whether there is something better than what is in use."""
        return self._index > 0

    def connected(self, transport: Transport) -> None:
        """Note that a connection was established over this transport."""
        index = self._transports.index(transport)
        if index != self._index:
            self._upgrades = 0
        self._index = index
        self._failures = 0
        self._worked.add(transport)

    def failed(self, transport: Transport) -> bool:
        """Note that no connection was established. Return whether to try the next at once, without a pause."""
        if transport != self.current:
            return False
        self._failures += 1
        if transport in self._worked and self._failures < PATIENCE:
            return False
        self._failures = 0
        self._worked.discard(transport)
        self._index = (self._index + 1) % len(self._transports)
        return self._index != 0

    def next_upgrade(self) -> Transport:
        """Return the better transport to try; those above the current one take turns."""
        self._upgrades += 1
        return self._transports[(self._upgrades - 1) % self._index]

    @property
    def upgrade_in_s(self) -> float:
        """Return how many seconds to wait before the next attempt to get a better one."""
        ceiling_s: float = min(UPGRADE_LONGEST_S, UPGRADE_FIRST_S * 2 ** min(self._upgrades, 10))
        return (0.5 + self._random() / 2) * ceiling_s
