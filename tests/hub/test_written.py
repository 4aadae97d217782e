"""What counts as written to a user: connections that come, go, stop reading, and are told of gaps."""

import msgspec

from heliograph.codecs.plain.codec import PlainCodec
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, payload_only
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.hub.trace import NAMES, NO_TRACE, Trace, TraceRing
from heliograph.hub.written import WrittenWatch
from heliograph.ports import AppendResult, Draft, Written
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.events import Delivery
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.telemetry import Traffic
from tests.support.members import RecordingSink

BOB = "#bob"


def connection(name: str, trace: Trace = NO_TRACE) -> Connection:
    """A connection whose outbox is written only when the test says so."""
    outbox = Outbox(RecordingSink(), FlushScheduler(lambda _: None), 1000, trace)
    return Connection(name, "bob", Encoding(PlainCodec(32), payload_only, Traffic()), outbox)


class Bob:
    """A user, with his connections and the watch over them."""

    def __init__(self) -> None:
        self.watch = WrittenWatch(NO_TRACE)
        self.connections: dict[str, Connection] = {}

    def comes(self, name: str, at: int, since: int | None = None, device: str = "") -> None:
        self.connections[name] = connection(name, self.watch)
        self.watch.connected(name, "bob", device)
        if since is not None:
            self.watch.joined(name, "bob", BOB, Position("e", since), Position("e", since), recovered=True)
            if at > since:
                self.watch.caught_up(name, "bob", BOB, Position("e", since + 1), Position("e", at))
        self.watch.subscribed(name, "bob", BOB, Position("e", at))

    def goes(self, name: str) -> None:
        self.watch.unsubscribed(name, "bob", BOB)
        self.watch.disconnected(name, "bob", "", 0)
        del self.connections[name]

    def gets(self, *offsets: int, epoch: str = "e") -> None:
        for offset in offsets:
            self.watch.delivered(publication(offset, epoch))

    def taken(self) -> list[tuple[str, str, int, int]]:
        found = self.watch.take(lambda user: list(self.connections.values()) if user == "bob" else [])
        assert all(isinstance(each, Written) and each.user == "bob" for each in found)
        return [each[1:] for each in found]


def publication(offset: int, epoch: str = "e", channel: str = BOB) -> Publication:
    return Publication(channel, msgspec.Raw(b"1"), f"m{offset}", "now", position=Position(epoch, offset))


def test_every_note_is_passed_on() -> None:
    """Fails if the trace of a replica that tells undelivered messages has fewer notes than that of another."""
    ring = TraceRing(100)
    watch = WrittenWatch(ring)
    at = Position("e", 1)
    draft = Draft(BOB, msgspec.Raw(b"1"), "m1", "now")
    answer = AppendResult(at, Delivery.REMOTE, True, "m1", draft.data)
    watch.accepted(draft, answer)
    watch.relayed(Envelope(draft.data, target_user_id="bob"), 1)
    watch.refused(draft, "why")
    watch.delivered(publication(1))
    watch.gap(BOB, at, 3)
    watch.repaired(BOB, at, at)
    watch.lost(BOB, at)
    watch.connected("c", "bob", "phone")
    watch.joined("c", "bob", BOB, at, None, recovered=False)
    watch.caught_up("c", "bob", BOB, at, at)
    watch.subscribed("c", "bob", BOB, at)
    watch.unsubscribed("c", "bob", BOB)
    watch.paused("c")
    watch.resumed("c")
    watch.ended("c", [])
    watch.disconnected("c", "bob", "phone", 1000)
    names = {NAMES[note[1]] for note in ring.read()[0]}
    assert names == {name for name in dir(Trace) if not name.startswith("_")}


def test_what_a_connection_gets_while_it_is_there() -> None:
    """Fails if messages before a connection came count, those that it gets do not, or any are reported twice."""
    bob = Bob()
    bob.gets(1, 2)
    bob.comes("one", 2, device="phone")
    bob.gets(3, 4)
    assert bob.taken() == [("phone", "e", 2, 4)]
    assert bob.taken() == []
    bob.gets(5)
    bob.goes("one")
    assert bob.taken() == [("phone", "e", 4, 5)]
    bob.gets(6)
    bob.watch.delivered(publication(1, channel="#eve"))
    assert bob.taken() == []


def test_what_a_client_that_comes_back_had_and_missed() -> None:
    """Fails if what its cursor covers is not taken, or what it was sent since then."""
    bob = Bob()
    bob.comes("one", 9, since=5)
    assert sorted(bob.taken()) == [("", "e", 0, 5), ("", "e", 5, 9)]


