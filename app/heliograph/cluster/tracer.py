"""What became of a message, over all replicas: each says what it has noted, and here it is put together."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from heliograph.clock import iso8601
from heliograph.cluster.questions import Answerer, Questions, ReplicaAnswer
from heliograph.cluster.reading import Reading
from heliograph.cluster.receipts import ReceiptWriter
from heliograph.cluster.trace_account import Present, account_of, fitting, shown, sightings_of
from heliograph.errors import NotKnown
from heliograph.hub.hub import Hub
from heliograph.hub.trace import DELIVERED, MOST_ID, NAMES, TraceRing
from heliograph.ports import Receipt
from heliograph.protocol.identity import personal_channel
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.trace import (
    AccountQuestion,
    MessageQuestion,
    NotesPage,
    NotesQuestion,
    ReplicaAccount,
    Selector,
    Sighting,
    Sightings,
)

logger = logging.getLogger(__name__)

MOST_PAGES: Final = 20  # of a channel's log that are searched for a message
PAGE: Final = 500
MESSAGE, ACCOUNT, NOTES = "trace.message", "trace.account", "trace.notes"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """A message, as far as it is known. `is_kept`: it still stands in its channel's log."""

    message_id: str
    channel: str
    position: Position | None
    sender: str
    origin: str
    sent_at: float | None
    sightings: list[tuple[str, Sighting]]  # with the replica's name
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Story:
    """What became of a message for one user: what each replica says, or why it says nothing; and the receipts."""

    user: str
    facts: MessageFacts
    accounts: Sequence[tuple[str, ReplicaAccount | str]]  # two replicas may have one name: the old one ends
    receipts: list[Receipt]


class LocalTrace:
    """Answer for this replica, from its notes."""

    def __init__(self, ring: TraceRing | None, hub: Hub, node_id: str) -> None:
        self._ring = ring
        self._hub = hub
        self._node_id = node_id

    def answerers(self) -> dict[str, Answerer]:
        """Return who answers what; nothing if this replica takes no notes."""
        if self._ring is None:
            return {}
        ring = self._ring
        return {
            MESSAGE: _answering(MessageQuestion, lambda asked: self._sightings(ring, asked)),
            ACCOUNT: _answering(AccountQuestion, lambda asked: self._account(ring, asked)),
            NOTES: _answering(NotesQuestion, lambda asked: self._notes(ring, asked)),
        }

    def _sightings(self, ring: TraceRing, asked: MessageQuestion) -> Sightings:
        notes, _ = ring.read()
        return Sightings(ring.since, sightings_of(notes, asked.message_id))

    def _account(self, ring: TraceRing, asked: AccountQuestion) -> ReplicaAccount:
        notes, _ = ring.read()
        present = [
            Present(each.id, each.device, asked.channel in each.channels, each.outbox.is_paused)
            for each in self._hub.connections_of(asked.user)
        ]
        if asked.position is None and asked.channel == personal_channel(asked.user):
            present = [each._replace(is_on=True) for each in present]
        return account_of(notes, ring.since, present, asked)

    def _notes(self, ring: TraceRing, asked: NotesQuestion) -> NotesPage:
        up_to = ring.taken
        if asked.after is None:
            return NotesPage(ring.since, up_to, [])
        notes, gone = ring.read(asked.after.get(self._node_id, 0))
        if self._node_id not in asked.after:
            gone = 0  # all that there is was asked for, and this is all
        found = fitting(notes, asked.selector, self._channels_of(asked.selector))
        newest = [shown(note) for note in found[-asked.most :]]
        return NotesPage(ring.since, up_to, newest, gone + len(found) - len(newest))

    def _channels_of(self, selector: Selector) -> frozenset[str]:
        """Return what the selected user or connection is subscribed to here."""
        if not (selector.user or selector.connection):
            return frozenset()
        chosen = self._hub.connections_of(selector.user) if selector.user else self._hub
        mine = [each for each in chosen if selector.connection in ("", each.id)]
        return frozenset(channel for each in mine for channel in each.channels)


