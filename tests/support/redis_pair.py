"""A real master and its replica without Sentinels: the tests replace the master themselves."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.redis_server import RedisServer


def has_copied(master: RedisServer, up_to: int) -> bool:
    """True if a replica has said that it has the master's writes up to there (see `written`).

    Redis may say `online` up to a second before it sends a replica anything, with the offset at which it begins.
    """
    found = re.search(r"state=online,offset=(\d+)", master.command("INFO", "replication"))
    return found is not None and int(found[1]) >= up_to


def written(master: RedisServer) -> int:
    """Return how far the master's writes have come, in bytes."""
    return int(master.command("INFO", "replication").partition("master_repl_offset:")[2].split()[0])


class RedisPair:
    """`master` and `replica` change places with `promote`."""

    def __init__(self, directory: Path, *, options: Sequence[str] = ()) -> None:
        for name in ("one", "two"):
            (directory / name).mkdir()
        self.master, self.replica = [
            RedisServer(directory / name, options=("--repl-diskless-sync-delay", "0", *options))
            for name in ("one", "two")
        ]

    def start(self) -> Self:
        self.master.start()
        self.replica.start()
        self.follow()
        return self

    def follow(self) -> None:
        """Have the replica follow the master, and wait until it does."""
        self.replica.command("REPLICAOF", "127.0.0.1", str(self.master.port))
        self._wait("master_link_status:up")
        self.master.command("PUBLISH", "any", "something")  # replicas get it too: there is something to copy
        top, deadline = written(self.master), time.monotonic() + 10
        while not has_copied(self.master, top):
            assert time.monotonic() < deadline, "the replica does not follow"
            time.sleep(0.02)

    def part(self) -> None:
        """Have the replica stand still where it is: what the master writes from now on it does not get."""
        self.replica.command("REPLICAOF", "127.0.0.1", "1")
        self._wait("master_link_status:down")

    def promote(self) -> None:
        """Make the replica the master. The old master goes on until somebody stops it."""
        self.replica.command("REPLICAOF", "NO", "ONE")
        self.master, self.replica = self.replica, self.master

    def stop(self) -> None:
        self.master.stop()
        self.replica.stop()

    def _wait(self, text: str) -> None:
        deadline = time.monotonic() + 10
        while text not in self.replica.command("INFO", "replication"):
            assert time.monotonic() < deadline, f"the replica does not say {text}"
            time.sleep(0.02)
