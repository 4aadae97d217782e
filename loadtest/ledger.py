"""Messages sent and received: none may be lost, doubled or out of order, and no gap may be without a signal.

There are two independent proofs. The cluster gives each kept message a position in its channel: `Positions` follows
them. The senders number their messages, without the cluster's knowledge: `Numbers` follows those.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from heliograph.codecs.plain.cursor import format_cursor
from heliograph.protocol.position import Position

REMEMBERED = 100  # positions that are known again when they come a second time; older ones count as out of order
NAMED = 5  # examples of a fault that a report names


def place(position: Position | None) -> str:
    """A position as people read it."""
    return "nowhere" if position is None else f"{position.epoch}.{position.offset}"


@dataclass
class Positions:
    """One channel as one reader saw it, over all of the reader's connections."""

    position: Position | None = None
    gaps: list[tuple[Position, Position]] = field(default_factory=list)  # said aloud
    doubled: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    unsignalled: list[str] = field(default_factory=list)
    _recent: deque[Position] = field(default_factory=lambda: deque(maxlen=REMEMBERED), repr=False)

    def begins(self, position: Position, *, recovered: bool) -> None:
        """`subscribed` says: what comes after `position` follows."""
        if self.position is not None and position != self.position:
            if recovered:
                self.unsignalled.append(f"recovered at {place(position)} instead of {place(self.position)}")
            else:
                self.gaps.append((self.position, position))
        self.position = position

    def take(self, position: Position) -> None:
        """A message came, which says that it stands here."""
        before = self.position
        assert before is not None  # noqa: S101 - `connected` or `subscribed` came first
        forward = position.epoch != before.epoch or position.offset > before.offset
        if forward and (position.epoch != before.epoch or position.offset != before.offset + 1):
            self.unsignalled.append(f"{place(before)} -> {place(position)}")
        elif position == before or (not forward and position in self._recent):
            self.doubled.append(f"{place(before)} -> {place(position)}")
        elif not forward:
            self.disordered.append(f"{place(before)} -> {place(position)}")
        if forward:
            self.position = position
        self._recent.append(position)


@dataclass
class Sent:
    """What one sender has sent to one address, numbered from 1."""

    last: int = 0
    acknowledged: int = 0
    refused: set[int] = field(default_factory=set)  # the cluster said no
    unknown: set[int] = field(default_factory=set)  # the connection ended before the answer: nobody knows
    unanswered: set[int] = field(default_factory=set)

    def next(self) -> int:
        """The number of what is about to be sent."""
        self.last += 1
        self.unanswered.add(self.last)
        return self.last

    def acknowledge(self, number: int) -> None:
        self.unanswered.remove(number)
        self.acknowledged += 1

    def refuse(self, number: int) -> None:
        self.unanswered.remove(number)
        self.refused.add(number)

    def cut(self) -> None:
        """The connection is gone: what was not answered never will be."""
        self.unknown |= self.unanswered
        self.unanswered.clear()

    def certain(self, numbers: Iterable[int]) -> set[int]:
        """Those of the numbers which the cluster has acknowledged."""
        return set(numbers) - self.refused - self.unknown - self.unanswered


@dataclass
class Numbers:
    """One sender's messages as one reader saw them."""

    last: int | None = 0  # None: the reader came in the middle, and the first that comes is the beginning
    ephemeral: bool = False
    taken: int = 0
    doubled: list[int] = field(default_factory=list)
    disordered: list[int] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)

    def take(self, number: int) -> None:
        self.taken += 1
        if self.last is None or number == self.last + 1:
            self.last = number
        elif number > self.last:
            self.missing.update(range(self.last + 1, number))
            self.last = number
        elif number in self.missing:
            self.missing.remove(number)
            self.disordered.append(number)
        else:
            self.doubled.append(number)

    def lost(self, sent: Sent) -> set[int]:
        """What the cluster has acknowledged, and did not bring."""
        tail = () if self.last is None else range(self.last + 1, sent.last + 1)
        return sent.certain(self.missing.union(tail))


