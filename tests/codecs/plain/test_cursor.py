"""The cursor: opaque to clients, so it must survive them."""

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.codecs.plain.cursor import format_cursor, parse_cursor
from heliograph.errors import BadCursor
from heliograph.protocol.position import Position

CHANNELS = st.text(st.characters(codec="utf-8"), min_size=1)
EPOCHS = st.text("0123456789abcdef", min_size=8, max_size=8)
POSITIONS = st.builds(Position, EPOCHS, st.integers(0, 2**53))


@given(st.dictionaries(CHANNELS, POSITIONS))
def test_any_channels_come_back_as_they_were(positions: dict[str, Position]) -> None:
    """Fails if a channel's name (`&`, `=`, `%`, `+`, emoji, a space) breaks the cursor."""
    cursor = format_cursor(positions)
    assert cursor.isascii()
    assert not set(cursor) & set(" \r\n\0#?")
    assert parse_cursor(cursor) == positions


@given(st.dictionaries(CHANNELS, POSITIONS, min_size=1))
def test_it_travels_in_a_query_string(positions: dict[str, Position]) -> None:
    """Fails if a cursor that a client puts on a URL comes out as another one."""
    cursor = format_cursor(positions)
    assert parse_qsl(urlencode({"cursor": cursor})) == [("cursor", cursor)]


@given(CHANNELS, POSITIONS, CHANNELS, POSITIONS)
def test_cursors_can_be_joined(one: str, here: Position, two: str, there: Position) -> None:
    """Fails if `a&b` is not both; of a channel that is named twice the last counts."""
    joined = f"{format_cursor({one: here})}&{format_cursor({two: there})}"
    assert parse_cursor(joined) == {one: here, two: there}


def test_none_is_none() -> None:
    assert parse_cursor("") == {}


@pytest.mark.parametrize(
    "junk",
    [
        "x",
        "a=",
        "a=1",
        "a=.1",
        "a=e.",
        "a=e.-1",
        "a=e.1.5x",
        "a=e.１",
        "a=e.²",
        "a=é.1",
        "a=e e.1",
        "&",
        "a=e.1&",
        "a=e.1&&b=e.1",
        "%ff=e.1",
        "a=%ff.1",
        "a=e." + "9" * 5000,
        f"a=e.{2**64}",
        "a=e." + "0" * 21,
        "[]",
        "=",
    ],
)
def test_junk_is_refused(junk: str) -> None:
    """Fails if something that no replica has given is taken for a place (or raises anything but BadCursor)."""
    with pytest.raises(BadCursor):
        parse_cursor(junk)


@given(st.text())
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    """Fails if a client can make the parser raise something else."""
    try:
        positions = parse_cursor(text)
    except BadCursor:
        return
    assert all(position.offset >= 0 and position.epoch for position in positions.values())
