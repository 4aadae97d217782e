"""This program's own standard streams, which may be full, closed, non-blocking, or gone with their terminal."""

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
    """Tell the person at the terminal, without getting into what the program prints on standard output.

    Where there is no terminal any more (or standard error is closed, or full), nobody is told. What cannot be written
    is not left in a buffer either: at the end of the program it would change its exit code.
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
    """Have something behind the three standard streams: what is opened next would take a closed one's number."""
    for fd in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one


def drop_unwritten() -> None:
    """Let nothing be left to write for the end of the program, where a failure would change its exit code."""
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
    """Write all of it, and wait where the output takes no more for the moment. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])


class Echo:
    """Shows on one of our outputs what another program prints, for as long as that output takes it."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._is_open = True

    def write(self, data: bytes) -> None:
        """Write all of it; an output that fails is given up."""
        if not self._is_open:
            return
        try:
            write_all(self._fd, data)
        except OSError as error:
            self._is_open = False
            if error.errno != errno.EPIPE:  # whoever read our output has left, as `head` does
                say(f"{self._name}: {error.strerror}; nothing more is shown there")
