"""One process that is kept alive."""

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from heliograph.local_cluster.terminal import Terminal

# A process that lived for so long was well; when it dies, the back-off begins anew.
STEADY_AFTER_S = 30.0
FIRST_RESTART_S = 0.5
LONGEST_RESTART_S = 15.0
LONGEST_LINE = 1024 * 1024
# What a dead process printed is in the pipe already; nothing more can come.
LAST_WORDS_S = 1.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """What to start, and how it ends."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    stop_within_s: float
    """How long it may take to end after SIGTERM; then it is killed."""
    orphan_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it if the supervisor is killed."""


class Child:
    """A program that is started, listened to, and started again when it dies, with a back-off.

    It runs in a session of its own: Ctrl-C in the terminal reaches the supervisor only, which stops things in
    order.
    """

    def __init__(self, program: Program, terminal: Terminal) -> None:
        self.program = program
        self.ending = ""
        """How it ended the last time, in words."""
        self._terminal = terminal
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._restart = False
        """Only what has been ready once is started again: a mistake in a setting is not repeated for ever."""
        self._ended = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stop_signal = signal.SIGTERM

    def start(self) -> None:
        """Start the program; what it prints appears on the terminal from now on."""
        self._task = asyncio.create_task(self._run(), name=f"supervise {self.program.name}")

    def keep_alive(self) -> None:
        """From now on, start it again when it dies."""
        self._restart = True

    async def ended_within(self, seconds: float) -> bool:
        """Wait, at most so long; True as soon as the program has ended once."""
        return await _set_within(self._ended, seconds)

    async def stop(self) -> None:
        """End the program and wait for it: SIGTERM, and SIGKILL when its time is over."""
        self._stopping.set()
        if self._task is None:
            return
        self._send_stop_signal()
        done, _ = await asyncio.wait({self._task}, timeout=self.program.stop_within_s)
        if not done:
            self._terminal.say(f"{self.program.name} did not stop in {self.program.stop_within_s:.0f} s: killing it")
            self.kill()
        await self._task

    def kill(self) -> None:
        """End the program at once, and all that it started."""
        self._stop_signal = signal.SIGKILL
        self._stopping.set()
        self._send_stop_signal()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        deaths = 0
        while not self._stopping.is_set():
            started = clock()
            self.ending = await self._live()
            self._ended.set()
            if self._stopping.is_set():
                self._terminal.say(f"{self.program.name} {self.ending}")
            if self._stopping.is_set() or not self._restart:
                return
            deaths = 1 if clock() - started >= STEADY_AFTER_S else deaths + 1
            delay = _backoff(deaths)
            self._terminal.say(f"{self.program.name} {self.ending}; starting it again in {delay:.1f} s")
            await _set_within(self._stopping, delay)

    async def _live(self) -> str:
        """One life of the program, from its start to its end; how it ended, in words."""
        # A pipe of our own: with asyncio's, wait() may last for as long as anybody, an orphan too, holds it.
        read_end, write_end = os.pipe()
        copying = asyncio.create_task(self._copy_lines(read_end), name=f"output of {self.program.name}")
        try:
            self._process = await self._spawn(write_end)
            if self._stopping.is_set():
                self._send_stop_signal()
            return _in_words(await self._process.wait())
        except OSError as error:
            return f"cannot be started: {error}"
        finally:
            os.close(write_end)
            if self._process is not None:
                # Workers whose master was killed would keep its port, and our pipe.
                _kill_group(self._process.pid)
                self._process = None
            await _finish(copying, LAST_WORDS_S)

    async def _spawn(self, output: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.program.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=self.program.environment,
            start_new_session=True,
            preexec_fn=_end_with_parent(self.program.orphan_signal),
        )

    def _send_stop_signal(self) -> None:
        if self._process is None:
            return
        if self._stop_signal == signal.SIGKILL:
            _kill_group(self._process.pid)
        else:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(self._stop_signal)

    async def _copy_lines(self, read_end: int) -> None:
        lines = asyncio.StreamReader(limit=LONGEST_LINE)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(read_end, "rb", buffering=0)
        )
        try:
            while line := await _next_line(lines):
                self._terminal.line(self.program.name, line.rstrip(b"\r\n"))
        finally:
            pipe.close()


async def _next_line(lines: asyncio.StreamReader) -> bytes:
    try:
        return await lines.readline()
    except ValueError:
        return f"(a line of more than {LONGEST_LINE} bytes is left out)\n".encode()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


async def _finish(task: asyncio.Task[None], within_s: float) -> None:
    """Wait for a task, and cancel it when its time is over."""
    done, _ = await asyncio.wait({task}, timeout=within_s)
    if not done:
        task.cancel()
        await asyncio.wait({task})


def _backoff(deaths: int) -> float:
    longest = min(LONGEST_RESTART_S, FIRST_RESTART_S * 2.0 ** (deaths - 1))
    # With jitter, so that replicas that died together do not come back in step.
    return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing secret


def _in_words(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _end_with_parent(orphan_signal: signal.Signals) -> Callable[[], None] | None:
    """What a child does first: ask the kernel to end it when the supervisor is killed."""
    if sys.platform != "linux":
        return None
    # Looked up here, in the parent: between fork and exec a child does as little as it can.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, int(orphan_signal), 0, 0, 0)
        if os.getppid() != parent:  # it was killed before the kernel was asked
            os._exit(1)

    return before_exec
