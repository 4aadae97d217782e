"""The notes of a replica: bounded, in order, and of everything that decides what became of a message."""

import sys
from typing import Any

import msgspec
import pytest

from heliograph.cluster.trace_account import account_of
from heliograph.codecs.plain.codec import PlainCodec
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, EventFrame, payload_only, text_frame
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.hub.trace import DELIVERED, ENDED, MOST_ID, MOST_OFFSET, NAMES, NO_TRACE, PACKED, TraceRing
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.trace import AccountQuestion, Outcome
from heliograph.telemetry import Telemetry, Traffic
from tests.support.members import RecordingSink


def message(message_id: str, offset: int = 1) -> Publication:
    return Publication("#bob", msgspec.Raw(b"1"), message_id, "now", position=Position("e", offset))


def events(ring: TraceRing, after: int = 0) -> list[str]:
    return [NAMES[note[1]] for note in ring.read(after)[0]]


class TestTheRing:
    def test_it_keeps_the_last_notes_and_says_how_many_are_gone(self) -> None:
        """Fails if notes are lost, repeated or out of order at the seam of the ring, or memory grows."""
        for size in (1, 2, 5):
            ring = TraceRing(size)
            for taken in range(3 * size + 1):
                for after in range(taken + 2):
                    notes, gone = ring.read(after)
                    kept = list(range(max(taken - size, after), taken))
                    assert [note[6] for note in notes] == kept, (size, taken, after)
                    assert gone == max(0, min(taken, taken - size) - after), (size, taken, after)
                ring.delivered(message("m", taken))
                assert ring.taken == taken + 1
            assert ring.since == ring.read()[0][0][0]

    def test_it_keeps_them_where_they_are_packed(self) -> None:
        """Fails if notes are lost, repeated, changed or out of order where the packed and the newest ones meet."""
        for size in (PACKED - 1, PACKED, PACKED + 1, 2 * PACKED + 3):
            ring = TraceRing(size)
            for taken in range(1, 5 * PACKED):
                ring.delivered(message("m", taken - 1))
                if taken % PACKED not in (0, 1, 7, PACKED - 1):
                    continue
                for after in (0, 1, taken - size - 1, taken - size, taken - PACKED, taken - 8, taken - 1, taken):
                    notes, gone = ring.read(after)
                    kept = list(range(max(taken - size, after, 0), taken))
                    assert [note[6] for note in notes] == kept, (size, taken, after)
                    assert gone == kept[0] - max(after, 0) if kept else gone == 0, (size, taken, after)
                    assert all(note[1:6] == (DELIVERED, "#bob", "m", "", "e") for note in notes)
                    assert all(type(note) is tuple and note[7:] == (0, "") for note in notes)
                assert ring.since == ring.read()[0][0][0] or taken < size

    def test_no_text_hinders_it(self) -> None:
        """Fails if a text that is no UTF-8 ends the delivery of messages once notes are packed."""
        ring = TraceRing(2 * PACKED)
        for _ in range(PACKED):
            ring.delivered(message("\ud800\0é"))
        ring.delivered(message("m"))
        assert [note[3] for note in ring.read()[0]] == ["?\0é"] * PACKED + ["m"]

    def test_no_position_hinders_it(self) -> None:
        """Fails if a client that states a position with very many digits ends the delivery of messages."""
        ring = TraceRing(2 * PACKED)
        for _ in range(PACKED):
            ring.joined("c", "bob", "#bob", Position("e", 7), Position("e", 10**30), recovered=False)
        ring.delivered(message("m"))
        notes, _ = ring.read()
        assert [note[6:8] for note in notes] == [(7, MOST_OFFSET)] * PACKED + [(1, 0)]

    def test_long_ids_do_not_fill_the_memory(self) -> None:
        """Fails if a program that makes up ids of a megabyte fills the memory of every replica."""
        ring = TraceRing(2)
        ring.delivered(message("x" * 10**6))
        assert len(ring.read()[0][0][3]) == MOST_ID

    def test_without_a_ring_nothing_is_kept(self) -> None:
        """Fails if a replica that keeps no notes takes some."""
        noted = message("m")
        references = sys.getrefcount(noted)
        NO_TRACE.delivered(noted)
        assert sys.getrefcount(noted) == references


