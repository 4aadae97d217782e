"""Starting and stopping what is measured, each on its own core, and what it has used."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from loadtest.bench.systems import HOME, PEERS, ROOT, System

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

TICKS = os.sysconf("SC_CLK_TCK")
OPEN_FILES = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 100_000)
SERVER_CORE, OTHER_CORE = 0, 1  # the client and Redis share the other, for all systems alike


def free_port() -> int:
    """A port that nobody listens on, below those that outgoing connections take."""
    for _ in range(100):
        port = random.randint(12_000, 30_000)  # noqa: S311 - not a secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free")


def pinned(core: int, command: list[str]) -> list[str]:
    limit = ["prlimit", f"--nofile={OPEN_FILES}:{OPEN_FILES}", *command]
    if (os.cpu_count() or 1) < 2 or shutil.which("taskset") is None:
        return limit
    return ["taskset", "-c", str(core), *limit]


class Server:
    """`with Server(...) as server:` a process that listens, and its children; all are stopped at the block's end."""

    def __init__(self, command: list[str], port: int, core: int, environment: dict[str, str], log: Path) -> None:
        self.port = port
        self._command = command
        self._core = core
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - commands of ours
                pinned(self._core, self._command), stdout=log, stderr=log, cwd=ROOT, env=self._environment
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._command[0]} ended at once; see {self._log}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self._command[0]} does not listen; see {self._log}")

    def _stop(self) -> None:
        self._end(self.pids)

    def _end(self, pids: list[int]) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._process.wait()

    @property
    def pids(self) -> list[int]:
        """The process, and what it has started."""
        found, i = [self._process.pid], 0
        while i < len(found):
            with suppress(OSError):
                found += map(int, Path(f"/proc/{found[i]}/task/{found[i]}/children").read_text().split())
            i += 1
        return found

    @property
    def cpu_s(self) -> tuple[float, float]:
        """User and system time of all of them."""
        user = system = 0
        for pid in self.pids:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            user += int(fields[11])
            system += int(fields[12])
        return user / TICKS, system / TICKS

    @property
    def running_s(self) -> float:
        """As `cpu_s`, in one and to the nanosecond: for what costs next to nothing."""
        spent = 0
        for pid in self.pids:
            for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with suppress(OSError):
                    spent += int(task.read_text().split()[0])
        return spent / 1e9

    def metric(self, name: str) -> float:
        """What `/metrics` of a replica of Heliograph says; all labels added up if there are several."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    @property
    def memory_kib(self) -> int:
        """Resident, of all of them."""
        pages = 0
        for pid in self.pids:
            try:
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                continue
        return pages * os.sysconf("SC_PAGESIZE") // 1024


def redis_server(log: Path) -> Server:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    command += ["--client-output-buffer-limit", "pubsub", "0", "0", "0"]
    return Server(command, port, OTHER_CORE, dict(os.environ), log)


def server_of(system: System, redis_port: int, log: Path, settings: Mapping[str, str]) -> Server:
    """`settings`: of its environment, for this measurement only."""
    port = free_port()
    url = f"redis://127.0.0.1:{redis_port}/0"
    environment = {**os.environ, "REDIS_URL": url, "HELIOGRAPH_REDIS__URL": url, "NODE_ENV": "production"}
    environment["CENTRIFUGO_ENGINE_REDIS_ADDRESS"] = url.rpartition("/")[0]
    if "uvicorn" in system.command(port, redis_port):
        environment["PYTHONPATH"] = str(PEERS)
    environment |= system.environment | dict(settings)
    return Server(system.command(port, redis_port), port, SERVER_CORE, environment, log)


def client_command(program: str = "client") -> list[str]:
    return pinned(OTHER_CORE, [str(HOME / program)])
