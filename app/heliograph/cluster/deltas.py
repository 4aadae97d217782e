"""The subscribers of one channel that get the difference of each publication from the one before."""

import msgspec

from heliograph.hub.connection import Connection
from heliograph.protocol.fossil import difference
from heliograph.protocol.publication import Publication


class Deltas:
    """What these subscribers have, and which of them must get a whole publication first.

    It exists only while there are any. A difference is computed once for all of them.
    """

    __slots__ = ("_before", "_newcomers", "_subscribers")

    def __init__(self) -> None:
        self._subscribers: set[Connection] = set()
        self._newcomers: set[Connection] = set()  # those of them that have got no publication yet
        self._before: bytes | None = None  # the data that all the others have

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._subscribers

    def add(self, connection: Connection) -> None:
        """Note a new subscriber."""
        self._subscribers.add(connection)
        self._newcomers.add(connection)

    def discard(self, connection: Connection) -> bool:
        """Forget a subscriber. Return whether others are left."""
        self._subscribers.discard(connection)
        self._newcomers.discard(connection)
        return bool(self._subscribers)

    def interrupt(self) -> None:
        """Note that the subscribers get a publication that is not prepared here: the next one must be whole."""
        self._before = None

    def prepare(self, publication: Publication) -> Publication:
        """Return the next publication, with its difference from the last one if somebody can use it."""
        before, self._before = self._before, bytes(publication.data)
        if before is None or len(self._newcomers) == len(self._subscribers):
            return publication
        delta = difference(before, self._before)
        return publication if delta is None else msgspec.structs.replace(publication, delta=delta)

    def take_newcomers(self) -> set[Connection]:
        """Return the subscribers that have got their first publication just now."""
        newcomers, self._newcomers = self._newcomers, set()
        return newcomers
