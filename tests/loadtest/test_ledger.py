"""The ledger must see what is wrong: a load test that cannot fail proves nothing."""

import pytest

from heliograph.protocol.position import Position
from loadtest.ledger import Inbox, Ledger, Numbers, Positions, Sent

STREAM = "alice kept"


def at(offset: int, epoch: str = "e1") -> Position:
    return Position(epoch, offset)


def acknowledged(count: int) -> Sent:
    sent = Sent()
    for _ in range(count):
        sent.acknowledge(sent.next())
    return sent


def got(*numbers: int) -> Numbers:
    seen = Numbers()
    for number in numbers:
        seen.take(number)
    return seen


class TestNumbers:
    def test_everything_in_order(self) -> None:
        seen = got(1, 2, 3)
        assert (seen.lost(acknowledged(3)), seen.doubled, seen.disordered) == (set(), [], [])

    @pytest.mark.parametrize(
        ("came", "lost"),
        [
            pytest.param((), {1, 2, 3}, id="nothing came"),
            pytest.param((2, 3), {1}, id="the first"),
            pytest.param((1, 3), {2}, id="one in the middle"),
            pytest.param((1, 2), {3}, id="the last"),
            pytest.param((1, 1, 1), {2, 3}, id="a repeat makes up for nothing"),
        ],
    )
    def test_what_is_lost_is_named(self, came: tuple[int, ...], lost: set[int]) -> None:
        assert got(*came).lost(acknowledged(3)) == lost

    @pytest.mark.parametrize("came", [(1, 2, 2, 3), (1, 2, 3, 2), (1, 2, 3, 1)])
    def test_what_comes_twice_is_doubled(self, came: tuple[int, ...]) -> None:
        seen = got(*came)
        assert (len(seen.doubled), seen.disordered, seen.lost(acknowledged(3))) == (1, [], set())

    def test_what_comes_late_is_out_of_order_and_not_lost(self) -> None:
        seen = got(1, 3, 2)
        assert (seen.disordered, seen.doubled, seen.lost(acknowledged(3))) == ([2], [], set())

    def test_what_comes_late_and_again_is_both(self) -> None:
        seen = got(1, 3, 2, 2)
        assert (seen.disordered, seen.doubled) == ([2], [2])

    def test_only_what_was_acknowledged_can_be_lost(self) -> None:
        sent = Sent()
        for _ in range(4):
            sent.next()
        sent.acknowledge(1)
        sent.refuse(2)
        assert got().lost(sent) == {1}
        sent.cut()
        assert (got().lost(sent), sent.unknown, sent.unanswered) == ({1}, {3, 4}, set())

    def test_who_came_in_the_middle_misses_nothing_from_before(self) -> None:
        seen = Numbers(last=None)
        assert seen.lost(acknowledged(9)) == set()
        seen.take(5)
        seen.take(7)
        assert seen.lost(acknowledged(9)) == {6, 8, 9}


class TestPositions:
    def seen(self, *offsets: int) -> Positions:
        positions = Positions()
        positions.begins(at(0), recovered=False)
        for offset in offsets:
            positions.take(at(offset))
        return positions

    def faults(self, positions: Positions) -> tuple[int, int, int]:
        return len(positions.doubled), len(positions.disordered), len(positions.unsignalled)

    @pytest.mark.parametrize(
        ("offsets", "faults"),
        [
            pytest.param((1, 2, 3), (0, 0, 0), id="in order"),
            pytest.param((1, 2, 2), (1, 0, 0), id="twice"),
            pytest.param((1, 2, 3, 2), (1, 0, 0), id="again later"),
            pytest.param((1, 2, 3, 2, 3), (2, 0, 0), id="two of them again later"),
            pytest.param((1, 3), (0, 0, 1), id="a gap"),
            pytest.param((1, 3, 2), (0, 1, 1), id="the wrong way round"),
        ],
    )
    def test_each_fault_is_told_apart(self, offsets: tuple[int, ...], faults: tuple[int, int, int]) -> None:
        assert self.faults(self.seen(*offsets)) == faults

    def test_another_epoch_that_nobody_announced(self) -> None:
        positions = self.seen(1)
        positions.take(at(1, "e2"))
        assert self.faults(positions) == (0, 0, 1)

    def test_a_gap_that_is_said_aloud_is_a_gap_and_no_secret(self) -> None:
        positions = self.seen(1)
        positions.begins(at(7), recovered=False)
        positions.take(at(8))
        assert (self.faults(positions), positions.gaps) == ((0, 0, 0), [(at(1), at(7))])

    def test_recovered_at_another_place_is_no_recovery(self) -> None:
        positions = self.seen(1)
        positions.begins(at(7), recovered=True)
        assert self.faults(positions) == (0, 0, 1)


