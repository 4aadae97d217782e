"""How the audit judges what it has seen."""

import pytest

from heliograph.protocol.position import Position
from loadtest.audit import Ledger, Subscriber, report
from loadtest.verdicts import Verdicts

CHANNEL = "audit:a"
SENT = {("publisher", 1), ("publisher", 2)}


def judged(*, got: int, gap: bool = False, kept: set[tuple[str, int]] = SENT, may_gap: bool = True) -> int:
    """The exit status if two were acknowledged and a reader got the first ones."""
    ledger = Ledger()
    ledger.acknowledged[CHANNEL] = SENT
    reader = Subscriber("reader", ledger, [1], user="bob", channel=CHANNEL, leaves=False)
    book = reader.books[CHANNEL]
    book.begins(Position("one", 0), recovered=False)
    for number in range(1, got + 1):
        book.note(Position("one", number), ("publisher", number))
    if gap:
        book.begins(Position("two", 2), recovered=False)
    return report(ledger, [reader], {CHANNEL: kept}, [], "", Verdicts(), may_gap=may_gap)


def test_all_that_was_kept_has_come() -> None:
    assert judged(got=2) == 0
    assert judged(got=2, may_gap=False) == 0


@pytest.mark.parametrize("gap", [True, False])
def test_what_is_in_the_log_must_have_come(gap: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a gap that was said aloud excuses what is kept and could have been delivered."""
    assert judged(got=1, gap=gap) == 1
    said = capsys.readouterr().out
    assert "kept but not delivered                     1\n    reader audit:a: ('publisher', 2)" in said


def test_what_redis_has_lost_is_missing_with_a_word() -> None:
    """Fails if the cluster is blamed for what Redis has lost, or what nobody was told of is excused."""
    kept = {("publisher", 1)}
    assert judged(got=1, kept=kept, gap=True) == 0
    assert judged(got=1, kept=kept) == 1
    assert judged(got=1, kept=kept, gap=True, may_gap=False) == 1, "this Redis loses nothing"


def test_a_verdict_is_held_against_what_was_received() -> None:
    """Fails if a verdict that is not so passes, or one that does not know is taken for a wrong one."""
    verdicts = Verdicts()
    for is_reached, got in ((True, True), (False, False), (None, True), (True, False), (False, True)):
        verdicts.take("bob", {"result": {"reached": is_reached, "verdict": "so"}}, got)
    verdicts.take("bob", {"error": {"code": 404, "message": "not known"}}, True)
    verdicts.take("bob", {"error": {"code": 100, "message": "broken"}}, True)
    assert (verdicts.agreeing, verdicts.not_known) == (2, 2)
    assert verdicts.wrong == [
        "bob did not get it, and the verdict is: so",
        "bob got it, and the verdict is: so",
        "bob: broken",
    ]
