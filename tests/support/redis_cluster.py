"""A real Redis Cluster: masters that share the slots, a replica for each, and what happens to them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from redis import Redis

from heliograph.backends.redis.cluster.tags import SLOTS, balanced_tags, slot_of
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

NODE_TIMEOUT_MS = 1000  # a master that is silent for so long is replaced


class RedisCluster:
    """`masters` that share the slots, with a replica each if `replicas`. `url` names all of them.

    `server`: see `RedisServer`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        masters: int = 3,
        replicas: bool = False,
        virtual_shards: int = 1,
        server: str | None = None,
    ) -> None:
        self.virtual_shards = virtual_shards
        self._program = server
        self._size = masters
        self.servers = [self._server(directory / str(number)) for number in range(masters * (1 + replicas))]

    def _server(self, directory: Path) -> RedisServer:
        directory.mkdir(parents=True)
        options = [
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--cluster-port", str(free_port()), "--cluster-replica-validity-factor", "0"),
            *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
            *("--repl-ping-replica-period", "1", "--enable-debug-command", "yes"),
        ]
        return RedisServer(directory, appendonly=True, options=options, server=self._program)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"redis+cluster://{hosts}?virtual_shards={self.virtual_shards}"

    @property
    def slots(self) -> list[int]:
        """The slot of each virtual shard."""
        return [slot_of(tag) for tag in balanced_tags(self.virtual_shards)]

    def start(self) -> Self:
        for number, server in enumerate(self.servers):
            server.start()
            server.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        size, first = self._size, self.servers[0]
        for number, server in enumerate(self.servers[:size]):
            start, end = SLOTS * number // size, SLOTS * (number + 1) // size - 1
            server.command("CLUSTER", "ADDSLOTSRANGE", str(start), str(end))
        for server in self.servers[1:]:
            bus_port = server.command("CONFIG", "GET", "cluster-port").split()[1]
            first.command("CLUSTER", "MEET", "127.0.0.1", str(server.port), bus_port)
        self._wait(lambda: all(len(self._lines(server)) == len(self.servers) for server in self.servers))
        for number, replica in enumerate(self.servers[size:]):
            replica.command("CLUSTER", "REPLICATE", self.id_of(self.servers[number]))
        self._wait(self.is_whole)
        return self

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def is_whole(self) -> bool:
        """Whether every server knows that all slots are served, and every replica has what its master has."""
        return all("cluster_state:ok" in server.command("CLUSTER", "INFO") for server in self.servers) and all(
            "role:master" in facts or "master_link_status:up" in facts
            for facts in (server.command("INFO", "replication") for server in self.servers)
        )

    def wait_until_whole(self) -> None:
        self._wait(self.is_whole)

    def owner(self, slot: int) -> RedisServer:
        """The server that says that it owns the slot."""
        found: list[RedisServer] = []

        def is_one() -> bool:
            found[:] = [server for server in self.servers if server.is_running and self._owns(server, slot)]
            return len(found) == 1

        self._wait(is_one)
        return found[0]

    def another(self, slot: int) -> RedisServer:
        """A master that does not own the slot."""
        owner = self.owner(slot)
        return next(
            server for server in self.servers if server is not owner and server.command("ROLE").startswith("master")
        )

    def replica_of(self, master: RedisServer) -> RedisServer:
        name = self.id_of(master)
        return next(
            server
            for server in self.servers
            if any("myself" in line and f" {name} " in line.partition("myself")[2] for line in self._lines(server))
        )

    def id_of(self, server: RedisServer) -> str:
        return server.command("CLUSTER", "MYID")

    def begin_move(self, slot: int, target: RedisServer) -> RedisServer:
        """The slot is importing and migrating from now on, and nothing has moved yet. Returns the present owner."""
        source = self.owner(slot)
        target.command("CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.id_of(source))
        source.command("CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.id_of(target))
        return source

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, *, most: int | None = None) -> None:
        """Move the keys of a slot, or `most` of them."""
        with Redis.from_url(source.url) as asked:
            while most is None or most > 0:
                keys: list[bytes] = asked.execute_command("CLUSTER", "GETKEYSINSLOT", slot, min(most or 100, 100))
                if not keys:
                    return
                asked.migrate("127.0.0.1", target.port, keys, 0, 5000)
                most = None if most is None else most - len(keys)

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        name = self.id_of(target)
        for server in dict.fromkeys((target, source, *self.servers)):
            server.command("CLUSTER", "SETSLOT", str(slot), "NODE", name)

    def move(self, slot: int, target: RedisServer | None = None) -> None:
        """Move a slot to another master, as `redis-cli --cluster reshard` does."""
        target = target or self.another(slot)
        source = self.begin_move(slot, target)
        self.move_keys(slot, source, target)
        self.end_move(slot, source, target)

    def move_at_once(self, slot: int) -> None:
        """Move a slot to another master in one step, as Valkey 9 does."""
        source, target = self.owner(slot), self.another(slot)
        asked = ("SLOTSRANGE", str(slot), str(slot), "NODE", self.id_of(target))
        assert source.command("CLUSTER", "MIGRATESLOTS", *asked) == "OK"
        self._wait(lambda: self.owner(slot) is target)

    def fail_over(self, master: RedisServer) -> RedisServer:
        """Have the master replaced by its replica in an orderly way; returns that."""
        replica = self.replica_of(master)
        assert replica.command("CLUSTER", "FAILOVER") == "OK"
        self._wait(lambda: replica.command("ROLE").startswith("master"))
        return replica

    def _owns(self, server: RedisServer, slot: int) -> bool:
        for line in self._lines(server):
            _, _, flags, *_ = words = line.split()
            if "myself" in flags:
                return "master" in flags and any(_holds(each, slot) for each in words[8:])
        return False

    def _lines(self, server: RedisServer) -> Sequence[str]:
        return server.command("CLUSTER", "NODES").splitlines()

    def _wait(self, condition: Callable[[], bool], within_s: float = 20) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, "the cluster is not whole: " + self.servers[0].command(
                "CLUSTER", "NODES"
            )
            time.sleep(0.05)


def _holds(words: str, slot: int) -> bool:
    """True if what CLUSTER NODES says of a range of slots includes the slot."""
    if words.startswith("["):
        return False
    first, _, last = words.partition("-")
    return int(first) <= slot <= int(last or first)
