"""What becomes of messages on this replica, noted as it happens: so that somebody can ask afterwards.

A note is taken once for each message and replica, and not for each connection. Which connections a message was
delivered to, and whether it was written to them, follows from the rare notes: who joined and left, who stopped
reading and went on, and what was dropped at an end. `cluster/trace_account.py` draws that conclusion.
"""

import re
from collections import deque
from collections.abc import Sequence
from itertools import islice
from time import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from heliograph.hub.frames import payloads_in

if TYPE_CHECKING:
    from heliograph.ports import AppendResult, Draft
    from heliograph.protocol.envelope import Envelope
    from heliograph.protocol.position import Position
    from heliograph.protocol.publication import Publication

PACKED: Final = 128  # notes in one piece: what they take fits into the cache that a core has for itself
MOST_DROPPED: Final = 100  # messages that are named of what is not written at the end of a connection
HERE: Final = "here"  # how far a message got that was not published: only this replica needs it
MOST_OFFSET: Final = 2**63 - 1  # in a note that is packed: a client may state a position with any number of digits
MOST_ID: Final = 128  # characters of a message's id: one that a program makes up may have any length

# Of a message in the plain format: how it begins, and what stands before its id. The author's data come between them.
_MESSAGE: Final = b'{"type":"message",'
_BEFORE_ID: Final = b'"message_id":'
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')  # in JSON


# What a note is of.
ACCEPTED: Final = 0  # a message that is kept from now on
REPEATED: Final = 1  # a message that was accepted before
RELAYED: Final = 2  # a message that is not kept
REFUSED: Final = 3  # a message that was not accepted
DELIVERED: Final = 4  # to the subscribers here
GAP: Final = 5  # messages are missing here, and are read from the log
REPAIRED: Final = 6  # the log had them
LOST: Final = 7  # the log had not
CONNECTED: Final = 8
DISCONNECTED: Final = 9
JOINED: Final = 10  # a connection was told where it begins on a channel
CAUGHT_UP: Final = 11  # a connection was sent what it had missed
SUBSCRIBED: Final = 12  # a connection gets what is delivered from now on
UNSUBSCRIBED: Final = 13
PAUSED: Final = 14  # a connection does not read
RESUMED: Final = 15
ENDED: Final = 16  # nothing more is written to a connection

# The words for them, by number.
NAMES: Final = (
    "accepted",
    "repeated",
    "relayed",
    "refused",
    "delivered",
    "gap",
    "repaired",
    "lost",
    "connected",
    "disconnected",
    "joined",
    "caught_up",
    "subscribed",
    "unsubscribed",
    "paused",
    "resumed",
    "ended",
)

# When (seconds since the epoch); what is noted; the channel; the message or the connection; its user; the epoch and
# two offsets in the channel; and a word more. What does not apply is empty or 0. See the methods of `TraceRing`.
Note = tuple[float, int, str, str, str, str, int, int, str]

_encode: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(list[Note]).decode


class Trace:
    """Take no notes: this replica keeps none."""

    # What comes with every message takes whole objects: where no notes are taken, nothing is read from them.

    def accepted(self, draft: "Draft", answer: "AppendResult") -> None:
        """A message is kept, or is the repetition of one that was accepted before."""

    def relayed(self, envelope: "Envelope", taken: int) -> None:
        """A message that is not kept was delivered here to `taken` connections, and goes to other replicas."""

    def refused(self, draft: "Draft", why: str) -> None:
        """A message was not accepted, or nobody knows."""

    def delivered(self, publication: "Publication") -> None:
        """A message goes to the subscribers here; to all connections of a user if it is not kept."""

    def gap(self, channel: str, after: "Position", next_offset: int) -> None:
        """A message came here before others, which are missing."""

    def repaired(self, channel: str, after: "Position", up_to: "Position") -> None:
        """What was missing has been delivered from the log."""

    def lost(self, channel: str, continues_at: "Position") -> None:
        """What was missing is not in the log any more."""

    def connected(self, connection: str, user: str, device: str) -> None:
        """A connection of the user is there. The first argument is its id, here and below."""

    def disconnected(self, connection: str, user: str, device: str, code: int) -> None:
        """A connection is gone. `code`: the close code if this replica closed it, or 0."""

    def joined(
        self,
        connection: str,
        user: str,
        channel: str,
        position: "Position",
        since: "Position | None",
        recovered: bool,
    ) -> None:
        """A connection was told that it begins at `position`. `since`: where it was before, as it says."""

    def caught_up(self, connection: str, user: str, channel: str, first: "Position", last: "Position") -> None:
        """A connection was sent what it had missed, from `first` to `last`."""

    def subscribed(self, connection: str, user: str, channel: str, position: "Position | None") -> None:
        """A connection gets what is delivered on the channel from now on: what follows `position`."""

    def unsubscribed(self, connection: str, user: str, channel: str) -> None:
        """A connection gets nothing more on the channel."""

    def paused(self, connection: str) -> None:
        """What is written to the connection with this id waits, because the other side does not read."""

    def resumed(self, connection: str) -> None:
        """What has waited is written."""

    def ended(self, connection: str, frames: Sequence[Any], buffered: int = 0) -> None:
        """Nothing more is written to the connection with this id; not these frames either. Perhaps told twice.

        `buffered`: bytes of earlier frames that its sink had not written when it paused, if it has not resumed.
        """


