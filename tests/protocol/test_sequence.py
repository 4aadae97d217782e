"""The order of one channel, against a model: a log, a bus that loses, doubles and delays, and reads that catch up."""

from collections.abc import Sequence as Several

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.sequence import MOST_EARLY, MOST_EARLY_BYTES, Missing, Sequence


def publication(offset: int, epoch: str = "e") -> Publication:
    return Publication("c", msgspec.Raw(b"%d" % offset), str(offset), "", position=Position(epoch, offset))


def offsets(publications: Several[Publication]) -> list[int]:
    return [each.position.offset for each in publications if each.position is not None]


def accepted(sequence: Sequence, offset: int) -> list[int]:
    result = sequence.accept(publication(offset))
    return [] if isinstance(result, Missing) else offsets(result)


@st.composite
def journeys(draw: st.DrawFn) -> tuple[int, int, list[tuple[str, int, int]]]:
    """A log of so many publications, where the sequence begins, and what happens: live offsets, reads of ranges."""
    top = draw(st.integers(0, 40))
    start = draw(st.integers(0, top))
    live = st.tuples(st.just("live"), st.integers(1, max(top, 1)), st.just(0))
    read = st.tuples(st.just("read"), st.integers(0, 10), st.integers(1, 15))  # begins so far back; so many
    return top, start, draw(st.lists(live | read, max_size=120)) if top else []


@given(journeys())
def test_whatever_the_bus_does_the_log_comes_out(journey: tuple[int, int, list[tuple[str, int, int]]]) -> None:
    """Fails if any interleaving of live publications (lost, doubled, late) and reads leaves a gap or repeats one."""
    top, start, steps = journey
    sequence = Sequence(Position("e", start))
    out: list[int] = []
    for kind, first, count in steps:
        if kind == "live":
            out += accepted(sequence, first)
        else:
            begin = max(0, sequence.position.offset - first)
            out += offsets(sequence.fill(publication(n) for n in range(begin + 1, min(top, begin + count) + 1)))
        assert out == list(range(start + 1, start + 1 + len(out)))
        assert sequence.position == Position("e", start + len(out))
    out += offsets(sequence.fill(publication(n) for n in range(sequence.position.offset + 1, top + 1)))
    assert out == list(range(start + 1, top + 1))
    assert not sequence.has_gap


@given(st.permutations(range(1, 13)))
def test_any_order_without_loss_needs_no_read(order: list[int]) -> None:
    """Fails if what came too early is forgotten although nothing is missing in the end."""
    sequence = Sequence(Position("e", 0))
    assert [offset for each in order for offset in accepted(sequence, each)] == list(range(1, 13))
    assert not sequence.has_gap


def test_a_gap_names_what_is_missing() -> None:
    """Fails if the range to be read does not begin where the sequence stands."""
    sequence = Sequence(Position("e", 4))
    assert sequence.accept(publication(6)) == Missing(Position("e", 4))
    assert sequence.has_gap
    assert accepted(sequence, 5) == [5, 6]
    assert not sequence.has_gap


def test_another_epoch_is_never_delivered_as_this_one() -> None:
    """Fails if a publication of a log that began anew slips in because its offset fits."""
    sequence = Sequence(Position("e", 4))
    assert sequence.accept(publication(5, "f")) == Missing(Position("e", 4))
    assert sequence.fill([publication(5, "f")]) == []
    assert sequence.position == Position("e", 4)


def test_restart_leaves_behind_what_was_before_and_keeps_what_follows() -> None:
    """Fails if a gap that cannot be filled also costs what came after it."""
    sequence = Sequence(Position("e", 1))
    for offset in (3, 7, 8, 10):
        sequence.accept(publication(offset))
    assert offsets(sequence.restart(Position("e", 6))) == [7, 8]
    assert sequence.has_gap
    assert accepted(sequence, 9) == [9, 10]


def test_restart_in_a_new_epoch_forgets_the_old_one() -> None:
    """Fails if publications of the old epoch are taken for the new one's."""
    sequence = Sequence(Position("e", 1))
    sequence.accept(publication(3))
    assert sequence.restart(Position("f", 2)) == []
    assert not sequence.has_gap
    assert sequence.position == Position("f", 2)


def test_what_is_kept_early_is_bounded() -> None:
    """Fails if a long outage of the log fills the memory, or if what was not kept is not asked for."""
    sequence = Sequence(Position("e", 0))
    for offset in range(2, MOST_EARLY + 12):
        assert isinstance(sequence.accept(publication(offset)), Missing)
    assert len(accepted(sequence, 1)) == MOST_EARLY + 1
    assert isinstance(sequence.accept(publication(MOST_EARLY + 20)), Missing)


@given(st.sets(st.integers(1, 40)), st.lists(st.integers(1, 45), max_size=20))
def test_over_gaps_what_is_kept_comes_out_in_order(kept: set[int], live: list[int]) -> None:
    """Fails if a gap that the log cannot fill ends the reading, or something is repeated or out of order."""
    sequence = Sequence(Position("e", 0))
    out = [offset for each in live for offset in accepted(sequence, each)]
    out += offsets(sequence.fill((publication(n) for n in sorted(kept)), over_gaps=True))
    assert out == sorted(set(out))
    assert kept <= set(out)
    assert sequence.position.offset == (out[-1] if out else 0)


def test_over_gaps_there_need_be_no_room_for_what_is_early() -> None:
    """Fails if what did not fit in while a range was missing is left out when the range turns out to be lost."""
    sequence = Sequence(Position("e", 0))
    for offset in range(10, 10 + MOST_EARLY):
        assert accepted(sequence, offset) == []
    ready = sequence.fill([publication(5), publication(7), publication(8)], over_gaps=True)
    assert offsets(ready) == [5, 7, 8]
    assert sequence.has_gap


def test_what_is_kept_early_is_bounded_in_bytes() -> None:
    """Fails if large publications that came early are handed out at once, in any amount."""
    large = msgspec.Raw(b'"%b"' % (b"x" * (MOST_EARLY_BYTES // 4)))
    sequence = Sequence(Position("e", 0))
    for _ in range(2):  # what was released makes room again
        top = sequence.position.offset
        for offset in range(top + 2, top + 12):
            sequence.accept(msgspec.structs.replace(publication(offset), data=large))
            sequence.accept(msgspec.structs.replace(publication(offset), data=large))
        assert accepted(sequence, top + 1) == [top + 1, top + 2, top + 3, top + 4]
        assert not sequence.has_gap
