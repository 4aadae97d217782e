"""A Redis Cluster of a local cluster: three masters that share the slots, and a replica of each.

Each server starts with a file that names all of them, as it would write it itself, so nothing has to be formed.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from heliograph.local_cluster.options import CLUSTER_MASTERS, LocalClusterOptions
from heliograph.local_cluster.programs import Part, ask_redis, why
from heliograph.local_cluster.redis_programs import COMMON, DOWN_AFTER_MS, STAYS_DOWN_S, Setting, redis_part

SLOTS: Final = 16_384
NODES_FILE: Final = "nodes.conf"
SETTINGS: Final[tuple[Setting, ...]] = (
    ("cluster-enabled", "yes"),
    ("cluster-config-file", NODES_FILE),
    ("cluster-node-timeout", str(DOWN_AFTER_MS)),
    ("cluster-require-full-coverage", "no"),  # a master that is gone takes only its own slots with it
    ("cluster-replica-validity-factor", "0"),
    ("repl-diskless-sync-delay", "0"),
    ("appendonly", "yes"),  # what a server loses when it is restarted would be lost in its replica too
)


class ClusterServers:
    """The servers, each with an id that is its name among them. The first are the masters."""

    def __init__(self, options: LocalClusterOptions) -> None:
        self._ports = options.redis_ports
        self._bus_ports = list(options.redis_bus_ports.values())
        self._ids = [secrets.token_hex(20) for _ in self._ports]

    def parts(self, directory: Path) -> list[Part]:
        """Return the programs, on loopback only. Each has its file `nodes.conf` in `directory` already."""
        return [self._part(number, name, directory) for number, name in enumerate(self._ports)]

    def what_to_try(self) -> Iterator[str]:
        """Yield what a reader can break, and where to watch it."""
        ports = list(self._ports.values())
        masters, copies = ports[:CLUSTER_MASTERS], ports[CLUSTER_MASTERS:]
        first, second = self._ids[:2]
        yield f"masters: ports {_listed(masters)}; their replicas: ports {_listed(copies)}"
        yield f"move slots: redis-cli --cluster reshard 127.0.0.1:{masters[0]} --cluster-yes --cluster-slots 2000 \\"
        yield f"            --cluster-from {first} --cluster-to {second}"
        its_pid = f"redis-cli -p {masters[0]} INFO server | sed -n 's/process_id:\\([0-9]*\\).*/\\1/p'"
        yield f"kill one:   kill -9 $({its_pid})"
        yield f"watch:      redis-cli --cluster check 127.0.0.1:{masters[1]}, and what the replicas say here"

    def _part(self, number: int, name: str, directory: Path) -> Part:
        settings = [*COMMON, *SETTINGS, ("cluster-port", str(self._bus_ports[number]))]
        port = self._ports[name]
        return redis_part(
            name,
            port,
            directory,
            settings,
            stays_down_s=STAYS_DOWN_S,
            files={NODES_FILE: self._nodes(number)},
            problem=lambda: _problem(port),
        )

    def _nodes(self, myself: int) -> str:
        lines = []
        for number, (node, port, bus) in enumerate(
            zip(self._ids, self._ports.values(), self._bus_ports, strict=True)
        ):
            me, epoch = "myself," if number == myself else "", number + 1
            if number < CLUSTER_MASTERS:
                first, last = (SLOTS * (number + i) // CLUSTER_MASTERS for i in (0, 1))
                rest = f"{me}master - 0 0 {epoch} connected {first}-{last - 1}"
            else:
                master = number - CLUSTER_MASTERS
                rest = f"{me}slave {self._ids[master]} 0 0 {master + 1} connected"
            lines.append(f"{node} 127.0.0.1:{port}@{bus} {rest}")
        return "\n".join([*lines, f"vars currentEpoch {len(lines)} lastVoteEpoch 0", ""])


def _listed(ports: list[int]) -> str:
    return ", ".join(map(str, ports))


async def _problem(port: int) -> str | None:
    try:
        answer = await ask_redis(port, "CLUSTER INFO", b"\r\ncluster_slots")
    except OSError as error:
        return why(error)
    return None if b"cluster_state:ok" in answer else "the cluster is not whole"
