"""Deltas: whatever changes, the reader gets the new text, and the delta is a text that is shorter."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.protocol.fossil import MOST_BYTES, MOST_SEARCHED, difference
from tests.support.fossil import apply_delta

HOME, AWAY = {"name": "Österreich", "goals": 1}, {"name": "대한민국", "goals": 0}
SCORE = {"match": 7, "home": HOME, "away": AWAY, "minute": 63}


def document(minute: int) -> bytes:
    events = [{"minute": each, "what": f"event number {each}"} for each in range(minute)]
    return json.dumps({**SCORE, "minute": minute, "events": events}, ensure_ascii=False).encode()


def test_a_small_change_makes_a_small_delta() -> None:
    """Fails if a changed number in a document costs nearly as much as the document."""
    old, new = document(90), document(90).replace(b'"goals": 1', b'"goals": 2')
    delta = difference(old, new)
    assert delta is not None
    assert apply_delta(old, delta) == new
    assert len(delta) < 40 < len(new) / 50


def test_what_is_moved_is_found() -> None:
    """Fails if a part that stands elsewhere is sent again."""
    old = document(90)
    events = old.index(b'"events"')
    new = b"{" + old[events:-1] + b", " + old[1 : events - 2] + b"}"
    delta = difference(old, new)
    assert delta is not None
    assert apply_delta(old, delta) == new
    assert len(delta) < 100


SHORT = [(b"", b""), (b"", b"1"), (b"1", b""), (b"1", b"1"), (b"[1,2,3]", b"[1,2,4]")]


@pytest.mark.parametrize(("old", "new"), [*SHORT, (document(3), b"null"), (b"x" * 100, b"y" * 100)])
def test_where_a_delta_does_not_pay(old: bytes, new: bytes) -> None:
    """Fails if a delta that is not shorter than the text is sent in its place."""
    assert difference(old, new) is None


WORDS = ["abcdefghijklmnopqrstuvwxyz", "0123456789", "안녕하세요 세계", "🚀🐈‍⬛", "é", "\n", '"', "x"]
pieces = st.lists(st.sampled_from(WORDS) | st.text(max_size=30), max_size=30).map("".join)


@settings(max_examples=150, deadline=None)
@given(pieces, pieces, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60), st.text(max_size=10)), max_size=5))
def test_any_two_texts(old: str, other: str, edits: list[tuple[int, int, str]]) -> None:
    """Fails if a delta makes another text, is longer than the text, or cuts a character in two."""
    edited = old
    for at, gone, put in edits:
        edited = edited[:at] + put + edited[at + gone :]
    for new in (other, edited, edited + old, old[::-1]):
        delta = difference(old.encode(), new.encode())
        if delta is not None:
            assert apply_delta(old.encode(), delta) == new.encode()
            assert len(delta) < len(new.encode())
            delta.decode()


@pytest.mark.parametrize("size", [MOST_SEARCHED, MOST_BYTES, 4 * MOST_BYTES])
def test_texts_that_are_made_to_be_slow(size: int) -> None:
    """Fails if a publisher of noise, or of equal parts in another order, keeps the replica busy."""
    source = random.Random(1)
    blocks = [source.randbytes(8).hex().encode() for _ in range(size // 16)]
    old = b"".join(blocks)
    source.shuffle(blocks)
    for new in (b"".join(blocks), source.randbytes(size // 2).hex().encode()):
        began = time.process_time()
        delta = difference(old, new)
        assert time.process_time() - began < 0.2
        assert delta is None or apply_delta(old, delta) == new


def test_a_small_change_in_a_large_text() -> None:
    """Fails if a text in which no blocks are looked for is sent whole although little has changed."""
    old = random.Random(1).randbytes(MOST_BYTES // 4).hex().encode()
    new = old[:100_000] + b"!" + old[100_001:]
    delta = difference(old, new)
    assert delta is not None
    assert len(delta) < 40
    assert apply_delta(old, delta) == new