class PassingTrace(Trace):
    """Pass every note on to `inner`. What looks at some of them on their way inherits from it."""

    def __init__(self, inner: Trace) -> None:
        self._inner = inner

    def accepted(self, draft: "Draft", answer: "AppendResult") -> None:
        self._inner.accepted(draft, answer)

    def relayed(self, envelope: "Envelope", taken: int) -> None:
        self._inner.relayed(envelope, taken)

    def refused(self, draft: "Draft", why: str) -> None:
        self._inner.refused(draft, why)

    def delivered(self, publication: "Publication") -> None:
        self._inner.delivered(publication)

    def gap(self, channel: str, after: "Position", next_offset: int) -> None:
        self._inner.gap(channel, after, next_offset)

    def repaired(self, channel: str, after: "Position", up_to: "Position") -> None:
        self._inner.repaired(channel, after, up_to)

    def lost(self, channel: str, continues_at: "Position") -> None:
        self._inner.lost(channel, continues_at)

    def connected(self, connection: str, user: str, device: str) -> None:
        self._inner.connected(connection, user, device)

    def disconnected(self, connection: str, user: str, device: str, code: int) -> None:
        self._inner.disconnected(connection, user, device, code)

    def joined(
        self,
        connection: str,
        user: str,
        channel: str,
        position: "Position",
        since: "Position | None",
        recovered: bool,
    ) -> None:
        self._inner.joined(connection, user, channel, position, since, recovered)

    def caught_up(self, connection: str, user: str, channel: str, first: "Position", last: "Position") -> None:
        self._inner.caught_up(connection, user, channel, first, last)

    def subscribed(self, connection: str, user: str, channel: str, position: "Position | None") -> None:
        self._inner.subscribed(connection, user, channel, position)

    def unsubscribed(self, connection: str, user: str, channel: str) -> None:
        self._inner.unsubscribed(connection, user, channel)

    def paused(self, connection: str) -> None:
        self._inner.paused(connection)

    def resumed(self, connection: str) -> None:
        self._inner.resumed(connection)

    def ended(self, connection: str, frames: Sequence[Any], buffered: int = 0) -> None:
        self._inner.ended(connection, frames, buffered)


