"""The cursor without names: any channels, any positions, few bytes."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.codecs.plain.bookmark import Bookmark, ShortBookmark
from heliograph.codecs.plain.cursor import cursor_of, parse_cursor
from heliograph.codecs.plain.short_cursor import ShortCursorWriter
from heliograph.errors import BadCursor
from heliograph.protocol.position import Position

CHANNELS = st.text(st.characters(codec="utf-8"), min_size=1)
EPOCHS = st.text("0123456789abcdef", min_size=8, max_size=8)
POSITIONS = st.builds(Position, EPOCHS, st.integers(0, 2**53)).filter(lambda each: each != Position("00000000", 0))


def bookmark_of(positions: dict[str, Position], *others: str) -> ShortBookmark:
    bookmark = ShortBookmark([*positions, *others])
    bookmark.move(positions)
    return bookmark


@given(st.dictionaries(CHANNELS, POSITIONS, max_size=130))
def test_every_channel_is_found(positions: dict[str, Position]) -> None:
    """Fails if a channel's position is lost, or is another channel's."""
    bookmark = bookmark_of(positions)
    cursor = parse_cursor(str(bookmark))
    assert {channel: cursor.position_in(channel) for channel in positions} == positions
    assert len(cursor) == 0, "it names none"
    named = Bookmark()
    named.move(positions)
    assert parse_cursor(str(named)) == positions


@given(POSITIONS, st.integers(0, 2**20))
def test_a_hundred_channels_have_about_a_kibibyte(position: Position, seed: int) -> None:
    """Fails if the names count, or positions as they are in practice do not fit."""
    channels = {
        f"{seed}:{'x' * 400}:{number}": Position(position.epoch, position.offset % 16_384) for number in range(101)
    }
    assert len(str(bookmark_of(channels))) <= 1100  # about 980; how far the hashes are apart is chance


def test_what_moves_is_told_and_the_rest_stays() -> None:
    """Fails if a position is kept although the client has come further, or one that is not known is made up."""
    bookmark = bookmark_of({"a": Position("0a0b0c0d", 1)}, "b")
    assert parse_cursor(str(bookmark)).position_in("b") is None
    bookmark.move({"b": Position("ffffffff", 300)})
    bookmark.move({"a": Position("0a0b0c0d", 2)})
    cursor = parse_cursor(str(bookmark))
    assert (cursor.position_in("a"), cursor.position_in("b")) == (Position("0a0b0c0d", 2), Position("ffffffff", 300))


@pytest.mark.parametrize("epoch", ["nonsense", "abc", "ABCDEF12", "0123456789"])
def test_any_other_epoch_is_written_out(epoch: str) -> None:
    """Fails if a cluster that names its epochs in another way loses positions."""
    bookmark = bookmark_of({"a": Position("0a0b0c0d", 1), "b": Position(epoch, 7)})
    cursor = parse_cursor(str(bookmark))
    assert (cursor.position_in("a"), cursor.position_in("b")) == (Position("0a0b0c0d", 1), Position(epoch, 7))


def test_joined_with_another_the_last_counts() -> None:
    """Fails if what a client has seen later is not what counts, whichever of the two it is."""
    early, late = Position("0a0b0c0d", 1), Position("0a0b0c0d", 2)
    for first, second in (
        (str(bookmark_of({"a": early})), cursor_of("a", late)),
        (cursor_of("a", early), str(bookmark_of({"a": late}))),
        (str(bookmark_of({"a": early})), str(bookmark_of({"a": late}))),
    ):
        cursor = parse_cursor(f"{first}&{second}")
        assert cursor.position_in("a") == late
    assert parse_cursor(f"{cursor_of('b', early)}&{bookmark_of({'a': late})!s}").position_in("b") == early


@pytest.mark.parametrize("junk", ["~", "~x", "~!", "~AAAA", "~////////////////", "~é", "~EAAB"])
def test_what_no_replica_wrote(junk: str) -> None:
    """Fails if a cursor that was made up, or cut off, is a fault of the server, or is taken for a position."""
    with pytest.raises(BadCursor):
        parse_cursor(junk)


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    """Fails if some text is a fault of the server."""
    with suppress(BadCursor):
        parse_cursor(f"~{text}").position_in(text)


@pytest.mark.parametrize("count", [101, 1000, 6000])
def test_one_of_too_many_channels_is_not_read(count: int) -> None:
    """Fails if a client can have its replica read a cursor of thousands of channels, by leaving out their names."""
    short = str(ShortCursorWriter([f"c{n}" for n in range(count)]))
    assert parse_cursor(short) == {}
    if count == 101:  # the user's own channel is one of them
        assert parse_cursor(short, 100) == {}
    else:
        with pytest.raises(BadCursor):
            parse_cursor(short, 100)


def test_few_short_ones_can_be_joined() -> None:
    """Fails if looking a channel up in one part after the other costs any time that a client likes."""
    parts = [str(ShortCursorWriter([f"c{n}"])) for n in range(5)]
    parse_cursor("&".join(parts[:4]), 100)
    with pytest.raises(BadCursor):
        parse_cursor("&".join(parts), 100)
