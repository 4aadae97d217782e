"""The trace that tells OpenTelemetry of messages: it notes everything as without it, whatever becomes of a span."""

import inspect
from typing import Any

import msgspec
import pytest

from heliograph.hub.span_trace import FAILED, SpanTrace
from heliograph.hub.trace import Trace, TraceRing
from heliograph.ports import AppendResult, Draft
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.events import Delivery
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication

ONE = Position("e", 1)
DATA = msgspec.Raw(b"1")


class Told:
    """What would make spans: it notes what it is told of, and fails."""

    def __init__(self) -> None:
        self.of: list[str] = []

    def appended(self, draft: Draft, answer: AppendResult) -> None:
        self._fail("appended")

    def relayed(self, envelope: Envelope) -> None:
        self._fail("relayed")

    def refused(self, draft: Draft, why: str) -> None:
        self._fail("refused")

    def delivered(self, publication: Publication) -> None:
        self._fail("delivered")

    def _fail(self, what: str) -> None:
        self.of.append(what)
        raise RuntimeError("no span")


def note_everything(trace: Trace, tags: dict[str, str] | None) -> None:
    draft = Draft("#bob", DATA, "m", "now", tags=tags)
    given: dict[str, tuple[Any, ...]] = {
        "accepted": (draft, AppendResult(ONE, Delivery.REMOTE, True, "m", DATA)),
        "relayed": (Envelope(DATA, target_user_id="bob", tags=tags), 1),
        "refused": (draft, "full"),
        "delivered": (Publication("#bob", DATA, "m", "now", position=ONE, tags=tags),),
        "gap": ("#bob", ONE, 3),
        "repaired": ("#bob", ONE, ONE),
        "lost": ("#bob", ONE),
        "connected": ("c", "bob", "phone"),
        "disconnected": ("c", "bob", "phone", 1000),
        "joined": ("c", "bob", "#bob", ONE, None, False),
        "caught_up": ("c", "bob", "#bob", ONE, ONE),
        "subscribed": ("c", "bob", "#bob", ONE),
        "unsubscribed": ("c", "bob", "#bob"),
        "paused": ("c",),
        "resumed": ("c",),
        "ended": ("c", [], 1),
    }
    assert given.keys() == {name for name, _ in inspect.getmembers(Trace, callable) if not name.startswith("_")}
    for name, arguments in given.items():
        getattr(trace, name)(*arguments)


def test_every_note_is_passed_on_whatever_becomes_of_a_span(caplog: pytest.LogCaptureFixture) -> None:
    """Fails if a note gets lost where spans are on, an error ends a delivery, or an untraced message costs a call."""
    plain, noted, told = TraceRing(50), TraceRing(50), Told()
    note_everything(plain, None)
    trace = SpanTrace(noted, told)
    note_everything(trace, None)
    assert not told.of
    assert [note[1:] for note in noted.read()[0]] == [note[1:] for note in plain.read()[0]]
    note_everything(trace, {"traceparent": "any"})
    assert told.of == ["appended", "relayed", "refused", "delivered"]
    assert noted.taken == 2 * plain.taken
    assert [record.message for record in caplog.records] == [FAILED] * 4