class TestLedger:
    @pytest.fixture
    def ledger(self) -> Ledger:
        ledger = Ledger()
        ledger.sent[STREAM] = acknowledged(2)
        inbox = ledger.inbox("bob")
        inbox.begins("#bob", at(0), recovered=False)
        inbox.expect(STREAM)
        inbox.take("#bob", at(1), STREAM, 1)
        return ledger

    def take_the_second(self, inbox: Inbox) -> None:
        inbox.take("#bob", at(2), STREAM, 2)

    def found(self, ledger: Ledger) -> dict[str, int]:
        return {kind: len(faults) for kind, faults in ledger.faults().items() if faults}

    def test_a_good_run_has_no_faults(self, ledger: Ledger) -> None:
        self.take_the_second(ledger.inbox("bob"))
        assert self.found(ledger) == {}

    def test_the_report_names_who_lost_what(self, ledger: Ledger) -> None:
        assert ledger.faults()["lost"] == [f"bob did not get number 2 of {STREAM}"]

    def test_who_got_nothing_at_all_has_lost_everything(self, ledger: Ledger) -> None:
        ledger.inbox("carol").expect(STREAM)
        assert len(ledger.faults()["lost"]) == 3

    def test_a_double_counts_by_position_and_by_number(self, ledger: Ledger) -> None:
        self.take_the_second(ledger.inbox("bob"))
        self.take_the_second(ledger.inbox("bob"))
        assert self.found(ledger) == {"doubled": 2}

    def test_a_channel_whose_end_did_not_come(self, ledger: Ledger) -> None:
        """Numbers cannot show it to a reader that has never heard of the sender."""
        inbox = ledger.inbox("dave")
        inbox.begins("news", at(3), recovered=False)
        ledger.reached("news", at(4))
        ledger.reached("news", at(3))
        inbox.complete_up_to = {"news": ledger.tops["news"]}
        assert any("news" in each for each in ledger.faults()["lost"])
        inbox.take("news", at(4), "eve on news", 1)
        assert not any("news" in each for each in ledger.faults()["lost"])

    def test_who_has_left_is_not_sent_to_any_more(self, ledger: Ledger) -> None:
        self.take_the_second(ledger.inbox("bob"))
        ledger.leave(ledger.inbox("bob"))
        sent = ledger.sent[STREAM]
        sent.acknowledge(sent.next())
        assert self.found(ledger) == {}

    def test_what_was_lost_when_it_left_stays_lost(self, ledger: Ledger) -> None:
        ledger.leave(ledger.inbox("bob"))
        assert self.found(ledger) == {"lost": 1}

    def test_what_was_refused_or_not_answered_is_a_fault_of_its_own(self, ledger: Ledger) -> None:
        self.take_the_second(ledger.inbox("bob"))
        sent = ledger.sent[STREAM]
        sent.refuse(sent.next())
        sent.next()
        ledger.closed.append("bob on replica-1: cut")
        ledger.broken.append("bob: KeyError()")
        assert self.found(ledger) == {
            "refused": 1,
            "not answered": 1,
            "connections ended unasked": 1,
            "users that broke": 1,
        }

    def test_ephemeral_messages_are_promised_only_to_who_is_there(self) -> None:
        ledger = Ledger()
        ledger.sent["alice ephemeral"] = acknowledged(4)
        inbox = ledger.inbox("bob")
        inbox.expect_ephemeral("alice ephemeral")
        inbox.take("#bob", None, "alice ephemeral", 1)
        inbox.forgive_ephemeral()  # away during number 2
        inbox.take("#bob", None, "alice ephemeral", 3)
        assert ledger.faults()["lost"] == ["bob did not get number 4 of alice ephemeral"]

    def test_the_cursor_tells_of_every_channel(self, ledger: Ledger) -> None:
        ledger.inbox("bob").begins("news", at(3), recovered=False)
        assert ledger.inbox("bob").cursor() == "%23bob=e1.1&news=e1.3"