class TraceRing(Trace):
    """Keep the last `size` notes.

    The newest are kept as they are. `PACKED` of them at a time are then packed into one piece: to let go of a single
    old note costs more than to take a new one, because no part of it is in a cache of the processor any more.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._newest: list[Note] = []
        self._packed: deque[bytes] = deque(maxlen=-(-size // PACKED))  # before them, oldest first
        self.taken = 0  # notes since the start
        self._started_at = time()

    @property
    def since(self) -> float:
        """From when on all notes are still here, in seconds since the epoch."""
        if self.taken < self._size:
            return self._started_at
        piece, at = divmod(len(self._packed) * PACKED + len(self._newest) - self._size, PACKED)
        notes = self._newest if piece == len(self._packed) else _unpack(self._packed[piece])
        return notes[at][0]

    def read(self, after: int = 0) -> tuple[list[Note], int]:
        """Return the notes after the first `after` ones, oldest first, and how many of them are gone already."""
        first = max(after, self.taken - self._size, 0)
        wanted = max(self.taken - first, 0)
        pieces = -(-max(wanted - len(self._newest), 0) // PACKED)
        found: list[Note] = []
        for piece in islice(self._packed, len(self._packed) - pieces, None):
            found += _unpack(piece)
        found += self._newest
        return found[len(found) - wanted :], first - max(after, 0)

    def _note(self, note: Note) -> None:
        self._newest.append(note)
        self.taken += 1
        if len(self._newest) == PACKED:
            self._packed.append(_pack(self._newest))
            self._newest.clear()

    def accepted(self, draft: "Draft", answer: "AppendResult") -> None:
        position, channel, message_id = answer.position, draft.channel, draft.message_id
        epoch, offset = position.epoch, position.offset
        if answer.message_id == message_id:
            how_far = answer.delivery if answer.published else HERE
            self._note((time(), ACCEPTED, channel, message_id, draft.sender or "", epoch, offset, 0, how_far))
        else:
            self._note((time(), REPEATED, channel, message_id, "", epoch, offset, 0, answer.message_id))

    def relayed(self, envelope: "Envelope", taken: int) -> None:
        message_id, sender = envelope.message_id or "", envelope.sender or ""
        self._note((time(), RELAYED, envelope.address, message_id, sender, "", taken, 0, ""))

    def refused(self, draft: "Draft", why: str) -> None:
        self._note((time(), REFUSED, draft.channel, draft.message_id, draft.sender or "", "", 0, 0, why))

    def delivered(self, publication: "Publication") -> None:
        message_id, position = publication.message_id, publication.position
        if len(message_id) > MOST_ID:
            message_id = message_id[:MOST_ID]
        if position is None:
            self._note((time(), DELIVERED, publication.channel, message_id, "", "", 0, 0, ""))
        else:
            self._note(
                (time(), DELIVERED, publication.channel, message_id, "", position.epoch, position.offset, 0, "")
            )

    def gap(self, channel: str, after: "Position", next_offset: int) -> None:
        self._note((time(), GAP, channel, "", "", after.epoch, after.offset, next_offset, ""))

    def repaired(self, channel: str, after: "Position", up_to: "Position") -> None:
        self._note((time(), REPAIRED, channel, "", "", up_to.epoch, after.offset + 1, up_to.offset, ""))

    def lost(self, channel: str, continues_at: "Position") -> None:
        self._note((time(), LOST, channel, "", "", continues_at.epoch, continues_at.offset, 0, ""))

    def connected(self, connection: str, user: str, device: str) -> None:
        self._note((time(), CONNECTED, "", connection, user, "", 0, 0, device))

    def disconnected(self, connection: str, user: str, device: str, code: int) -> None:
        self._note((time(), DISCONNECTED, "", connection, user, "", code, 0, device))

    def joined(
        self,
        connection: str,
        user: str,
        channel: str,
        position: "Position",
        since: "Position | None",
        recovered: bool,
    ) -> None:
        offset = -1 if since is None or (since.epoch and since.epoch != position.epoch) else since.offset
        how = "recovered" if recovered else ""
        self._note((time(), JOINED, channel, connection, user, position.epoch, position.offset, offset, how))

    def caught_up(self, connection: str, user: str, channel: str, first: "Position", last: "Position") -> None:
        self._note((time(), CAUGHT_UP, channel, connection, user, last.epoch, first.offset, last.offset, ""))

    def subscribed(self, connection: str, user: str, channel: str, position: "Position | None") -> None:
        epoch, offset = ("", 0) if position is None else (position.epoch, position.offset)
        self._note((time(), SUBSCRIBED, channel, connection, user, epoch, offset, 0, ""))

    def unsubscribed(self, connection: str, user: str, channel: str) -> None:
        self._note((time(), UNSUBSCRIBED, channel, connection, user, "", 0, 0, ""))

    def paused(self, connection: str) -> None:
        self._note((time(), PAUSED, "", connection, "", "", 0, 0, ""))

    def resumed(self, connection: str) -> None:
        self._note((time(), RESUMED, "", connection, "", "", 0, 0, ""))

    def ended(self, connection: str, frames: Sequence[Any], buffered: int = 0) -> None:
        named = _ids_in(frames)
        self._note((time(), ENDED, "", connection, "", "", len(frames), 0, "\n".join(named)))


def _pack(notes: list[Note]) -> bytes:
    try:
        return _encode(notes)
    except (UnicodeEncodeError, OverflowError):  # of what a client has stated; it may not end a delivery
        return _encode([tuple(map(_packable, note)) for note in notes])


def _packable(part: object) -> object:
    """Return a part of a note without lone surrogates, and within 64 bits."""
    if isinstance(part, str):
        return part.encode(errors="replace").decode()
    return min(part, MOST_OFFSET) if isinstance(part, int) else part


def _ids_in(frames: Sequence[Any]) -> list[str]:
    """Return the messages in the last frames, as far as their format names them."""
    found: list[str] = []
    for frame in list(frames)[-MOST_DROPPED:]:
        whole = getattr(frame, "payload", frame)
        if isinstance(whole, bytes):
            for payload in payloads_in(whole):
                if payload.startswith(_MESSAGE):
                    text = _STRING.match(payload, payload.rfind(_BEFORE_ID) + len(_BEFORE_ID))
                    found.append("" if text is None else named(msgspec.json.decode(text[0], type=str)))
    return found[-MOST_DROPPED:]


def named(message_id: str) -> str:
    """Return a message's id as the note of an end names it: one line of at most `MOST_ID` characters."""
    return message_id[:MOST_ID].replace("\n", " ")


NO_TRACE: Final = Trace()
