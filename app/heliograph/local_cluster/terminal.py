"""The output of all programs, line by line, on one terminal."""

import os
import sys
from collections.abc import Callable

# Easy to tell apart, and readable on a light and on a dark background.
_COLOURS = (36, 33, 35, 32, 34, 31)
_OWN_NAME = "heliograph"


class Terminal:
    """Print each line with the name of its program, aligned, and in colour on a terminal.

    Bytes go through unchanged: a program's output is not decoded, so bad encoding cannot fail.
    """

    def __init__(self, names: list[str], on_closed: Callable[[], None]) -> None:
        self._out = sys.stdout.buffer
        self._on_closed = on_closed
        self._closed = False
        """The reader has left (`| head`, a closed window); nothing more is written."""
        self._prefixes = _prefixes([_OWN_NAME, *names], coloured=_wants_colour())

    def say(self, text: str) -> None:
        """Print a line of the supervisor itself."""
        self.line(_OWN_NAME, text.encode())

    def line(self, name: str, text: bytes) -> None:
        """Print one line of `name`; `text` has no line end."""
        if self._closed:
            return
        try:
            self._out.write(self._prefixes[name] + text + b"\n")
            self._out.flush()
        except OSError:
            self._closed = True
            # Otherwise the buffered rest would fail once more when Python exits.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            self._on_closed()


def _wants_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _prefixes(names: list[str], *, coloured: bool) -> dict[str, bytes]:
    width = max(map(len, names))
    prefixes = {}
    for number, name in enumerate(names):
        prefix = f"{name:<{width}} | "
        if coloured:
            prefix = f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{prefix}\x1b[0m"
        prefixes[name] = prefix.encode()
    return prefixes
