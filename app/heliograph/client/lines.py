"""Split the bytes of a program's output into lines. Pure."""

import re
from typing import Final, NamedTuple

MOST_LINE_BYTES: Final = 16_384

# CSI (colours, cursor), OSC (title, links, clipboard) and the other strings, two-byte escapes.
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Line(NamedTuple):
    """`more`: the line was too long, and its next piece follows."""

    text: str
    more: bool = False


class LineSplitter:
    """Take output in pieces of any size, and return whole lines.

    If a program has overwritten a line with carriage returns (a progress bar), its last state counts. Bytes that are
    not UTF-8 are replaced. A line of more than `most_bytes` is split, so that it never fills the memory.
    """

    def __init__(self, most_bytes: int = MOST_LINE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._rest = b""

    def feed(self, data: bytes) -> list[Line]:
        """Return the lines that `data` completes (or makes too long)."""
        *whole, rest = (self._rest + data).split(b"\n")
        lines = [line for raw in whole for line in self._pieces(_last_state(raw))]
        rest = _last_state(rest, ended=False)
        while len(rest) > self._most_bytes:
            cut = _cut(rest, self._most_bytes)
            lines.append(Line(_decode(rest[:cut]), more=True))
            rest = rest[cut:]
        self._rest = rest
        return lines

    def finish(self) -> list[Line]:
        """Return the last line, if the output did not end with a line end."""
        raw, self._rest = _last_state(self._rest), b""
        return self._pieces(raw) if raw else []

    def _pieces(self, raw: bytes) -> list[Line]:
        lines = []
        while len(raw) > self._most_bytes:
            cut = _cut(raw, self._most_bytes)
            lines.append(Line(_decode(raw[:cut]), more=True))
            raw = raw[cut:]
        return [*lines, Line(_decode(raw))]


def without_control(text: str) -> str:
    """Return `text` without escape sequences and control characters (tabs stay)."""
    return _CONTROL.sub("", _SEQUENCE.sub("", text))


def only_colours(text: str) -> str:
    """Return `text` without control sequences, except those that only set colours."""
    pieces = []
    at = 0
    for found in _COLOUR.finditer(text):
        pieces += [without_control(text[at : found.start()]), found.group()]
        at = found.end()
    return "".join([*pieces, without_control(text[at:])])


def _last_state(raw: bytes, *, ended: bool = True) -> bytes:
    r"""Return roughly what a terminal shows of a line in the end: the text after the last `\r` that text follows.

    If the line has not ended, a `\r` at its end may still turn out to be half of `\r\n`, and stays.
    """
    if b"\r" not in raw:
        return raw
    text = raw.rstrip(b"\r")
    shown = text[text.rfind(b"\r") + 1 :]
    return shown if ended or len(text) == len(raw) else shown + b"\r"


def _cut(raw: bytes, at: int) -> int:
    """Return the end of the last whole character within `at` bytes."""
    for back in range(4):
        if raw[at - back] & 0xC0 != 0x80:
            return at - back
    return at


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")