class TestWhatIsNoted:
    def setup_method(self) -> None:
        self.ring = TraceRing(100)
        self.callbacks: list[Any] = []
        self.scheduler = FlushScheduler(self.callbacks.append)
        self.hub = Hub(Telemetry(), self.scheduler, self.ring)
        self.outbox = Outbox(RecordingSink(), self.scheduler, 1000, self.ring)
        self.bob = Connection("c1", "bob", Encoding(PlainCodec(8), payload_only, Traffic()), self.outbox)
        self.bob.device = "phone"

    def test_connections_and_their_channels(self) -> None:
        """Fails if it cannot be said later who was there: the id, the user, the device, and why it ended."""
        self.hub.add(self.bob)
        self.hub.add(self.bob)
        self.hub.subscribe(self.bob, "#bob")
        self.bob.close(3005, "expired")
        self.hub.remove(self.bob)
        self.hub.remove(self.bob)
        assert events(self.ring) == ["connected", "ended", "unsubscribed", "disconnected"]
        notes = self.ring.read()[0]
        assert {(note[3], note[4]) for note in notes if note[1] != ENDED} == {("c1", "bob")}
        assert (notes[-1][6], notes[-1][8]) == (3005, "phone")

    def test_what_is_not_written_at_the_end_is_named(self) -> None:
        """Fails if a message counts as written that the end of its connection has dropped."""
        self.outbox.pause()
        self.hub.send(self.bob, message("m1"))
        self.hub.send(self.bob, message("m2"))
        self.bob.close(3008, "slow")
        assert events(self.ring) == ["paused", "ended"]
        assert self.ring.read()[0][-1][6:] == (2, 0, "m1\nm2")

    def test_data_name_no_other_message(self) -> None:
        """Fails if an author's data can have another message taken for dropped, or fill the memory with names."""
        codec, head = PlainCodec(8), b'{"type":"message","channel":"#bob","data":1,'
        forged = head + b'"message_id":"m9","sent_at":"now"}'
        texts = [b"1", b'{"message_id":"m9"}', forged, b'{"message_id":"%b"}' % (b"x" * 10**5)]
        noted = [msgspec.structs.replace(message(f"m{n}"), data=msgspec.Raw(text)) for n, text in enumerate(texts)]
        payloads = [codec.encode(each) for each in noted]
        for frames in (
            payloads,
            [EventFrame(each, event) for each, event in zip(payloads, noted, strict=True)],
            [b"".join(map(text_frame, payloads))],
            [b"\xc1\x02ab" + text_frame(payloads[0]), *map(text_frame, payloads[1:])],
        ):
            self.ring.ended("c1", frames)
            assert self.ring.read()[0][-1][8] == "m0\nm1\nm2\nm3"
        long = codec.encode(message("x" * 10**5))
        self.ring.ended("c1", [long, b'{"type":"progress","message":{"message_id":"m9"}}', b"\x81"])
        assert self.ring.read()[0][-1][8] == "x" * MOST_ID

    @pytest.mark.parametrize(
        "message_id", ['a "b"', "a\\b", "two\nlines", "\x1b[31m", "é" * 200, "x" * 200, "\u202e"]
    )
    def test_no_id_hides_what_is_not_written(self, message_id: str) -> None:
        """Fails if a message whose id a program has made up, with quotes or very long, counts as written though the
        end of its connection has dropped it."""
        self.ring.subscribed("c1", "bob", "#bob", Position("e", 0))
        self.ring.delivered(message(message_id))
        self.ring.ended("c1", [PlainCodec(8).encode(message(message_id))])
        asked = AccountQuestion("bob", "#bob", message_id, Position("e", 1))
        [account] = account_of(self.ring.read()[0], self.ring.since, [], asked).connections
        assert account.outcome is Outcome.NOT_WRITTEN

    def test_what_was_written_is_not(self) -> None:
        """Fails if a message that was written before the end counts as dropped."""
        self.hub.send(self.bob, message("m1"))
        self.bob.close(3000, "shutdown")
        assert self.ring.read()[0][-1][6:] == (0, 0, "")

    def test_what_a_client_that_was_never_greeted_does_not_get(self) -> None:
        """Fails if messages that wait for the greeting count as written when there is none."""
        self.outbox.hold()
        self.hub.send(self.bob, message("m1"))
        self.bob.close(3501, "bad request")
        assert "m1" in self.ring.read()[0][0][8]

    def test_a_client_that_reads_again(self) -> None:
        """Fails if it is not noted when what has waited was written."""
        self.outbox.pause()
        self.outbox.resume()
        assert [(NAMES[note[1]], note[3]) for note in self.ring.read()[0]] == [("paused", "c1"), ("resumed", "c1")]
