"""`heliograph pipe`: run a command (or read standard input) and publish each line at once.

The command's standard output is a pseudo-terminal, so that it writes line by line. It has its own input, environment
and process group. It neither waits nor ends because of Redis.
"""

import errno
import fcntl
import os
import pty
import selectors
import shutil
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

from heliograph.client.feed import MOST_WAITING, Data, Feed, Send
from heliograph.client.lines import Line, LineSplitter, without_control
from heliograph.client.output import STDERR, STDIN, STDOUT, Echo, say

LINGER_S: Final = 1.0  # a command's children may hold its output open; we wait for at most this long a silence
CANNOT_READ, CANNOT_RUN, NOT_FOUND = 1, 126, 127  # as in shells
# On a terminal many programs use a pager, which waits for a key.
PAGERS: Final = (
    "PAGER",
    "AWS_PAGER",
    "BAT_PAGER",
    "DELTA_PAGER",
    "GH_PAGER",
    "GIT_PAGER",
    "MANPAGER",
    "PSQL_PAGER",
    "SYSTEMD_PAGER",
)
_READ_SIZE: Final = 65_536
_FORWARDED: Final = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH")
_FROM_KEYBOARD: Final = (signal.SIGINT, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class PipeOptions:
    """`command`: empty for standard input. `patience_s`: how long to wait for Redis after the end of the input."""

    channel: str
    command: Sequence[str] = ()
    quiet: bool = False
    plain: bool = False
    terminal: bool = True
    most_waiting: int = MOST_WAITING
    patience_s: float = 5.0


class _Format:
    """The publications of a log: lines."""

    def begin(self) -> Data | None:
        return None

    def line(self, line: Line, stream: str) -> Data:
        data: dict[str, object] = {"line": line.text, "stream": stream}
        if line.more:
            data["more"] = True
        return data

    def dropped(self, lines: int) -> Data:
        return {"dropped": lines, "stream": "dropped"}

    def end(self, exit_code: int | None) -> Data | None:
        return None if exit_code is None else {"exit_code": exit_code, "stream": "exit"}


class _RunFormat(_Format):
    """The publications of a run: its log, its state, its end."""

    def begin(self) -> Data | None:
        return {"state": "RUNNING", "progress": 0}

    def line(self, line: Line, stream: str) -> Data:
        return {"message": line.text}

    def dropped(self, lines: int) -> Data:
        return {"message": f"… {lines} lines are missing here …"}

    def end(self, exit_code: int | None) -> Data | None:
        if exit_code:
            return {"state": "FAILED", "message": f"exit code {exit_code}"}
        return {"state": "END", "progress": 100}


class _Source:
    """One stream that is read, published, and echoed to ours."""

    def __init__(self, fd: int, stream: str, echo: Echo | None) -> None:
        self.fd = fd
        self.stream = stream
        self.echo = echo
        self.splitter = LineSplitter()

    def read(self) -> bytes | None:
        """Return what has arrived: empty at the end, None if there is nothing yet. Raises OSError."""
        try:
            return os.read(self.fd, _READ_SIZE)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:  # a pseudo-terminal whose other side is closed
                return b""
            raise


class Pipe:
    """One run of `heliograph pipe`. `send` publishes one piece of data, and may block."""

    def __init__(self, options: PipeOptions, send: Send) -> None:
        self._options = options
        self._format = _RunFormat() if options.channel.startswith("run:") else _Format()
        self._feed = Feed(send, self._format.dropped, most_waiting=options.most_waiting)
        self._selector = selectors.SelectSelector()  # the only one that can watch a file (`< build.log`)
        self._sources: list[_Source] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._exited = False
        self._stopped_by: int | None = None  # the signal that ended reading from standard input
        self._is_readable = True  # standard input

    def run(self) -> int:
        """Run the command to its end. Return its exit code, 128 + n if signal n killed it."""
        self._feed.start()
        self._offer(self._format.begin())
        exit_code = None  # unknown for the program that writes to our standard input
        try:
            with _signals_as_bytes(_FORWARDED if self._options.command else ("SIGTERM", "SIGHUP")) as signals:
                self._selector.register(signals, selectors.EVENT_READ, None)
                exit_code = self._run_command() if self._options.command else self._read_input()
        finally:
            self._selector.close()
        self._offer(self._format.end(exit_code))
        self._finish()
        if exit_code is not None:
            return exit_code
        return 0 if self._stopped_by is None else 128 + self._stopped_by

    # -- the two ways

    def _run_command(self) -> int:
        command = list(self._options.command)
        try:
            self._start(command)
        except OSError as error:
            text = f"cannot run {command[0]!r}: {error.strerror}"
            say(text)
            self._offer(self._format.line(Line(f"heliograph: {text}"), "stderr"))
            return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
        assert self._process is not None  # noqa: S101 - it has been started
        self._read()
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def _read_input(self) -> int | None:
        interrupt = None
        if not os.isatty(STDIN):
            # Ctrl-C ends the program that writes to us; we read its last output to the end, as `tee -i` does.
            interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._add(STDIN, "stdout", Echo(STDOUT, "standard output"))
            self._read()
        except KeyboardInterrupt:
            self._stopped_by = signal.SIGINT
        finally:
            if interrupt is not None:
                signal.signal(signal.SIGINT, interrupt)
        return None if self._is_readable else CANNOT_READ

    def _start(self, command: list[str]) -> None:
        ours, theirs = _open_terminal() if self._options.terminal else os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - its purpose
                command, stdout=theirs, stderr=subprocess.PIPE, env=self._environment()
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        assert self._process.stderr is not None  # noqa: S101 - asked for
        self._add(ours, "stdout", Echo(STDOUT, "standard output"))
        self._add(self._process.stderr.fileno(), "stderr", Echo(STDERR, "standard error"))

    def _environment(self) -> dict[str, str]:
        """Return the command's environment: ours, with pagers off although it has a terminal."""
        pagers = dict.fromkeys(PAGERS, "cat") if self._options.terminal else {}
        return {**pagers, **os.environ}

    # -- reading

    def _add(self, fd: int, stream: str, echo: Echo) -> None:
        source = _Source(fd, stream, None if self._options.quiet else echo)
        self._sources.append(source)
        self._selector.register(fd, selectors.EVENT_READ, source)

    def _read(self) -> None:
        """Read all sources to their ends."""
        open_sources = len(self._sources)
        while open_sources and self._stopped_by is None:
            ready = self._selector.select(LINGER_S if self._exited else None)
            if not ready and self._exited:
                break  # the command has ended, and the process that still holds its output is silent
            for key, _ in ready:
                source: _Source | None = key.data
                if source is None:
                    self._take_signals(key.fd)
                elif data := self._data_of(source):
                    self._offer_lines(source, source.splitter.feed(data))
                    if source.echo is not None:
                        source.echo.write(data)
                elif data is not None:
                    self._selector.unregister(source.fd)
                    open_sources -= 1
        for source in self._sources:
            self._offer_lines(source, source.splitter.finish())

    def _data_of(self, source: _Source) -> bytes | None:
        try:
            return source.read()
        except OSError as error:
            say(f"cannot read {'standard input' if source.fd == STDIN else source.stream}: {error.strerror}")
            self._is_readable = source.fd != STDIN
            return b""

    def _take_signals(self, fd: int) -> None:
        for number in os.read(fd, 4096):
            if number == signal.SIGCHLD:
                self._exited = self._process is not None and self._process.poll() is not None
            elif self._process is None:
                self._stopped_by = number
            else:
                self._forward(self._process, number)

    def _forward(self, process: subprocess.Popen[bytes], number: int) -> None:
        if number == signal.SIGWINCH and self._options.terminal:
            with suppress(OSError):
                _copy_size(self._sources[0].fd)
        if (
            number not in _FROM_KEYBOARD or not _in_foreground()
        ):  # signals from the keyboard reach the command by themselves
            process.send_signal(number)

    # -- publishing

    def _offer_lines(self, source: _Source, lines: Sequence[Line]) -> None:
        for line in lines:
            if self._options.plain:
                line = line._replace(text=without_control(line.text))
            self._feed.offer(self._format.line(line, source.stream), size=len(line.text))

    def _offer(self, data: Data | None) -> None:
        if data is not None:
            self._feed.offer(data, lines=0)

    def _finish(self) -> None:
        try:
            lost = self._feed.close(self._options.patience_s)
        except KeyboardInterrupt:
            lost = self._feed.close(0)
        if lost:
            say(f"{lost} line{'' if lost == 1 else 's'} could not be published: {self._feed.reason}")
        elif not self._feed.finished:
            say(f"the end could not be published: {self._feed.reason}")


def _open_terminal() -> tuple[int, int]:
    """Return a pseudo-terminal that passes bytes on unchanged: our side, and the command's."""
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST  # no \r before each \n
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    _copy_size(ours)
    return ours, theirs


def _copy_size(fd: int) -> None:
    """Give it the size of our own terminal, or a wide one if we have none."""
    columns, rows = shutil.get_terminal_size((160, 40))
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(STDIN) == os.getpgrp()
    except OSError:
        return False


@contextmanager
def _signals_as_bytes(names: Sequence[str]) -> Iterator[int]:
    """Make these signals (and SIGCHLD) arrive as bytes that can be read; ignored ones stay ignored."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    known_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {}
    for name in (*names, "SIGCHLD"):
        number = signal.Signals[name]
        if name == "SIGCHLD" or signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _nothing)
    try:
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(known_fd)
        os.close(reader)
        os.close(writer)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Do nothing: the signal is read as a byte."""
