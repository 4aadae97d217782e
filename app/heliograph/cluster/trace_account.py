"""What became of a message on the connections of a user here, concluded from this replica's notes. Pure.

Notes are read in the order in which they were taken. Who was on a channel when the message was delivered, and who did
not read then, follows from the notes before it; at the first note, from what changed after that, or is so now.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from heliograph.hub.trace import (
    ACCEPTED,
    CAUGHT_UP,
    CONNECTED,
    DELIVERED,
    DISCONNECTED,
    ENDED,
    JOINED,
    LOST,
    MOST_ID,
    NAMES,
    PAUSED,
    REFUSED,
    RELAYED,
    REPAIRED,
    REPEATED,
    RESUMED,
    SUBSCRIBED,
    UNSUBSCRIBED,
    Note,
    named,
)
from heliograph.protocol.identity import personal_channel, user_of
from heliograph.protocol.position import Position
from heliograph.protocol.trace import (
    AccountQuestion,
    ConnectionAccount,
    Outcome,
    ReplicaAccount,
    Selector,
    Sighting,
    TraceNote,
)

MOST_SIGHTINGS: Final = 20
SAME_WRITE_S: Final = 0.1  # what was put into an outbox so shortly before its end may be among what was not written

_KIND, _CHANNEL, _SUBJECT, _USER = 1, 2, 3, 4  # where they are in a note
_OF_MESSAGES: Final = (ACCEPTED, REPEATED, RELAYED, REFUSED, DELIVERED)
_OF_CONNECTIONS: Final = (
    CONNECTED,
    DISCONNECTED,
    JOINED,
    CAUGHT_UP,
    SUBSCRIBED,
    UNSUBSCRIBED,
    PAUSED,
    RESUMED,
    ENDED,
)


class Present(NamedTuple):
    """A connection of the user that is here now. `is_on`: it is subscribed to the channel."""

    connection: str
    device: str
    is_on: bool
    is_paused: bool


class _Track:
    """One connection, as the notes are read."""

    def __init__(self, connection: str) -> None:
        self.connection = connection
        self.device = ""
        self.is_on = False  # it gets what is delivered
        self.is_paused = False
        self.outcome: Outcome | None = None
        self.at: float | None = None
        self.caught_up = False
        self.came_at: float | None = None  # when it was subscribed at a later position
        self.had_it_at: float | None = None
        self.ended_at: float | None = None
        self.code = 0

    def deliver(self, at: float, *, caught_up: bool = False) -> None:
        if self.outcome in (None, Outcome.NOT_WRITTEN):
            self.outcome = Outcome.WAITS if self.is_paused else Outcome.WRITTEN
            self.at, self.caught_up = at, caught_up

    def resume(self, at: float) -> None:
        self.is_paused = False
        if self.outcome is Outcome.WAITS:
            self.outcome, self.at = Outcome.WRITTEN, at

    def end(self, at: float, message_id: str, frames: int, names: str) -> None:
        """Take what was not written at the end. Some formats do not name the messages in it."""
        self.is_on = False
        if self.outcome is Outcome.WRITTEN and self.at is not None:
            is_named = named(message_id) in names.split("\n")
            is_recent = frames > 0 and not names and at - self.at < SAME_WRITE_S
            if not (is_named or is_recent):
                return
        elif self.outcome is not Outcome.WAITS:
            return
        self.outcome, self.at = Outcome.NOT_WRITTEN, at


def sightings_of(notes: Sequence[Note], message_id: str) -> list[Sighting]:
    """Return where the message stands in the notes."""
    wanted = message_id[:MOST_ID]
    found = []
    for at, kind, channel, subject, user, epoch, offset, _, text in notes:
        if kind in _OF_MESSAGES and subject == wanted:
            position = Position(epoch, offset) if epoch else None
            found.append(Sighting(NAMES[kind], at, channel, subject, user, position, text))
    return found[-MOST_SIGHTINGS:]


def account_of(
    notes: Sequence[Note], since: float, present: Sequence[Present], asked: AccountQuestion
) -> ReplicaAccount:
    """Return what became of the message here. `since`: the notes go back to there."""
    by_connection = _is_addressed_to_connections(asked)
    tracks = _tracks_before(notes, present, asked, by_connection)
    delivered_at = lost_at = None
    repaired = False
    for at, kind, channel, subject, user, epoch, offset, up_to, text in notes:
        if kind == DELIVERED:
            if subject == asked.message_id[:MOST_ID] and channel == asked.channel:
                delivered_at = at if delivered_at is None else delivered_at
                for each in tracks.values():
                    if each.is_on:
                        each.deliver(at)
        elif kind in _OF_CONNECTIONS:
            track = tracks.get(subject)
            if track is not None and (not channel or channel == asked.channel):
                _follow(track, (at, kind, channel, subject, user, epoch, offset, up_to, text), asked, by_connection)
        elif channel == asked.channel and kind == REPAIRED:
            repaired = repaired or _is_between(asked.position, epoch, offset, up_to)
        elif channel == asked.channel and kind == LOST:
            lost_at = at
    here = {each.connection: each for each in present}
    accounts = [_account(each, here.get(each.connection), asked, since) for each in tracks.values()]
    return ReplicaAccount(since, delivered_at, repaired, lost_at, [each for each in accounts if each is not None])


def _is_addressed_to_connections(asked: AccountQuestion) -> bool:
    """Return whether all connections of the user get it: it is for the user, and is not kept."""
    return asked.position is None and user_of(asked.channel) == asked.user


def _tracks_before(
    notes: Sequence[Note], present: Sequence[Present], asked: AccountQuestion, by_connection: bool
) -> dict[str, _Track]:
    """Return the user's connections as they were before the first note."""
    tracks = {each.connection: _Track(each.connection) for each in present}
    for _, kind, _, subject, user, _, _, _, text in notes:
        if user == asked.user and kind in _OF_CONNECTIONS:
            track = tracks.setdefault(subject, _Track(subject))
            if kind in (CONNECTED, DISCONNECTED):
                track.device = text
    comes, goes = (CONNECTED, DISCONNECTED) if by_connection else (SUBSCRIBED, UNSUBSCRIBED)
    on: dict[str, bool] = {}
    paused: dict[str, bool] = {}
    for _, kind, channel, subject, _, _, _, _, _ in notes:
        if subject in tracks:
            if kind in (comes, goes) and (by_connection or channel == asked.channel):
                on.setdefault(subject, kind == goes)
            elif kind in (PAUSED, RESUMED):
                paused.setdefault(subject, kind == RESUMED)
    for each in present:
        on.setdefault(each.connection, each.is_on)
        paused.setdefault(each.connection, each.is_paused)
        tracks[each.connection].device = each.device
    for track in tracks.values():
        track.is_on = on.get(track.connection, False)
        track.is_paused = paused.get(track.connection, False)
    return tracks