def test_what_waits_for_a_client_that_does_not_read() -> None:
    """Fails if it counts before it is written, is forgotten when it is, or counts if it never is."""
    bob = Bob()
    bob.comes("one", 0)
    outbox = bob.connections["one"].outbox
    outbox.offer(b"frame")
    bob.gets(1)
    assert bob.taken() == []
    assert bob.taken() == []
    outbox.flush()
    assert bob.taken() == [("", "e", 0, 1)]
    bob.watch.paused("one")
    bob.gets(2)
    bob.watch.ended("one", [b"frame"])
    bob.goes("one")
    assert bob.taken() == []
    bob.comes("two", 2)
    bob.watch.paused("two")
    bob.gets(3)
    bob.watch.unsubscribed("two", "bob", BOB)  # it falls behind in a repair
    assert bob.taken() == []
    bob.watch.resumed("two")
    assert bob.taken() == [("", "e", 2, 3)]


def test_what_is_dropped_at_the_end_is_not_written_while_the_connection_leaves() -> None:
    """Fails if a connection that drops what waits, and leaves the hub a while later, counts as written meanwhile."""
    bob = Bob()
    bob.comes("one", at=4)
    bob.watch.paused("one")
    bob.gets(5)
    bob.watch.ended("one", [b"5"])
    assert bob.taken() == []
    bob.goes("one")
    assert bob.taken() == []
    bob.comes("two", at=5)
    bob.gets(6)
    assert bob.taken() == [("", "e", 5, 6)]


def test_a_connection_that_is_closed_before_it_is_gone() -> None:
    """Fails if what was dropped at its close counts, or what is delivered until it is removed, however late."""
    bob = Bob()
    bob.comes("one", 0)
    bob.comes("two", 0)
    bob.gets(1)
    bob.watch.ended("one", [])
    bob.watch.ended("two", [b"frame"])
    bob.gets(2)
    assert bob.taken() == [("", "e", 0, 1)]
    bob.goes("one")
    bob.goes("two")
    bob.watch.ended("two", [])
    assert bob.taken() == []


def test_what_the_sink_still_had_at_the_end() -> None:
    """Fails if it counts as written because nothing else waited, or a pause with nothing in it drops what was."""
    bob = Bob()
    for name in ("one", "two"):
        bob.comes(name, 0, device=name)
    bob.gets(1)
    bob.connections["one"].outbox.pause(1000)
    bob.connections["two"].outbox.pause()
    for name in ("one", "two"):
        bob.connections[name].outbox.abandon()
        bob.goes(name)
    assert bob.taken() == [("two", "e", 0, 1)]
    bob.comes("three", 1)
    outbox = bob.connections["three"].outbox
    bob.gets(2)
    outbox.pause(1000)
    bob.goes("three")
    outbox.abandon()
    assert bob.taken() == []


def test_nothing_is_sent_after_the_end() -> None:
    """Fails if a join that goes on for a connection whose socket is lost counts as written what is offered to it."""
    bob = Bob()
    bob.comes("one", 0)
    bob.comes("two", 0, device="joining")
    bob.watch.unsubscribed("two", "bob", BOB)
    bob.watch.ended("one", [])
    bob.watch.ended("two", [])
    for name in ("one", "two"):
        bob.watch.joined(name, "bob", BOB, Position("e", 3), Position("e", 3), recovered=True)
        bob.watch.caught_up(name, "bob", BOB, Position("e", 4), Position("e", 9))
        bob.watch.subscribed(name, "bob", BOB, Position("e", 9))
    bob.gets(10)
    assert sorted(bob.taken()) == [("", "e", 0, 3), ("joining", "e", 0, 3)], "what they had, as they say"
    bob.goes("one")
    bob.watch.unsubscribed("two", "bob", BOB)
    bob.watch.disconnected("two", "bob", "joining", 0)
    assert bob.taken() == []
    assert not bob.watch._ended


def test_messages_for_one_that_catches_up_are_not_written_yet() -> None:
    """Fails if what is delivered meanwhile counts for a connection that has not got it."""
    bob = Bob()
    bob.comes("one", 0)
    bob.goes("one")
    bob.connections["two"] = connection("two")
    bob.watch.connected("two", "bob", "")
    bob.watch.joined("two", "bob", BOB, Position("e", 0), None, recovered=False)
    bob.gets(1, 2)
    assert bob.taken() == []
    bob.watch.caught_up("two", "bob", BOB, Position("e", 1), Position("e", 2))
    bob.watch.subscribed("two", "bob", BOB, Position("e", 2))
    bob.gets(3)
    assert bob.taken() == [("", "e", 0, 3)]


def test_a_gap_is_not_written() -> None:
    """Fails if messages that were lost on the way, or given an offset again after a loss, count as written."""
    bob = Bob()
    bob.comes("one", 0)
    bob.gets(1, 2, 5, 6)
    assert bob.taken() == [("", "e", 0, 2), ("", "e", 4, 6)]
    bob.gets(9)
    bob.gets(8, epoch="f")
    assert bob.taken() == [("", "e", 8, 9), ("", "f", 7, 8)]
