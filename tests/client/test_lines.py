"""Bytes to lines, whatever pieces they come in."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client.lines import Line, LineSplitter, only_colours, without_control

OUTPUT = st.lists(st.sampled_from([b"a", b"\xec\x9a\xb0", b"\x9a", b"\r", b"\n", b"\r\n", b"\x1b[1m"])).map(b"".join)


def _split(pieces: list[bytes], most_bytes: int = 1000) -> list[Line]:
    splitter = LineSplitter(most_bytes)
    return [line for piece in pieces for line in splitter.feed(piece)] + splitter.finish()


@given(OUTPUT, st.lists(st.integers(0, 60)))
def test_it_does_not_matter_where_the_pieces_end(output: bytes, cuts: list[int]) -> None:
    """Fails if a line, a character or a line's end is taken apart where one read ends and the next begins."""
    bounds = [0, *sorted(cuts), len(output)]
    pieces = [output[start:end] for start, end in itertools.pairwise(bounds)]
    assert _split(pieces) == _split([output])


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\n\r\ntwo", ["one", "", "two"]),
        (b" 1 %\r 50 %\r100 %\nnext\n", ["100 %", "next"]),
        (b" 1 %\r 50 %\r", [" 50 %"]),
        (b"\xff\xfe ok\n", ["\ufffd\ufffd ok"]),
        (b"\x1b[31mred\x1b[0m\n", ["\x1b[31mred\x1b[0m"]),
        (b"", []),
    ],
)
def test_lines(output: bytes, lines: list[str]) -> None:
    """Fails if the end is lost without its newline, a progress bar piles up, or bad UTF-8 stops the reading."""
    assert [line.text for line in _split([output])] == lines


@given(st.text(st.sampled_from("aé우🚀"), min_size=1), st.integers(4, 20))
def test_a_long_line_comes_in_pieces_that_make_it_up(text: str, most_bytes: int) -> None:
    """Fails if a cut falls into a character, a piece is too long, or a piece does not say that more follows."""
    raw = text.encode()
    for pieces in ([raw + b"\n"], [raw[i : i + 1] for i in range(len(raw))]):
        lines = _split(pieces, most_bytes)
        assert "".join(line.text for line in lines) == text
        assert all(len(line.text.encode()) <= most_bytes for line in lines)
        assert [line.more for line in lines] == [True] * (len(lines) - 1) + [False]


def test_what_a_line_may_do_to_a_terminal() -> None:
    """Fails if a published line can move the cursor, name the window or fill the clipboard of those who watch."""
    text = "\x1b[31mred\x1b[0m \x1b]52;c;aGk=\x07\x1b[2J\x1b(B\x9b1m\ttab\x08 \x1b]8;;http://x\x1b\\link"
    assert without_control(text) == "red 1m\ttab link"
    assert only_colours(text) == "\x1b[31mred\x1b[0m 1m\ttab link"