def _follow(track: _Track, note: Note, asked: AccountQuestion, by_connection: bool) -> None:
    """Take a note about the connection."""
    at, kind, _, _, _, epoch, offset, up_to, text = note
    position = asked.position
    if kind == PAUSED:
        track.is_paused = True
    elif kind == RESUMED:
        track.resume(at)
    elif kind == ENDED:
        track.end(at, asked.message_id, offset, text)
    elif kind == CONNECTED and by_connection:
        track.is_on, track.came_at = True, at
    elif kind == DISCONNECTED:
        track.is_on, track.ended_at, track.code = False, at, offset
    elif kind == CAUGHT_UP:
        if _is_between(position, epoch, offset, up_to):
            track.deliver(at, caught_up=True)
    elif kind == JOINED:
        if position is not None and epoch == position.epoch and up_to >= position.offset:
            track.had_it_at = at
    elif kind == SUBSCRIBED and not by_connection:
        track.is_on = True
        if position is None or epoch != position.epoch or offset >= position.offset:
            track.came_at = at
    elif kind == UNSUBSCRIBED and not by_connection:
        track.is_on = False
        track.ended_at = at


def _is_between(position: Position | None, epoch: str, first: int, last: int) -> bool:
    return position is not None and position.epoch == epoch and first <= position.offset <= last


def _account(track: _Track, here: Present | None, asked: AccountQuestion, since: float) -> ConnectionAccount | None:
    """Return the account of a connection; None if it has nothing to do with the message."""
    outcome, at = track.outcome, track.at
    sent_at = asked.sent_at
    if outcome is not None:
        pass
    elif track.had_it_at is not None:
        outcome, at = Outcome.HAD_IT, track.had_it_at
    elif track.ended_at is not None and (sent_at is None or track.ended_at <= sent_at):
        outcome, at = Outcome.GONE, track.ended_at
    elif track.came_at is not None and (asked.position is not None or sent_at is None or track.came_at >= sent_at):
        outcome, at = Outcome.CAME_LATER, track.came_at
    elif sent_at is not None and sent_at < since:
        outcome = Outcome.UNKNOWN
    elif here is not None and here.is_on:
        outcome = Outcome.NOT_HEARD
    elif track.ended_at is not None:
        outcome, at = Outcome.GONE, track.ended_at
    else:
        return None
    return ConnectionAccount(track.connection, track.device, outcome, at, track.caught_up, track.ended_at, track.code)


def fitting(notes: Sequence[Note], selector: Selector, on_channels: frozenset[str]) -> list[Note]:
    """Return the notes that fit. `on_channels`: what the selected user or connection is subscribed to.

    A watch asks twice a second, and a busy replica's event loop waits meanwhile. So what most notes fail is tested
    first, and costs little.
    """
    found = notes
    if user := selector.user:
        channels = on_channels | {personal_channel(user)}
        found = [note for note in found if note[_CHANNEL] in channels or note[_USER] == user]
    if selector.channel:
        found = [note for note in found if note[_CHANNEL] == selector.channel]
    if selector.message_id:
        message_id = selector.message_id[:MOST_ID]
        found = [note for note in found if note[_SUBJECT] == message_id and note[_KIND] in _OF_MESSAGES]
    if connection := selector.connection:
        found = [
            note
            for note in found
            if note[_CHANNEL] in on_channels or (note[_SUBJECT] == connection and note[_KIND] not in _OF_MESSAGES)
        ]
    return list(found)


def shown(note: Note) -> TraceNote:
    """Return the note as it is answered."""
    at, kind, channel, subject, user, epoch, offset, up_to, text = note
    message_id, connection = (subject, "") if kind in _OF_MESSAGES else ("", subject)
    return TraceNote(at, NAMES[kind], channel, message_id, connection, user, epoch, offset, up_to, text)
