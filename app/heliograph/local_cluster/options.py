"""The options of a local cluster."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

MASTER: Final = "heliograph"  # the name by which the Sentinels know the master
CLUSTER_MASTERS: Final = 3  # of a Redis Cluster; each has a replica
SENTINELS: Final = ("sentinel-1", "sentinel-2", "sentinel-3")


class CannotStart(Exception):
    """The cluster cannot start; the text is one line for the person who started it."""


@dataclass(frozen=True, slots=True)
class LocalClusterOptions:
    """The options of `heliograph up`. Ports that are not given follow from `port`, so several clusters fit."""

    replicas: int = 3
    edge: Literal["nginx", "caddy"] = "nginx"
    """The proxy before the replicas. Caddy: for development, where nginx is not installed."""
    port: int = 8080
    """The port of nginx, and so of the console."""
    host: str = "127.0.0.1"
    """The address of nginx. With the loopback address it also listens on `::1` where that exists."""
    first_replica_port: int | None = None
    """The first of `replicas` ports in a row, on 127.0.0.1; `port + 1` by default."""
    redis_port: int | None = None
    """The port of the Redis that is started, on 127.0.0.1; `port - 1` by default."""
    redis_urls: tuple[str, ...] = ()
    """The Redis that runs already, or its shards; then none is started."""
    shards: int = 1
    """How many Redis servers are started, to spread users and channels over, on ports from `redis_port` down."""
    sentinel: bool = False
    """Whether each of them is a master with a replica, watched by three Sentinels."""
    redis_cluster: bool = False
    """Whether Redis is a cluster: three masters with a replica each."""
    console: bool = True
    """Whether the replicas serve the console."""
    connections_per_address: int = 1000
    """How many connections nginx accepts from one address at a time (0: no limit)."""
    replicas_stop_within_s: float = 25.0
    """How long replicas may drain before they are killed; by default 5 s more than their own deadline."""

    @property
    def replica_ports(self) -> range:
        first = self.port + 1 if self.first_replica_port is None else self.first_replica_port
        return range(first, first + self.replicas)

    @property
    def own_redis_port(self) -> int | None:
        """The port of the Redis that this cluster starts; None if it uses another."""
        if self.redis_urls:
            return None
        return self.port - 1 if self.redis_port is None else self.redis_port

    @property
    def redis_ports(self) -> dict[str, int]:
        """The port of each program of the own Redis, by its name; the first server is the first master."""
        if self.own_redis_port is None:
            return {}
        servers = 2 * CLUSTER_MASTERS if self.redis_cluster else self.shards * (2 if self.sentinel else 1)
        names = [f"redis-{number}" for number in range(1, servers + 1)] if servers > 1 else ["redis"]
        names += SENTINELS if self.sentinel else ()
        return {name: self.own_redis_port - number for number, name in enumerate(names)}

    @property
    def redis_bus_ports(self) -> dict[str, int]:
        """The ports on which the servers of a Redis Cluster speak with each other, below the others."""
        if not self.redis_cluster or not self.redis_ports:
            return {}
        lowest = min(self.redis_ports.values())
        return {f"bus-{number}": lowest - number for number in range(1, len(self.redis_ports) + 1)}

    @property
    def masters(self) -> dict[str, tuple[str, str]]:
        """Where Sentinels watch: the name by which they know each master -> the programs of it and of its replica."""
        names = [MASTER, *(f"{MASTER}-{number}" for number in range(2, self.shards + 1))]
        return {name: (f"redis-{2 * i + 1}", f"redis-{2 * i + 2}") for i, name in enumerate(names)}

    @property
    def replica_redis_urls(self) -> tuple[str, ...]:
        """The URL of each shard's Redis for the replicas, and for programs beside them."""
        if self.redis_urls:
            return self.redis_urls
        if self.redis_cluster:
            return (f"redis+cluster://{','.join(f'127.0.0.1:{port}' for port in self.redis_ports.values())}",)
        if not self.sentinel:
            return tuple(f"redis://127.0.0.1:{port}/0" for port in self.redis_ports.values())
        hosts = ",".join(f"127.0.0.1:{self.redis_ports[name]}" for name in SENTINELS)
        return tuple(f"redis+sentinel://{hosts}/0?master={name}" for name in self.masters)

    @property
    def redis_variable(self) -> tuple[str, str]:
        """The variable that says so, and its value."""
        urls = self.replica_redis_urls
        return ("HELIOGRAPH_REDIS__URL", urls[0]) if len(urls) == 1 else ("HELIOGRAPH_REDIS__SHARDS", ",".join(urls))

    @property
    def url(self) -> str:
        """The address of the cluster in a browser."""
        local = self.host in ("127.0.0.1", "0.0.0.0", "::")  # noqa: S104 - compared only
        return f"http://{'localhost' if local else bracketed(self.host)}:{self.port}/"

    def ports(self) -> Iterator[tuple[str, int]]:
        """Yield each program with its port."""
        yield self.edge, self.port
        for number, port in enumerate(self.replica_ports, start=1):
            yield f"replica-{number}", port
        yield from self.redis_ports.items()
        yield from self.redis_bus_ports.items()

    def check(self) -> None:
        """Check for options that cannot work.

        Raises:
            CannotStart: says which.
        """
        if self.replicas < 1:
            raise CannotStart(f"A cluster needs at least one replica, not {self.replicas}.")
        if self.shards < 1:
            raise CannotStart(f"A cluster needs at least one shard, not {self.shards}.")
        chosen = {"--redis-cluster": self.redis_cluster, "--sentinel": self.sentinel, "--shards": self.shards > 1}
        options = [option for option, is_chosen in chosen.items() if is_chosen]
        if self.redis_urls and options:
            raise CannotStart(f"{options[0]} starts Redis servers of its own: unset {self.redis_variable[0]}.")
        if self.redis_cluster and len(options) > 1:
            raise CannotStart(f"--redis-cluster does not go with {options[1]}: a cluster has shards and replicas.")
        if not 0 <= self.connections_per_address <= 65_535:
            raise CannotStart("The connections per address must lie between 0 (no limit) and 65535.")
        owners: dict[int, str] = {}
        for name, port in self.ports():
            if not 1 <= port <= 65_535:
                raise CannotStart(f"{name} would get port {port}; ports lie between 1 and 65535.")
            if port in owners:
                raise CannotStart(f"{owners[port]} and {name} would both get port {port}.")
            owners[port] = name


def bracketed(address: str) -> str:
    """Return an address in the form that URLs and nginx need before a port."""
    return f"[{address}]" if ":" in address else address
