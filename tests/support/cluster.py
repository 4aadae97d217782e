"""The whole cluster as a person starts it: `python -m heliograph up`, on free ports, in processes of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.support.ports import free_port_block

ROOT = Path(__file__).parents[2]
# ip_hash looks at the first three octets: these reach three different replicas of three.
SOURCES = ("127.0.0.1", "127.0.1.1", "127.0.2.1")


class LocalClusterProcess:
    """`with LocalClusterProcess(log) as cluster:` is ready when the block begins, and gone when it ends."""

    def __init__(
        self,
        log: Path,
        *,
        replicas: int = 3,
        own_session: bool = False,
        sentinel: bool = False,
        redis_cluster: bool = False,
        **environment: str,
    ) -> None:
        """`own_session`: Ctrl-C in this terminal does not reach it."""
        below = 11 if redis_cluster else 4 if sentinel else 0  # other servers of Redis, and what they listen on
        first = free_port_block(below + replicas + 2) + below  # Redis, nginx, replicas
        self.port = first + 1
        self.url = f"http://127.0.0.1:{self.port}"
        self.redis_port = first
        self.log = log
        self._replicas = replicas
        self._own_session = own_session
        self._options = ["--sentinel"] * sentinel + ["--redis-cluster"] * redis_cluster
        self._environment = {**os.environ, "HELIOGRAPH_AUTH__MODE": "open", **environment}
        self.process: subprocess.Popen[bytes]

    @property
    def replica_ports(self) -> range:
        return range(self.port + 1, self.port + 1 + self._replicas)

    def __enter__(self) -> Self:
        command = [
            sys.executable,
            "-m",
            "heliograph",
            "up",
            "--replicas",
            str(self._replicas),
            "--port",
            str(self.port),
            *self._options,
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=self._own_session,
            )
        try:
            self.wait(lambda: self.status("/ready") == 200 and "the cluster is ready" in self.output(), within_s=60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            finally:
                for pid in self.pids().values():
                    os.kill(pid, signal.SIGKILL)

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def wait(self, condition: Any, *, within_s: float) -> None:
        """Wait for what has no event to wait for: other processes."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"not true within {within_s} s; it printed:\n{self.output()[-4000:]}"
            assert self.process.poll() is None, f"the cluster ended; it printed:\n{self.output()[-4000:]}"
            time.sleep(0.05)

    def status(self, path: str, replica: int = 0) -> int:
        """The HTTP status of a path through nginx, or of the replica with this number; 0 if nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port + replica}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def members(self) -> dict[str, dict[str, Any]]:
        """The replicas by name, as /api/cluster lists them."""
        with urllib.request.urlopen(self.url + "/api/cluster", timeout=5) as response:
            return {replica["name"]: replica for replica in json.load(response)["replicas"]}

    async def redis_cli(self, *words: str) -> str:
        """Run a command in the cluster's Redis; what it prints."""
        done = await asyncio.create_subprocess_exec(
            "redis-cli", "-p", str(self.redis_port), *words, stdout=subprocess.PIPE
        )
        output, _ = await done.communicate()
        return output.decode().strip()

    def pids(self) -> dict[str, int]:
        """The processes of the cluster: replica-1 … , nginx, redis."""
        return children(self.process.pid)


def children(parent: int) -> dict[str, int]:
    """The direct children of a process, by what they are."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or int((entry / "stat").read_text().rpartition(")")[2].split()[1]) != parent:
                continue
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if not words[0].strip():  # it has ended, and was not waited for yet
            continue
        name = words[words.index("--name") + 1] if "--name" in words else Path(words[0].split()[0].rstrip(":")).name
        found[name.removesuffix("-server")] = int(entry.name)
    return found


def alive(pid: int) -> bool:
    """True if the process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
