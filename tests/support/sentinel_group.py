"""A real master, its replica and three Sentinels that replace the master when it is gone."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, program

NAME = "cluster"
DOWN_AFTER_MS = 500


class SentinelGroup:
    """`url` names the Sentinels. `options` are for the servers, `sentinel_options` lines for the Sentinels."""

    def __init__(
        self,
        directory: Path,
        *,
        options: Sequence[str] = (),
        sentinel_options: Sequence[str] = (),
    ) -> None:
        self._directory = directory
        self._sentinel_options = sentinel_options
        options = ("--repl-diskless-sync-delay", "0", *options)
        self.servers = [RedisServer(self._made(f"server-{number}"), options=options) for number in (1, 2)]
        self.sentinel_ports = [free_port() for _ in range(3)]
        self._sentinels: list[subprocess.Popen[bytes]] = []

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.hosts}/0?master={NAME}"

    def start(self) -> Self:
        first, second = self.servers
        first.start()
        second.start()
        second.command("REPLICAOF", "127.0.0.1", str(first.port))
        for number, port in enumerate(self.sentinel_ports):
            config = self._made(f"sentinel-{number}") / "sentinel.conf"
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"dir {config.parent}",
                f"sentinel monitor {NAME} 127.0.0.1 {first.port} 2",
                f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
                f"sentinel failover-timeout {NAME} 3000",
                *self._sentinel_options,
            ]
            config.write_text("\n".join(lines) + "\n")
            self._sentinels.append(subprocess.Popen([program(), config, "--sentinel"], stdout=subprocess.DEVNULL))
        deadline = time.monotonic() + 20
        while not self._is_complete():
            assert time.monotonic() < deadline, "the Sentinels do not know the replica and each other"
            time.sleep(0.1)
        return self

    def master(self) -> RedisServer:
        """The server that says that it is the master."""
        [found] = [server for server in self.servers if server.command("ROLE").startswith("master")]
        return found

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

    def _is_complete(self) -> bool:
        words = self.ask_sentinel("SENTINEL", "MASTER", NAME).split("\n")
        facts = dict(zip(words[::2], words[1::2], strict=False))
        in_step = "state=online" in self.servers[0].command("INFO", "replication")
        return in_step and facts.get("num-slaves") == "1" and facts.get("num-other-sentinels") == "2"

    def _made(self, name: str) -> Path:
        made = self._directory / name
        made.mkdir(parents=True)
        return made
