"""What a run with an attacker compares."""

from loadtest.figures import Figures
from loadtest.flood import LARGE, compare, frames, slowed_down


def figures(*seconds_ms: float | None) -> Figures:
    """One message in each second, that took so long."""
    made = Figures()
    for number, took_ms in enumerate(seconds_ms):
        if took_ms is not None:
            made.seconds[number].delivered["pairs"].add(took_ms / 1000)
    return made


def test_before_and_during_the_flood() -> None:
    """Fails if the start, the end or the second in which the flood begins counts, or the two are mixed up."""
    made = figures(900, 900, 10, 10, 700, 30, 30, 800)
    made.seconds[7].ending = True
    [(name, (before, during))] = compare(made, 4.5).items()
    assert (name, round(before), round(during)) == ("pairs", 10, 30)
    assert len(slowed_down({"pairs": (before, during)})) == 1
    assert slowed_down({"pairs": (10.0, 19.0)}) == []
    assert slowed_down({"pairs": (1.0, 5.0)}) == [], "a millisecond is not exact on a machine that is shared"
    assert compare(figures(1, 1, 1), 4.5) == {}


def testframes_areframes() -> None:
    """Fails if an attacker sends what any server would refuse at once."""
    for kind in range(5):
        for wire in frames(kind):
            head = 6 if wire[1] < 0x80 | 126 else 8
            assert wire[head:].startswith(b'{"type":')
            if kind < 3:
                assert LARGE < len(wire) < 65_536
    assert b"".join(frames(3)).count(b'{"type":"send"') == 5000