class Tracer:
    """Say what became of messages, over all replicas."""

    def __init__(self, questions: Questions, reading: Reading, receipts: ReceiptWriter) -> None:
        self._questions = questions
        self._reading = reading
        self._receipts = receipts

    async def story(self, user: str, message_id: str, channel: str = "") -> Story:
        """Return what became of the message for the user. `channel`: where it may be, beside the user's own.

        Raises:
            NotKnown: neither a replica nor the log knows the message (any more).
            BusUnavailable: nobody can be asked now.
        """
        facts, silent = await self._facts(user, message_id, channel)
        question = AccountQuestion(user, facts.channel, message_id, facts.position, facts.sent_at)
        answers = await self._questions.ask_all(ACCOUNT, _encoded(question))
        # The lease of one that hangs may have expired meanwhile: then it is not asked again, and may still have it.
        asked = {each.node_id for each in answers}
        answers += [each for each in silent if each.node_id not in asked]
        accounts = [(each.replica, _read(each, ReplicaAccount)) for each in answers]
        receipts = [each for each in await self._receipts.of(user) if each.channel == facts.channel]
        return Story(user, facts, accounts, receipts)

    async def notes(
        self, selector: Selector, after: dict[str, int] | None, most: int
    ) -> dict[str, tuple[str, NotesPage | str]]:
        """Return the notes that fit of each replica, by its node id and with its name; or why there are none.

        For `after` and `most` see `NotesQuestion`.

        Raises:
            BusUnavailable: which replicas there are cannot be read.
        """
        answers = await self._questions.ask_all(NOTES, _encoded(NotesQuestion(selector, after, most)))
        return {each.node_id: (each.replica, _read(each, NotesPage)) for each in answers}

    async def _facts(self, user: str, message_id: str, channel: str) -> tuple[MessageFacts, list[ReplicaAnswer]]:
        """Return what is known of the message, and the answers of those replicas that say nothing."""
        answers = await self._questions.ask_all(MESSAGE, _encoded(MessageQuestion(message_id)))
        read = [(each.replica, _read(each, Sightings)) for each in answers]
        found = [
            (replica, sighting)
            for replica, sightings in read
            if not isinstance(sightings, str)
            for sighting in sightings.found
        ]
        # The answer of Redis, by which a message is accepted, may come after the message itself.
        found.sort(key=lambda each: (each[1].what == NAMES[DELIVERED], each[1].at))
        position = next((sighting.position for _, sighting in found if sighting.position is not None), None)
        name = found[0][1].channel if found else channel or personal_channel(user)
        kept = await self._find(name, message_id, position) if position is not None or not found else None
        if kept is None and not found:
            raise NotKnown(_why_unknown(message_id, name, read))
        sent_at = found[0][1].at if found else None
        sender = next((sighting.sender for _, sighting in found if sighting.sender), "")
        silent = [each for each in answers if each.body is None]
        if kept is None:
            return MessageFacts(message_id, name, position, sender, "", sent_at, found, is_kept=False), silent
        facts = MessageFacts(
            message_id,
            name,
            kept.position,
            kept.sender or "",
            kept.origin or "",
            _time_of(kept, sent_at),
            found,
            True,
        )
        return facts, silent

    async def _find(self, channel: str, message_id: str, position: Position | None) -> Publication | None:
        """Return the message as the log has it; None if it has not, or not among the oldest that are searched.

        Raises:
            BusUnavailable: the log cannot be read now.
        """
        after = None if position is None else Position(position.epoch, position.offset - 1)
        limit = PAGE if position is None else 1
        for _ in range(MOST_PAGES):
            page = await self._reading.history(channel, after, limit)
            for publication in page.publications:
                if publication.message_id == message_id:
                    return publication
                after = publication.position
            if position is not None or not page.publications or after is None:
                return None
            if after.offset >= page.position.offset:
                return None
        return None


def _answering(kind: type[_T], answer: Callable[[_T], object]) -> Answerer:
    return lambda body: msgspec.Raw(msgspec.json.encode(answer(msgspec.json.decode(body, type=kind))))


def _encoded(question: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(question))


def _read(answer: ReplicaAnswer, kind: type[_T]) -> _T | str:
    """Return what the replica has answered, or why it has not."""
    if answer.body is None:
        return answer.why
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.MsgspecError as error:
        return f"its answer cannot be read, perhaps it is of another version: {error}"


def _time_of(publication: Publication, otherwise: float | None) -> float | None:
    try:
        return datetime.fromisoformat(publication.sent_at).timestamp()
    except ValueError:
        return otherwise


def _why_unknown(message_id: str, channel: str, read: Sequence[tuple[str, Sightings | str]]) -> str:
    known = [
        f"the notes of {replica} go back to {iso8601(each.since)}"
        for replica, each in read
        if not isinstance(each, str)
    ]
    silent = [f"{replica}: {each}" for replica, each in read if isinstance(each, str)]
    return "; ".join(
        [
            f"message {message_id[:MOST_ID]!r} is not known (any more): the log of {channel!r} has it not "
            f"among its oldest {MOST_PAGES * PAGE:,}",
            *known,
            *silent,
        ]
    )
