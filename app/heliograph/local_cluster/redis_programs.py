"""The Redis of a local cluster: a server for each shard, or a master with a replica, and three Sentinels.

A Redis Cluster is in `redis_cluster.py`.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from heliograph.local_cluster.child import Program
from heliograph.local_cluster.machine import find_redis
from heliograph.local_cluster.options import SENTINELS, LocalClusterOptions
from heliograph.local_cluster.programs import OTHERS_STOP_WITHIN_S, Part, ask_redis, why

DOWN_AFTER_MS: Final = 1000  # the Sentinels replace a master that has not answered for so long
# A master that is back before that is not replaced. This one stays away, so that a reader can watch it happen.
STAYS_DOWN_S: Final = 5.0

Setting = tuple[str, str]
Problem = Callable[[int], Awaitable[str | None]]  # what is wrong with the server on a port; None: nothing
COMMON: Final[tuple[Setting, ...]] = (
    ("bind", "127.0.0.1"),
    ("save", '""'),
    ("maxmemory-policy", "noeviction"),
    ("client-output-buffer-limit", "pubsub 32mb 8mb 60"),
)


def redis_stages(options: LocalClusterOptions, directory: Path) -> list[list[Part]]:
    """Return the programs of the cluster's Redis, on loopback only. None if the options name another Redis.

    Sentinels come when the replicas are attached: they ask a master for them at once, and then every ten seconds.
    """
    ports = options.redis_ports
    if not options.sentinel:
        return [[_server(name, port, directory, [("appendonly", "no")]) for name, port in ports.items()]]
    # What a server loses when it is restarted would be lost in its replica too.
    kept = [("appendonly", "yes"), ("repl-diskless-sync-delay", "0")]
    servers = []
    for master, replica in options.masters.values():
        copied = ("replicaof", f"127.0.0.1 {ports[master]}")
        servers += [_kept_server(master, ports[master], directory, kept, _redis_problem)]
        servers += [_kept_server(replica, ports[replica], directory, [*kept, copied], _replica_problem)]
    watched = {name: ports[master] for name, (master, _) in options.masters.items()}
    return [servers, [_sentinel(name, ports[name], directory, watched) for name in SENTINELS]]


def _server(name: str, port: int, directory: Path, settings: list[Setting]) -> Part:
    return redis_part(name, port, directory, [*COMMON, *settings])


def _kept_server(name: str, port: int, directory: Path, settings: list[Setting], problem: Problem) -> Part:
    settings = [*COMMON, *settings]
    return redis_part(name, port, directory, settings, stays_down_s=STAYS_DOWN_S, problem=lambda: problem(port))


def _sentinel(name: str, port: int, directory: Path, watched: Mapping[str, int]) -> Part:
    """`watched`: the port of each master, by its name."""
    settings = [("bind", "127.0.0.1")]
    for master, its_port in watched.items():
        settings += [
            ("sentinel", f"monitor {master} 127.0.0.1 {its_port} 2"),
            ("sentinel", f"down-after-milliseconds {master} {DOWN_AFTER_MS}"),
            ("sentinel", f"failover-timeout {master} {5 * DOWN_AFTER_MS}"),
        ]
    return redis_part(name, port, directory, settings, "--sentinel", problem=lambda: _sentinel_problem(port, watched))


def redis_part(
    name: str,
    port: int,
    directory: Path,
    settings: list[Setting],
    *flags: str,
    stays_down_s: float = 0.0,
    files: Mapping[str, str] | None = None,
    problem: Callable[[], Awaitable[str | None]] | None = None,
) -> Part:
    """Return a program with a directory and a configuration of its own, which it may rewrite.

    `files`: others in that directory, by name. `problem`: see `Part`; by default, whether it answers.
    """
    own = directory / name
    own.mkdir()
    configuration = own / "redis.conf"
    lines = [("port", str(port)), ("dir", f'"{own}"'), *settings]
    configuration.write_text("".join(f"{setting} {value}\n" for setting, value in lines))
    for file, text in (files or {}).items():
        (own / file).write_text(text)
    argv = (find_redis(), str(configuration), *flags)
    program = Program(name, argv, dict(os.environ), OTHERS_STOP_WITHIN_S, stays_down_s=stays_down_s)
    return Part(program, problem or (lambda: _redis_problem(port)))


async def _redis_problem(port: int) -> str | None:
    try:
        # A line ends the answer: a Sentinel does not close the connection, not even after QUIT.
        answer = await ask_redis(port, "PING", b"\n")
    except OSError as error:
        return why(error)
    return None if answer.startswith(b"+PONG") else f"PING is answered with {answer[:100]!r}"


async def _replica_problem(port: int) -> str | None:
    try:
        answer = await ask_redis(port, "INFO replication", b"\r\nmaster_last_io")
    except OSError as error:
        return why(error)
    return None if b"master_link_status:up" in answer else "it has not attached to its master"


async def _sentinel_problem(port: int, watched: Mapping[str, int]) -> str | None:
    """Say what keeps a Sentinel from replacing a master."""
    for master in watched:
        try:
            answer = await ask_redis(port, f"SENTINEL MASTER {master}", b"\r\nquorum")
        except OSError as error:
            return why(error)
        lines = answer.split(b"\r\n")
        replicas, others = (int(lines[lines.index(name) + 2]) for name in (b"num-slaves", b"num-other-sentinels"))
        if replicas < 1 or others < len(SENTINELS) - 1:
            return f"it knows {replicas} replicas of {master}, and {others} other Sentinels"
    return None
