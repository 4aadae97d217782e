"""A real master, its replicas and three Sentinels that replace the master when it is gone."""

import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, program

NAME = "cluster"
DOWN_AFTER_MS = 500
# Users of their own: programs, replicas, and the rest (Sentinels and tests) can be cut off from each other.
PROGRAM, COPIER = "program", "copier"
OPTIONS = (
    *("--user", PROGRAM, "on", "nopass", "~*", "&*", "+@all"),
    *("--user", COPIER, "on", "nopass", "~*", "&*", "+@all"),
    *("--masteruser", COPIER, "--masterauth", "any"),
    *("--repl-diskless-sync-delay", "0"),  # a replica need not wait for others
)


class SentinelGroup:
    """`url` names the Sentinels. `options` are for the servers, `sentinel_options` lines for the Sentinels.

    `size`: how many servers, the first master among them. `observers`: further Sentinels, which `url` does not name.
    """

    def __init__(
        self,
        directory: Path,
        *,
        options: Sequence[str] = (),
        sentinel_options: Sequence[str] = (),
        down_after_ms: int = DOWN_AFTER_MS,
        size: int = 2,
        observers: int = 0,
    ) -> None:
        self._directory = directory
        self._sentinel_options = sentinel_options
        self._down_after_ms = down_after_ms
        self.servers = [
            RedisServer(self._made(f"server-{number + 1}"), options=[*OPTIONS, *options]) for number in range(size)
        ]
        self.sentinel_ports = [free_port() for _ in range(3)]
        self.observer_ports = [free_port() for _ in range(observers)]
        self._sentinels: list[subprocess.Popen[bytes]] = []

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)

    @property
    def url(self) -> str:
        return self.url_of(self.sentinel_ports)

    def url_of(self, sentinel_ports: Sequence[int]) -> str:
        """The address for programs that know only these Sentinels."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in sentinel_ports)
        return f"redis+sentinel://{PROGRAM}:any@{hosts}/0?master={NAME}"

    def start(self) -> Self:
        first, *others = self.servers
        first.start()
        for other in others:
            other.start("--replicaof", f"127.0.0.1 {first.port}")
        for number, port in enumerate([*self.sentinel_ports, *self.observer_ports]):
            config = self._made(f"sentinel-{number}") / "sentinel.conf"
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"dir {config.parent}",
                f"logfile {config.parent / 'log'}",
                f"sentinel monitor {NAME} 127.0.0.1 {first.port} 2",
                f"sentinel down-after-milliseconds {NAME} {self._down_after_ms}",
                f"sentinel failover-timeout {NAME} 3000",
                *self._sentinel_options,
            ]
            config.write_text("\n".join(lines) + "\n")
            self._sentinels.append(subprocess.Popen([program(), config, "--sentinel"], stdout=subprocess.DEVNULL))
        deadline = time.monotonic() + 20
        while not self.is_whole():
            assert time.monotonic() < deadline, "the Sentinels do not know the replica and each other"
            time.sleep(0.1)
        return self

    def master(self) -> RedisServer:
        """The server that the first Sentinel names as the master, though it may be down."""
        port = int(self.ask_sentinel("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME).split()[1])
        [found] = [server for server in self.servers if server.port == port]
        return found

    def replicas(self) -> list[RedisServer]:
        """The servers that are not the master, as far as the first Sentinel knows."""
        master = self.master()
        return [server for server in self.servers if server is not master]

    def is_whole(self) -> bool:
        """True if the replicas follow the master, and the first Sentinel knows all servers and all Sentinels."""
        known = _facts(self.ask_sentinel("SENTINEL", "MASTER", NAME))
        copies, others = len(self.servers) - 1, len(self._sentinels) - 1
        if known.get("flags") != "master" or known.get("num-other-sentinels") != str(others):
            return False
        flags = re.findall(r"^flags\n(.*)$", self.ask_sentinel("SENTINEL", "REPLICAS", NAME), re.MULTILINE)
        return (
            flags == ["slave"] * copies
            and f"connected_slaves:{copies}" in self.master().command("INFO", "replication")
            and all("master_link_status:up" in each.command("INFO", "replication") for each in self.replicas())
        )

    def revive(self, server: RedisServer) -> None:
        """Start a server that was stopped, as the replica of the present master."""
        server.start("--replicaof", f"127.0.0.1 {self.master().port}")

    def hold_back(self, replica: RedisServer) -> None:
        """From now on the replica hears nothing from its master."""
        replica.command("CONFIG", "SET", "masteruser", "nobody")
        replica.command("CLIENT", "KILL", "TYPE", "master")

    def let_copy(self, replica: RedisServer) -> None:
        """Undo `hold_back`."""
        replica.command("CONFIG", "SET", "masteruser", COPIER)

    def cut_off(self, master: RedisServer) -> None:
        """From now on neither Sentinels nor replicas reach the master, but programs do; observers are silent."""
        self._signal_observers(signal.SIGSTOP)
        master.command("ACL", "SETUSER", "default", "-@all", "+acl", "+client")
        master.command("ACL", "SETUSER", COPIER, "off")
        master.command("CLIENT", "KILL", "USER", COPIER)

    def reconnect(self, master: RedisServer) -> None:
        """Undo `cut_off`."""
        self._signal_observers(signal.SIGCONT)
        master.command("ACL", "SETUSER", COPIER, "on")
        master.command("ACL", "SETUSER", "default", "+@all")

    def _signal_observers(self, number: signal.Signals) -> None:
        for observer in self._sentinels[len(self.sentinel_ports) :]:
            observer.send_signal(number)

    def stop_sentinel(self, number: int) -> None:
        self._sentinels[number].kill()
        self._sentinels[number].wait()

    def stop(self) -> None:
        for sentinel in self._sentinels:
            sentinel.kill()
            sentinel.wait()
        for server in self.servers:
            server.stop()

    def ask_sentinel(self, *words: str) -> str:
        done = subprocess.run(
            ["redis-cli", "-p", str(self.sentinel_ports[0]), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        return done.stdout.strip()

    def _made(self, name: str) -> Path:
        made = self._directory / name
        made.mkdir(parents=True)
        return made


def _facts(answer: str) -> dict[str, str]:
    """What a Sentinel says of a server: names and values, each on a line."""
    lines = answer.split("\n")
    return dict(zip(lines[::2], lines[1::2], strict=False))
