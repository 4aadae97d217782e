"""The judge must see what is wrong: right histories are made by dice, and damaged in every way that it looks for."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loadtest.auditing.history import (
    Acknowledged,
    AnyEvent,
    Closed,
    Continues,
    Failed,
    History,
    Kept,
    Number,
    Publish,
    Readiness,
    Received,
    Run,
    Top,
    Unexpected,
    WrongVerdict,
    number_of,
    read,
    write,
)
from loadtest.auditing.judge import Verdict, judge
from tests.support.made_history import CHANNEL, HistoryMaker

Events = list[AnyEvent]
Damage = Callable[[Events, random.Random], Events]

seeds = st.integers(0, 2**32)
few = settings(max_examples=50)  # of each of many kinds


def made(seed: int, *, may_lose: bool) -> tuple[Events, random.Random]:
    dice = random.Random(seed)
    return HistoryMaker(dice, may_lose).make(dice.randrange(60, 300)), dice


def found(verdict: Verdict) -> dict[str, list[str]]:
    return {kind: faults for kind, faults in verdict.wrong.items() if faults}


@few
@given(seed=seeds, may_lose=st.booleans())
def test_a_right_history_is_found_right(seed: int, may_lose: bool) -> None:
    """Fails if the judge blames a cluster that does everything right."""
    events, _ = made(seed, may_lose=may_lose)
    assume(any(isinstance(event, Received) for event in events))
    assume(any(isinstance(event, Acknowledged) for event in events))
    assert found(judge(events)) == {}


# -- ways to damage a history; each returns another one, or rejects one that cannot be damaged in this way


def pick(events: Events, dice: random.Random, suits: Callable[[AnyEvent], bool]) -> int:
    """The index of one that suits."""
    suitable = [index for index, event in enumerate(events) if suits(event)]
    assume(suitable)
    return dice.choice(suitable)


def kept_in(events: Events) -> list[Number]:
    return [number_of(event) for event in events if isinstance(event, Kept)]


def certain(events: Events) -> set[Number]:
    """What is in the log, and was published by senders that never repeat."""
    return set(kept_in(events)) & {
        number_of(each) for each in events if isinstance(each, Publish) and not each.repeats
    }


def a_delivery_is_missing(events: Events, dice: random.Random) -> Events:
    once = certain(events)
    index = pick(events, dice, lambda event: isinstance(event, Received) and number_of(event) in once)
    return events[:index] + events[index + 1 :]


def the_end_is_missing(events: Events, dice: random.Random) -> Events:
    """One reader hears nothing any more."""
    index = pick(events, dice, lambda event: isinstance(event, Received))
    first = events[index]
    assert isinstance(first, Received)
    rest = [each for each in events[index:] if getattr(each, "reader", "") != first.reader]
    assume(number_of(first) in certain(events))
    return events[:index] + rest


def a_delivery_comes_twice(events: Events, dice: random.Random) -> Events:
    index = pick(events, dice, lambda event: isinstance(event, Received))
    return [*events[: index + 1], events[index], *events[index + 1 :]]


def neighbours(events: Events, dice: random.Random) -> tuple[int, int]:
    """Two deliveries that one reader got one after the other."""
    pairs = []
    last: dict[str, int] = {}
    for index, event in enumerate(events):
        if isinstance(event, Continues):
            last.pop(event.reader, None)
        elif isinstance(event, Received):
            if event.reader in last:
                pairs.append((last[event.reader], index))
            last[event.reader] = index
    assume(pairs)
    return dice.choice(pairs)


def two_deliveries_change_places(events: Events, dice: random.Random) -> Events:
    first, second = neighbours(events, dice)
    damaged = events.copy()
    damaged[first], damaged[second] = damaged[second], damaged[first]
    return damaged


def two_deliveries_change_contents(events: Events, dice: random.Random) -> Events:
    """The positions that one reader gets are right, but not what stands there."""
    first, second = neighbours(events, dice)
    one, other = events[first], events[second]
    assert isinstance(one, Received)
    assert isinstance(other, Received)
    assume({number_of(one), number_of(other)} <= certain(events))
    damaged = events.copy()
    damaged[first] = msgspec.structs.replace(one, sender=other.sender, number=other.number)
    damaged[second] = msgspec.structs.replace(other, sender=one.sender, number=one.number)
    return damaged


def time_is_turned_round(events: Events, dice: random.Random) -> Events:
    """Everywhere A stands where B does, and B where A does; A was acknowledged before B was begun."""
    once = certain(events)
    begun = {number_of(event): event.at for event in reversed(events) if isinstance(event, Publish)}
    answered = {number_of(event): event.at for event in reversed(events) if isinstance(event, Acknowledged)}
    pairs = [(a, b) for a in once for b in once if a in answered and answered[a] < begun[b]]
    assume(pairs)
    one, other = dice.choice(sorted(pairs))
    places = {one: other, other: one}

    def damaged(event: AnyEvent) -> AnyEvent:
        if isinstance(event, Received | Kept) and number_of(event) in places:
            sender, number = places[number_of(event)]
            return msgspec.structs.replace(event, sender=sender, number=number)
        if isinstance(event, Acknowledged) and number_of(event) in places:
            return msgspec.structs.replace(event, epoch=None, offset=0)
        return event

    return [damaged(event) for event in events]


def one_is_lost_without_a_trace(events: Events, dice: random.Random) -> Events:
    """An acknowledged publication has never been, and what follows has moved up: no position shows it."""
    kept, epoch = kept_in(events), ""
    index = pick(events, dice, lambda event: isinstance(event, Acknowledged) and number_of(event) in kept)
    acknowledged = events[index]
    assert isinstance(acknowledged, Acknowledged)
    lost = number_of(acknowledged)
    offset = kept.index(lost) + 1
    damaged: Events = []
    for event in events:
        if isinstance(event, Received | Kept) and number_of(event) == lost:
            continue
        if isinstance(event, Received | Kept | Continues | Top | Acknowledged) and event.epoch is not None:
            epoch = event.epoch
            if isinstance(event, Acknowledged) and number_of(event) == lost:
                event = msgspec.structs.replace(event, epoch=None, offset=0)
            elif event.offset >= offset:
                event = msgspec.structs.replace(event, epoch=epoch, offset=event.offset - 1)
        damaged.append(event)
    return damaged


def one_is_appended_twice(events: Events, dice: random.Random) -> Events:
    """The last publication stands at the end once more, and came to everybody once more."""
    kept = [event for event in events if isinstance(event, Kept)]
    assume(kept)
    last = kept[-1]
    again = last.offset + 1
    readers = {event.reader for event in events if isinstance(event, Received)}
    assume(len(readers) == 3)
    extra = [
        Received(
            at=events[-1].at,
            reader=reader,
            channel=CHANNEL,
            epoch=last.epoch,
            offset=again,
            sender=last.sender,
            number=last.number,
        )
        for reader in readers
    ]
    end: Events = [msgspec.structs.replace(last, offset=again), Top(channel=CHANNEL, epoch=last.epoch, offset=again)]
    return [*(event for event in events if not isinstance(event, Top)), *extra, *end]


def nobody_has_published_it(events: Events, dice: random.Random) -> Events:
    kept = kept_in(events)
    assume(kept)
    number = dice.choice(kept)
    kinds = Publish | Acknowledged | Failed
    return [event for event in events if not (isinstance(event, kinds) and number_of(event) == number)]


def an_answer_has_another_position(events: Events, dice: random.Random) -> Events:
    index = pick(events, dice, lambda event: isinstance(event, Acknowledged) and event.epoch is not None)
    event = events[index]
    assert isinstance(event, Acknowledged)
    seen = [each for each in events if isinstance(each, Received) and number_of(each) == number_of(event)]
    assume(any(each.epoch == event.epoch for each in seen))
    assume(number_of(event) in certain(events))
    return [*events[:index], msgspec.structs.replace(event, offset=event.offset + 1), *events[index + 1 :]]


def a_socket_is_closed(events: Events, dice: random.Random) -> Events:
    return [*events, Closed(client="reader-1", replica="replica-1", how="1011")]


def a_replica_met_with_an_error(events: Events, dice: random.Random) -> Events:
    return [*events, Unexpected(text="Traceback")]


def it_was_away_for_long(events: Events, dice: random.Random) -> Events:
    call = {"sender": "sender-1", "number": 10_000, "channel": CHANNEL}
    at = events[-1].at
    return [*events, Publish(at=at, **call), Failed(at=at + 61, **call, code="unavailable")]  # type: ignore[arg-type]


def told_of(events: Events, **demands: Any) -> Events:
    """The same history of an experiment with such demands."""
    run, *others = events
    assert isinstance(run, Run)
    return [msgspec.structs.replace(run, **demands), *others]


def an_error_comes_late(events: Events, dice: random.Random) -> Events:
    call = {"sender": "sender-1", "number": 10_000, "channel": CHANNEL}
    at = events[-1].at
    tried = Publish(at=at, **call)  # type: ignore[arg-type]
    failed = Failed(at=at + 3, **call, code="unavailable")  # type: ignore[arg-type]
    return told_of([*events, tried, failed], refused_s=2.0)


def a_replica_is_unready(events: Events, dice: random.Random) -> Events:
    said = Readiness(at=events[-1].at, replica="8001", ready=False, why="bus_lost", excuse="")
    return told_of([*events, said], stays_ready=True)


def a_verdict_is_not_so(events: Events, dice: random.Random) -> Events:
    return [*events, WrongVerdict(text="bob got it, and the verdict is: bob was not connected")]


ALWAYS: dict[Damage, str] = {
    a_delivery_is_missing: "kept but not delivered",
    the_end_is_missing: "kept but not delivered",
    a_delivery_comes_twice: "doubled",
    one_is_appended_twice: "doubled",
    two_deliveries_change_places: "out of order",
    two_deliveries_change_contents: "positions given twice",
    an_answer_has_another_position: "positions given twice",
    time_is_turned_round: "out of order",
    nobody_has_published_it: "delivered but never published",
    a_socket_is_closed: "sockets closed without a kill",
    a_replica_met_with_an_error: "tracebacks in the cluster's log",
    it_was_away_for_long: "unavailable for too long",
    an_error_comes_late: "refused too late",
    a_replica_is_unready: "replicas unready",
    a_verdict_is_not_so: "verdicts that are not so",
}


@pytest.mark.parametrize(("damage", "kind"), ALWAYS.items(), ids=lambda each: getattr(each, "__name__", ""))
@few
@given(seed=seeds, may_lose=st.booleans())
def test_each_damage_is_seen(damage: Damage, kind: str, seed: int, may_lose: bool) -> None:
    """Fails if a history that was damaged in this way passes."""
    events, dice = made(seed, may_lose=may_lose)
    assert kind in found(judge(damage(events, dice)))


@few
@given(seed=seeds)
def test_a_loss_without_a_word_is_seen(seed: int) -> None:
    """Fails if a reader may miss what was acknowledged in an epoch that goes on, because other gaps were told of."""
    events, dice = made(seed, may_lose=False)
    assert "acknowledged but lost" in found(judge(one_is_lost_without_a_trace(events, dice)))


@few
@given(seed=seeds)
def test_a_gap_for_no_reason_is_seen(seed: int) -> None:
    """Fails if clients may be told of gaps where the servers lose nothing."""
    events, dice = made(seed, may_lose=False)
    index = pick(events, dice, lambda event: isinstance(event, Continues) and event.recovered)
    event = events[index]
    assert isinstance(event, Continues)
    events[index] = msgspec.structs.replace(event, recovered=False)
    assert "gaps said without a reason" in found(judge(events))


@few
@given(seed=seeds)
def test_epochs_that_have_one_name_are_seen(seed: int) -> None:
    """Fails if offsets may be given again in the same epoch after a failover."""
    events, _ = made(seed, may_lose=True)
    places: dict[int, set[Number]] = {}
    for event in events:
        if isinstance(event, Received | Kept):
            places.setdefault(event.offset, set()).add(number_of(event))
    assume(any(len(numbers) > 1 for numbers in places.values()))

    def damaged(event: AnyEvent) -> AnyEvent:
        return msgspec.structs.replace(event, epoch="e1") if getattr(event, "epoch", None) else event

    assert "positions given twice" in found(judge([damaged(event) for event in events]))


# -- examples: what excuses a loss


def history(*events: AnyEvent, may_lose: bool = True) -> Events:
    """Events, a second apart."""
    run = Run(topology="t", server="s", ack="memory", seed=0, seconds=1, may_lose=may_lose)
    return [run, *(msgspec.structs.replace(event, at=float(at)) for at, event in enumerate(events, start=1))]


def published(number: int, offset: int = 0, epoch: str = "e1") -> list[AnyEvent]:
    answer = Acknowledged(sender="s", number=number, channel=CHANNEL, epoch=epoch if offset else None, offset=offset)
    return [Publish(sender="s", number=number, channel=CHANNEL), answer]


def got(number: int, offset: int, epoch: str = "e1", reader: str = "r") -> AnyEvent:
    return Received(reader=reader, channel=CHANNEL, epoch=epoch, offset=offset, sender="s", number=number)


def told(offset: int, epoch: str = "e1", *, recovered: bool = False, reader: str = "r") -> AnyEvent:
    return Continues(reader=reader, channel=CHANNEL, epoch=epoch, offset=offset, recovered=recovered)


def kept(number: int, offset: int, epoch: str = "e1") -> AnyEvent:
    return Kept(channel=CHANNEL, epoch=epoch, offset=offset, sender="s", number=number)


class TestExcuses:
    @pytest.mark.parametrize("offset", [2, 0], ids=["with a position", "without"])
    def test_a_loss_that_was_told_of(self, offset: int) -> None:
        events = [told(0), *published(1, 1), got(1, 1), *published(2, offset), told(1, "e2"), kept(1, 1, "e2")]
        assert found(judge(history(*events))) == {}
        assert found(judge(history(*events, may_lose=False))).keys() == {
            "acknowledged but lost",
            "gaps said without a reason",
        }

    def test_a_loss_after_the_reader_was_told(self) -> None:
        events = [told(0), *published(1, 1), got(1, 1), told(1, "e2"), *published(2, 2, "e2"), kept(1, 1, "e2")]
        assert found(judge(history(*events))).keys() == {"acknowledged but lost"}

    def test_a_loss_where_the_reader_had_been(self) -> None:
        """Fails if a gap of today excuses what was passed over yesterday."""
        (first, first_answer), (second, second_answer) = published(1, 1), published(2, 2)
        at_once = [first, second, first_answer, second_answer]
        events = [told(0), *at_once, got(2, 2), told(2, "e2"), kept(2, 2, "e2")]
        assert "acknowledged but lost" in found(judge(history(*events)))

    def test_a_loss_between_what_came(self) -> None:
        """The same, if no position is known: what came is younger than what is missing."""
        events = [told(0), *published(1), *published(2, 1), got(2, 1), told(1, "e2"), kept(2, 1, "e2")]
        assert found(judge(history(*events))).keys() == {"acknowledged but lost"}

    def test_what_is_kept_has_no_excuse(self) -> None:
        events = [told(0), *published(1, 1), told(1, "e2"), kept(1, 1, "e2")]
        assert "kept but not delivered" in found(judge(history(*events)))

    def repeated(self, *between: AnyEvent, epoch: str = "e2") -> Events:
        """Its sender got no answer to the first attempt."""
        begin = Publish(sender="s", number=1, channel=CHANNEL, repeats=True)
        failed = Failed(sender="s", number=1, channel=CHANNEL, code="unavailable")
        answer = Acknowledged(sender="s", number=1, channel=CHANNEL, epoch=epoch, offset=2)
        again = [begin, got(1, 2, epoch), answer, kept(9, 1, epoch), kept(1, 2, epoch)]
        others = [Publish(sender="s", number=9, channel=CHANNEL), got(9, 1, epoch)]
        return [told(0), begin, got(1, 1), failed, *between, *others, *again]

    def test_what_its_sender_repeated_after_a_loss(self) -> None:
        assert found(judge(history(*self.repeated(told(0, "e2"))))) == {}
        silent = self.repeated(told(0, "e2", recovered=True))
        assert found(judge(history(*silent, may_lose=False))) == {}
        assert "doubled" in found(judge(history(*silent))), "the loss was not told of"
        assert "doubled" in found(judge(history(*self.repeated(epoch="e1")))), "nothing was lost"

    def test_an_epoch_that_begins_in_silence(self) -> None:
        """It may, where nothing is lost; even so nothing may be passed over."""
        events = [
            told(0),
            *published(1, 1),
            got(1, 1),
            *published(2, 2, "e2"),
            got(2, 2, "e2"),
            kept(1, 1),
            kept(2, 2),
        ]
        assert found(judge(history(*events, may_lose=False))) == {}
        assert found(judge(history(*events))).keys() == {"unsignalled gaps"}
        later = [told(0), *published(1, 1), *published(2, 2, "e2"), got(2, 2, "e2"), kept(2, 2)]
        assert "unsignalled gaps" in found(judge(history(*later, may_lose=False)))

    def test_what_comes_again_on_the_other_side_of_a_cut_network(self) -> None:
        """It may, as that side knows nothing of this one; but only if the reader is told."""
        end = [kept(1, 1), kept(2, 2)]
        events = [told(0), *published(1, 1), got(1, 1), *published(2, 2), got(2, 2), told(0, "e0"), got(1, 1, "e0")]
        back = [told(0), got(1, 1), got(2, 2)]
        run, *rest = history(*events, *back, *end)
        assert isinstance(run, Run)
        cut = msgspec.structs.replace(run, two_sides=True)
        assert found(judge([cut, *rest])) == {}
        assert {"doubled", "out of order"} <= found(judge([run, *rest])).keys()
        assert "doubled" in found(judge([cut, *(each for each in rest if getattr(each, "recovered", None) is None)]))

    def test_nothing_is_no_proof(self) -> None:
        assert found(judge(history())) == {"nothing to judge": ["nothing was acknowledged", "nothing was received"]}
        with pytest.raises(ValueError, match="does not say what was run"):
            judge([])


class TestFiles:
    @few
    @given(seed=seeds)
    def test_a_history_is_judged_again_from_its_file(self, seed: int, tmp_path_factory: Any) -> None:
        path = tmp_path_factory.mktemp("history") / "history.jsonl"
        events, _ = made(seed, may_lose=True)
        write(path, events)
        assert list(read(path)) == events
        assert judge(read(path)).table() == judge(events).table()

    def test_what_is_noted_is_in_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "history.jsonl"
        with History(path) as kept_history:
            kept_history.note(Run, topology="t", server="s", ack="disk", seed=1, seconds=2.5, may_lose=False)
            kept_history.note(Publish, sender="우주여행고양이", number=1, channel="c")
        assert list(read(path)) == kept_history.events
        assert 0 <= kept_history.events[0].at <= kept_history.events[1].at

    def test_a_line_that_is_no_event_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "history.jsonl"
        path.write_text('{"event":"unexpected","text":"x"}\n{"event":"guess"}\n')
        with pytest.raises(ValueError, match="line 2: not an event"):
            list(read(path))
