"""What replicas tell each other, and whoever asks, of what became of a message."""

from enum import StrEnum

import msgspec

from heliograph.protocol.position import Position


class Outcome(StrEnum):
    """What became of a message on one connection."""

    WRITTEN = "written"  # to the socket
    WAITS = "waits"  # in the outbox: the other side does not read
    NOT_WRITTEN = "not_written"  # the connection ended before it was
    HAD_IT = "had_it"  # the client came with a later position: it has the message, it says
    CAME_LATER = "came_later"  # and did not ask for what came before
    GONE = "gone"  # it had left before the message came
    NOT_HEARD = "not_heard"  # it is subscribed, and this replica has not delivered the message
    UNKNOWN = "unknown"  # the replica's notes do not go back so far


class Sighting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message was accepted, repeated, relayed, refused or delivered (`what`, see `hub/trace.py`) on a replica."""

    what: str
    at: float
    channel: str
    message_id: str
    sender: str = ""
    position: Position | None = None
    text: str = ""


class MessageQuestion(msgspec.Struct, frozen=True):
    """Where was this message seen?"""

    message_id: str


class Sightings(msgspec.Struct, frozen=True):
    """Where a replica has seen a message; its notes go back to `since` (seconds since the epoch)."""

    since: float
    found: list[Sighting]


class AccountQuestion(msgspec.Struct, frozen=True):
    """What became of the message on the connections of this user? `sent_at`: None if that is unknown."""

    user: str
    channel: str
    message_id: str
    position: Position | None = None
    sent_at: float | None = None


class ConnectionAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a message on one connection; times in seconds since the epoch.

    `at`: when that was. `caught_up`: it was read from the log for this connection. `ended_at`: when the connection
    ended; `code`: the close code if the server closed it, or 0.
    """

    connection: str
    device: str
    outcome: Outcome
    at: float | None = None
    caught_up: bool = False
    ended_at: float | None = None
    code: int = 0


class ReplicaAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a message on one replica, whose notes go back to `since`.

    `delivered_at`: when the subscribers here got it. `repaired`: from the log, because the bus had lost it.
    `lost_at`: when publications of the channel were found to be lost.
    """

    since: float
    delivered_at: float | None = None
    repaired: bool = False
    lost_at: float | None = None
    connections: list[ConnectionAccount] = []


class Selector(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which notes to read: those about a user, a channel, a connection or a message; all that are given must fit."""

    user: str = ""
    channel: str = ""
    connection: str = ""
    message_id: str = ""


class NotesQuestion(msgspec.Struct, frozen=True):
    """Which notes fit? At most `most`, the newest.

    `after`: how many notes of each replica were read before, by node id; all of a replica's that is not in it. None:
    only say where they end, as those to come are meant.
    """

    selector: Selector
    after: dict[str, int] | None
    most: int


class TraceNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """One note of a replica. `event`: see `hub/trace.py`; the other fields are those that it has."""

    at: float
    event: str
    channel: str = ""
    message_id: str = ""
    connection: str = ""
    user: str = ""
    epoch: str = ""
    offset: int = 0
    up_to: int = 0
    text: str = ""


class NotesPage(msgspec.Struct, frozen=True):
    """The notes that fit, oldest first, up to the note with the number `up_to`. `left_out`: how many are not here."""

    since: float
    up_to: int
    notes: list[TraceNote]
    left_out: int = 0