@dataclass
class Inbox:
    """All that one reader got."""

    name: str
    positions: dict[str, Positions] = field(default_factory=dict)  # by channel
    numbers: dict[str, Numbers] = field(default_factory=dict)  # by what the sender calls it
    complete_up_to: dict[str, Position] = field(
        default_factory=dict
    )  # by channel: what must have come when it leaves
    verdict: list[str] | None = None  # what it had not got when it left; what is sent later is not for it

    def begins(self, channel: str, position: Position, *, recovered: bool) -> None:
        self.positions.setdefault(channel, Positions()).begins(position, recovered=recovered)

    def take(self, channel: str, position: Position | None, stream: str, number: int) -> None:
        """A message: `stream` is what its sender counts by. What is ephemeral has no position."""
        if position is not None:
            self.positions[channel].take(position)
        self.numbers.setdefault(stream, Numbers(last=None)).take(number)

    def expect(self, stream: str) -> None:
        """From the first number on, this stream is for us alone."""
        self.numbers.setdefault(stream, Numbers())

    def expect_ephemeral(self, stream: str) -> None:
        """The same, for what is promised only for as long as the reader is connected."""
        self.numbers.setdefault(stream, Numbers(ephemeral=True))

    def forgive_ephemeral(self) -> None:
        """The reader was away: nobody has promised it what was ephemeral meanwhile."""
        for numbers in self.numbers.values():
            if numbers.ephemeral:
                numbers.last = None

    def cursor(self) -> str:
        """What to come back with."""
        return format_cursor({name: at.position for name, at in self.positions.items() if at.position is not None})

    def lost(self, sent: dict[str, Sent]) -> list[str]:
        """What was acknowledged, and is not here: at this moment, or when the reader left."""
        if self.verdict is not None:
            return self.verdict
        lost = [
            f"{self.name} did not get number {number} of {stream}"
            for stream, numbers in self.numbers.items()
            if stream in sent  # somebody else may write to our channels too
            for number in sorted(numbers.lost(sent[stream]))
        ]
        for channel, top in self.complete_up_to.items():
            at = self.positions[channel].position if channel in self.positions else None
            if at is None or at.epoch != top.epoch or at.offset < top.offset:
                lost.append(f"{self.name} got {channel} as far as {place(at)}, not as far as {place(top)}")
        return lost


@dataclass
class Ledger:
    """The whole run."""

    sent: dict[str, Sent] = field(default_factory=lambda: defaultdict(Sent))  # by stream
    inboxes: dict[str, Inbox] = field(default_factory=dict)  # by reader
    tops: dict[str, Position] = field(default_factory=dict)  # by channel: the newest that was acknowledged
    closed: list[str] = field(default_factory=list)  # sockets that ended though nobody wished it
    broken: list[str] = field(
        default_factory=list
    )  # users of ours that failed: they may not have seen what was wrong

    def inbox(self, name: str) -> Inbox:
        return self.inboxes.setdefault(name, Inbox(name))

    def leave(self, inbox: Inbox) -> None:
        """The reader goes for good; what it has not got by now is lost."""
        inbox.verdict = inbox.lost(self.sent)

    def reached(self, channel: str, position: Position) -> None:
        """A publication was acknowledged with this position."""
        top = self.tops.get(channel)
        if top is None or top.epoch != position.epoch or top.offset < position.offset:
            self.tops[channel] = position

    def lost_so_far(self) -> int:
        """Return how many gaps are open at this moment; in a healthy run there are none, not even for a while."""
        return sum(len(numbers.missing) for inbox in self.inboxes.values() for numbers in inbox.numbers.values())

    def doubled_so_far(self) -> int:
        return sum(len(numbers.doubled) for inbox in self.inboxes.values() for numbers in inbox.numbers.values())

    def faults(self) -> dict[str, list[str]]:
        """Everything that must not be, in words, by kind; a good run has none of any kind."""
        lost, doubled, disordered, unsaid, gaps = [], [], [], [], []
        for inbox in self.inboxes.values():
            lost += inbox.lost(self.sent)
            for stream, numbers in inbox.numbers.items():
                doubled += [f"{inbox.name} got number {number} of {stream} again" for number in numbers.doubled]
                disordered += [f"{inbox.name} got number {number} of {stream} late" for number in numbers.disordered]
            for channel, at in inbox.positions.items():
                doubled += [f"{inbox.name} on {channel}: {each}" for each in at.doubled]
                disordered += [f"{inbox.name} on {channel}: {each}" for each in at.disordered]
                unsaid += [f"{inbox.name} on {channel}: {each}" for each in at.unsignalled]
                gaps += [f"{inbox.name} on {channel}: {place(before)} -> {place(after)}" for before, after in at.gaps]
        unanswered = [
            f"{stream}: no answer to number {number}"
            for stream, sent in self.sent.items()
            for number in sorted(sent.unanswered)
        ]
        refused = [
            f"{stream}: number {number}" for stream, sent in self.sent.items() for number in sorted(sent.refused)
        ]
        return {
            "lost": lost,
            "doubled": doubled,
            "out of order": disordered,
            "gaps that nobody was told of": unsaid,
            "not recovered": gaps,
            "refused": refused,
            "not answered": unanswered,
            "connections ended unasked": self.closed,
            "users that broke": self.broken,
        }
