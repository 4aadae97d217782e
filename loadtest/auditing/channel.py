"""One channel of a history: what was published on it, who got what, and what was said of gaps."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from heliograph.protocol.position import Position
from loadtest.auditing.history import (
    Acknowledged,
    Continues,
    Failed,
    Kept,
    Number,
    Publish,
    Received,
    Top,
    number_of,
    position_of,
)
from loadtest.auditing.order import Order
from loadtest.auditing.outages import Attempt, Outage, outages
from loadtest.ledger import Positions, place

NAMED = 8  # publications of a circle that are named


@dataclass(frozen=True, slots=True)
class Signal:
    """A reader was told that something is missing: it stood at `before`, and continues after `after`.

    `deliveries`: how many it had got by then.
    """

    at: float
    deliveries: int
    before: Position
    after: Position


@dataclass(frozen=True, slots=True)
class Delivery:
    at: float
    position: Position
    number: Number


class Reading(Positions):
    """The channel as one reader saw it, over all of its connections.

    `may_lose`: the servers may lose something, so each new epoch must be told of. Otherwise the reader may be taken
    into another one in silence, at the place where it stands or at an earlier one: up to there both have the same.
    """

    def __init__(self, reader: str, *, may_lose: bool) -> None:
        super().__init__()
        self.reader = reader
        self.got: list[Delivery] = []
        self.signals: list[Signal] = []
        self.continued = 0  # in another epoch, in silence
        self._may_lose = may_lose

    def note_continues(self, event: Continues) -> None:
        position, before = Position(event.epoch, event.offset), self.position
        if event.recovered:
            self._go_on_in_silence(position)
        self.begins(position, recovered=event.recovered)
        if before is not None and not event.recovered:
            self.signals.append(Signal(event.at, len(self.got), before, position))

    def note_received(self, event: Received) -> None:
        position = Position(event.epoch, event.offset)
        if self.position is None:
            self.unsignalled.append(f"{place(position)} came before it was said where the channel begins")
            self.position = position
        else:
            self._go_on_in_silence(Position(position.epoch, position.offset - 1))
            self.take(position)
        self.got.append(Delivery(event.at, position, number_of(event)))

    def _go_on_in_silence(self, start: Position) -> None:
        """Take the reader into the epoch of `start`, if it may be taken there."""
        before = self.position
        if self._may_lose or before is None or start.epoch == before.epoch or start.offset > before.offset:
            return
        self.continued += 1
        self.position = start


@dataclass
class Channel:
    """What happened on one channel. Feed it with events in their order, then ask.

    `may_lose`: the servers may lose what they have acknowledged, if the readers are told. `two_sides`: a reader who
    is told of a gap may be on the other side of a cut network then, and get again what is kept there.
    """

    name: str
    may_lose: bool
    two_sides: bool = False
    begun: dict[Number, float] = field(default_factory=dict)  # when the first attempt began
    acknowledged: dict[Number, float] = field(default_factory=dict)  # when it first was
    readings: dict[str, Reading] = field(default_factory=dict)  # by reader
    kept: list[tuple[Position, Number]] = field(default_factory=list)
    top: Position | None = None
    tried: list[Attempt] = field(default_factory=list)
    _may_repeat: set[Number] = field(default_factory=set)
    _places: dict[Number, set[Position]] = field(default_factory=lambda: defaultdict(set))
    _given: dict[Position, set[Number]] = field(default_factory=lambda: defaultdict(set))
    _acknowledged_at: list[tuple[float, Position, Number]] = field(default_factory=list)
    _latest_attempt: dict[Number, float] = field(default_factory=dict)  # when it began
    _answered: dict[Number, float] = field(default_factory=dict)  # when that ended

    # -- feeding

    def note(self, event: Publish | Acknowledged | Failed | Received | Continues | Kept | Top) -> None:
        match event:
            case Publish():
                number = number_of(event)
                self.begun.setdefault(number, event.at)
                self._latest_attempt[number] = event.at
                self._answered.pop(number, None)
                if event.repeats:
                    self._may_repeat.add(number)
            case Acknowledged():
                number = number_of(event)
                self._note_place(position_of(event), number)
                self._end_attempt(number, event.at, succeeded=True)
                if number not in self.acknowledged:
                    self.acknowledged[number] = event.at
                    if (position := position_of(event)) is not None:
                        self._acknowledged_at.append((event.at, position, number))
            case Failed():
                self._end_attempt(number_of(event), event.at, succeeded=False)
            case Received():
                self._note_place(position_of(event), number_of(event))
                self._reading(event.reader).note_received(event)
            case Continues():
                self._reading(event.reader).note_continues(event)
            case Kept():
                self._note_place(position_of(event), number_of(event))
                self.kept.append((Position(event.epoch, event.offset), number_of(event)))
            case Top():
                self.top = Position(event.epoch, event.offset)

    def _reading(self, reader: str) -> Reading:
        if reader not in self.readings:
            self.readings[reader] = Reading(reader, may_lose=self.may_lose)
        return self.readings[reader]

    def _note_place(self, position: Position | None, number: Number) -> None:
        if position is not None:
            self._places[number].add(position)
            self._given[position].add(number)

    def _end_attempt(self, number: Number, at: float, *, succeeded: bool) -> None:
        self._answered[number] = at
        self.tried.append(Attempt(self._latest_attempt.get(number, at), at, succeeded))

    # -- asking: what must not be, in words

    @property
    def repeated(self) -> set[Number]:
        """What its sender had to publish again, in a later epoch, because the first attempt was taken back."""
        came_twice = {
            number
            for reading in self.readings.values()
            for number, count in Counter(each.number for each in reading.got).items()
            if count > 1
        }
        return {
            number
            for number in self._may_repeat
            if len({each.epoch for each in self._places[number]}) > 1
            and (number in came_twice or len({each.offset for each in self._places[number]}) > 1)
        }

    def undelivered(self) -> Iterator[str]:
        """What is in the log, and has not come to a reader."""
        kept = dict.fromkeys(number for _, number in self.kept)
        for reading in self.readings.values():
            got = {each.number for each in reading.got}
            yield from (self._about(reading, f"{name(number)} did not come") for number in kept if number not in got)

    def lost(self) -> tuple[list[str], list[str]]:
        """Return what was acknowledged, is in no log and has not come to a reader: without excuse; and with one.

        The excuse, where the servers may lose something, is that the reader was told of a gap that it can be in.
        """
        gone = self._lost_by_servers()
        unexcused: list[str] = []
        told: list[str] = []
        for reading in self.readings.values():
            missing = sorted(gone - {each.number for each in reading.got})
            hidden = self._hidden(reading, missing) if self.may_lose else ()
            for number in missing:
                found = told if number in hidden else unexcused
                found.append(self._about(reading, f"{name(number)} did not come"))
        return unexcused, told

    def lost_by_servers(self) -> int:
        """Return how many publications were acknowledged, and are in no log."""
        return len(self._lost_by_servers())

    def _lost_by_servers(self) -> set[Number]:
        return self.acknowledged.keys() - {number for _, number in self.kept}

    def _hidden(self, reading: Reading, missing: Collection[Number]) -> set[Number]:
        """Return those of the missing publications that can be in a gap that the reader was told of.

        One cannot if it was begun after the signal; if it stands where the reader had been by then; or if the reader
        had got by then what was begun only after this one had been acknowledged.
        """
        # How late the latest was begun, of the first one that came, of the first two, …
        latest = [0.0, *itertools.accumulate((self.begun.get(each.number, 0.0) for each in reading.got), max)]

        def can_hide(signal: Signal, number: Number) -> bool:
            before = signal.before
            return (
                self.begun.get(number, 0.0) <= signal.at
                and latest[signal.deliveries] <= self.acknowledged[number]
                and not any(
                    each.epoch == before.epoch and each.offset <= before.offset for each in self._places[number]
                )
            )

        return {number for number in missing if any(can_hide(signal, number) for signal in reading.signals)}

    def doubled(self) -> Iterator[str]:
        """What came to a reader twice, or is kept twice, though its sender did not have to repeat it."""
        for reading in self.readings.values():
            first: dict[Number, int] = {}
            for index, each in enumerate(reading.got):
                earlier = first.setdefault(each.number, index)
                if earlier == index or self._is_repetition(reading, earlier, index):
                    continue
                before = reading.got[earlier].position
                text = f"{name(each.number)} came at {place(before)} and again at {place(each.position)}"
                yield self._about(reading, text)
            yield from (self._about(reading, text) for text in reading.doubled)
        counts = Counter(number for _, number in self.kept)
        yield from (
            f"{self.name}: {name(number)} is kept {count} times" for number, count in counts.items() if count > 1
        )

    def _is_repetition(self, reading: Reading, earlier: int, later: int) -> bool:
        """Whether the same came again because its sender, who had no answer to the first attempt yet, repeated it.

        Or because the reader was told of a gap on the other side of the network.
        """
        first, again = reading.got[earlier], reading.got[later]
        between = [each for each in reading.signals if earlier < each.deliveries <= later]
        if self.two_sides and between:
            return True
        if again.number not in self._may_repeat or first.position.epoch == again.position.epoch:
            return False
        answered = self._answered.get(again.number, math.inf)
        if not self.may_lose:
            return answered >= first.at
        return any(answered >= each.at for each in between)

    def positions_given_twice(self) -> Iterator[str]:
        """What stands where something else stood, or has moved."""
        for position, numbers in self._given.items():
            if len(numbers) > 1:
                yield f"{self.name}: {place(position)} is {' and '.join(map(name, sorted(numbers)))}"
        repeated = self.repeated
        for number, places in self._places.items():
            offsets = {position.offset for position in places}
            if len(offsets) > 1 and number not in repeated:
                yield f"{self.name}: {name(number)} is at {' and '.join(sorted(map(place, places)))}"

    def disordered(self) -> Iterator[str]:
        """What came, or was appended, in another order than that of the log, or of time."""
        for reading in self.readings.values():
            yield from (self._about(reading, text) for text in reading.disordered)
        yield from self._appended_out_of_time()
        yield from self._without_an_order()

    def _appended_out_of_time(self) -> Iterator[str]:
        """Where an append was acknowledged before another began, and has the higher position."""
        latest: dict[str, tuple[Position, Number]] = {}  # by epoch: the highest that was acknowledged so far
        answers = iter(sorted(self._acknowledged_at, key=lambda each: each[0]))
        answer = next(answers, None)
        for number, begun in sorted(self.begun.items(), key=lambda each: each[1]):
            while answer is not None and answer[0] < begun:
                _, position, earlier = answer
                if position.epoch not in latest or position.offset > latest[position.epoch][0].offset:
                    latest[position.epoch] = position, earlier
                answer = next(answers, None)
            for position in self._places[number]:
                top, earlier = latest.get(position.epoch, (position, number))
                if position.offset < top.offset:
                    yield (
                        f"{self.name}: {name(number)} is at {place(position)}, "
                        f"but {name(earlier)} at {place(top)} was acknowledged before it was begun"
                    )

    def _without_an_order(self) -> Iterator[str]:
        # What is in no log was taken back, and what was repeated was taken back once: those are in no order.
        left_out = self.repeated
        if self.kept:
            left_out |= (self.begun.keys() | self._places.keys()) - {number for _, number in self.kept}
        order = Order()
        order.add_sequence(number for _, number in self.kept if number not in left_out)
        for reading in self.readings.values():
            # Whoever goes to the other side of a cut network begins again there.
            starts = [each.deliveries for each in reading.signals] if self.two_sides else []
            for start, end in itertools.pairwise([0, *starts, len(reading.got)]):
                order.add_sequence(each.number for each in reading.got[start:end] if each.number not in left_out)
        order.add_times(
            {number: at for number, at in self.begun.items() if number not in left_out},
            {number: at for number, at in self.acknowledged.items() if number not in left_out},
        )
        if circle := order.circle():
            named = " < ".join(map(name, circle[:NAMED]))
            yield f"{self.name}: no order agrees with all that was seen: {named}{' < …' * (len(circle) > NAMED)}"

    def unsignalled(self) -> Iterator[str]:
        """Gaps that a reader was not told of; and who has not come as far as the log has."""
        for reading in self.readings.values():
            yield from (self._about(reading, text) for text in reading.unsignalled)
            if self.top is not None and reading.position != self.top:
                yield self._about(reading, f"is at {place(reading.position)} at the end, not at {place(self.top)}")

    def signalled(self) -> Iterator[str]:
        for reading in self.readings.values():
            yield from (
                self._about(reading, f"{place(each.before)} -> {place(each.after)}") for each in reading.signals
            )

    def made_up(self) -> Iterator[str]:
        """What nobody has published here."""
        for number, places in self._places.items():
            if number not in self.begun:
                yield f"{self.name}: {name(number)} at {' and '.join(sorted(map(place, places)))} was never published"

    def outages(self) -> list[Outage]:
        """See `outages.py`."""
        return outages(self.name, self.tried)

    def deliveries(self) -> int:
        return sum(len(reading.got) for reading in self.readings.values())

    def continuations(self) -> int:
        """How often a reader was taken into a new epoch without a gap."""
        return sum(reading.continued for reading in self.readings.values())

    def _about(self, reading: Reading, text: str) -> str:
        return f"{reading.reader} on {self.name}: {text}"


def name(number: Number) -> str:
    """A publication as people read it."""
    return f"{number[0]}'s {number[1]}"
