"""What everybody prints, line by line, on one terminal."""

import os
import sys
from collections.abc import Callable

# Told apart at a glance, readable on light and on dark.
_COLOURS = (36, 33, 35, 32, 34, 31)
_OWN_NAME = "heliograph"


class Terminal:
    """Prefixes each line with the name of who wrote it, aligned, in colour if a person looks on.

    Bytes go through as they came: what a process prints is not decoded, so it cannot fail to be.
    """

    def __init__(self, names: list[str], on_closed: Callable[[], None]) -> None:
        self._out = sys.stdout.buffer
        self._on_closed = on_closed
        self._closed = False
        """Nobody reads any more (`| head`, a closed window); nothing is written from then on."""
        self._prefixes = _prefixes([_OWN_NAME, *names], coloured=_wants_colour())

    def say(self, text: str) -> None:
        """Print a line of the supervisor's own."""
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
            # What is still in the buffer would fail once more, when Python exits.
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
