"""This program's own standard streams, which may be full, closed or non-blocking, or whose terminal may be gone."""

import contextlib
import errno
import os
import select
import sys
from typing import Final

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2


def say(text: str) -> None:
    """Print a line for the person at the terminal on standard error, apart from the program's output.

    If there is no terminal any more (or standard error is closed, or full), the line is lost. It must not stay in a
    buffer either: at the end of the program it would change the exit code.
    """
    stream = sys.stderr
    if stream is None:
        return
    line = f"heliograph: {text}\n"
    with contextlib.suppress(OSError, ValueError):
        try:
            fd = stream.fileno()
        except (AttributeError, OSError, ValueError):
            stream.write(line)  # something in memory
        else:
            stream.flush()
            os.write(fd, line.encode(stream.encoding or "utf-8", "backslashreplace"))


def open_missing() -> None:
    """Open a closed standard stream on /dev/null: otherwise the next file that is opened would take its number."""
    for fd in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one


def drop_unwritten() -> None:
    """Drop unwritten output, so that a failure at the end of the program does not change its exit code."""
    for stream, fd in ((sys.stdout, STDOUT), (sys.stderr, STDERR)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, fd)
                os.close(null)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, and wait while the output is full. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])


class Echo:
    """Copy another program's output to one of ours, until that fails."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._is_open = True

    def write(self, data: bytes) -> None:
        """Write all of it; after a failure write nothing more."""
        if not self._is_open:
            return
        try:
            write_all(self._fd, data)
        except OSError as error:
            self._is_open = False
            if error.errno != errno.EPIPE:  # EPIPE: the reader of our output has left, as `head` does
                say(f"{self._name}: {error.strerror}; nothing more is shown there")
