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

# After a life of this length, the back-off starts again.
STEADY_AFTER_S = 30.0
FIRST_RESTART_S = 0.5
LONGEST_RESTART_S = 15.0
LONGEST_LINE = 1024 * 1024
# How long to read the last output of a dead process, which is in the pipe already.
LAST_WORDS_S = 1.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """What to start, and how to stop it."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    stop_within_s: float
    """How long it may take to end after SIGTERM before it is killed."""
    orphan_signal: signal.Signals = signal.SIGKILL
    """The signal that the kernel sends it if the supervisor is killed."""
    stays_down_s: float = 0.0
    """How long it stays down at least, when it has died."""


class Child:
    """Start a program, show its output, and restart it when it dies, with a back-off.

    It runs in a session of its own: Ctrl-C in the terminal reaches only the supervisor, which stops the programs in
    order.
    """

    def __init__(self, program: Program, terminal: Terminal) -> None:
        self.program = program
        self.ending = ""
        """How it ended last, in words."""
        self._terminal = terminal
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._restart = False
        """Restart only a program that was ready once: a wrong setting would fail for ever."""
        self._ended = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stop_signal = signal.SIGTERM

    def start(self) -> None:
        """Start the program, and show its output on the terminal."""
        self._task = asyncio.create_task(self._run(), name=f"supervise {self.program.name}")

    def keep_alive(self) -> None:
        """From now on, restart it when it dies."""
        self._restart = True

    async def ended_within(self, seconds: float) -> bool:
        """Wait for at most `seconds`. Return True as soon as the program has ended once."""
        return await _set_within(self._ended, seconds)

    async def stop(self) -> None:
        """End the program and wait for it: SIGTERM, then SIGKILL after `stop_within_s`."""
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
        """Kill the program and everything that it started."""
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
            delay = max(self.program.stays_down_s, _backoff(deaths))
            self._terminal.say(f"{self.program.name} {self.ending}; starting it again in {delay:.1f} s")
            await _set_within(self._stopping, delay)

    async def _live(self) -> str:
        """Run the program once, from start to end. Return how it ended, in words."""
        # A pipe of our own: with asyncio's, wait() may last as long as any process, an orphan too, holds it.
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
                # Otherwise workers of a killed master would keep its port, and our pipe.
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
    """Wait for a task, and cancel it after `within_s`."""
    done, _ = await asyncio.wait({task}, timeout=within_s)
    if not done:
        task.cancel()
        await asyncio.wait({task})


def _backoff(deaths: int) -> float:
    longest = min(LONGEST_RESTART_S, FIRST_RESTART_S * 2.0 ** (deaths - 1))
    # With jitter, so that replicas that died together do not restart together.
    return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing secret


def _in_words(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _end_with_parent(orphan_signal: signal.Signals) -> Callable[[], None] | None:
    """Return what a child does first: ask the kernel to end it when the supervisor is killed."""
    if sys.platform != "linux":
        return None
    # Look it up in the parent: between fork and exec a child should do as little as possible.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, int(orphan_signal), 0, 0, 0)
        if os.getppid() != parent:  # the supervisor was killed before the kernel was asked
            os._exit(1)

    return before_exec
