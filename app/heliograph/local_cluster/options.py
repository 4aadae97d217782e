"""The options of a local cluster."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

MASTER: Final = "heliograph"  # the name by which the Sentinels know the master
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
    redis_url: str | None = None
    """A Redis that runs already; then none is started."""
    sentinel: bool = False
    """Whether Redis is a master with a replica and three Sentinels, on ports from `redis_port` down."""
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
        if self.redis_url is not None:
            return None
        return self.port - 1 if self.redis_port is None else self.redis_port

    @property
    def redis_ports(self) -> dict[str, int]:
        """The port of each program of the own Redis, by its name; the first server is the first master."""
        if self.own_redis_port is None:
            return {}
        names = ("redis-1", "redis-2", *SENTINELS) if self.sentinel else ("redis",)
        return {name: self.own_redis_port - number for number, name in enumerate(names)}

    @property
    def replica_redis_url(self) -> str:
        """The URL of Redis for the replicas, and for programs beside them."""
        if self.redis_url is not None or not self.sentinel:
            return self.redis_url or f"redis://127.0.0.1:{self.own_redis_port}/0"
        hosts = ",".join(f"127.0.0.1:{self.redis_ports[name]}" for name in SENTINELS)
        return f"redis+sentinel://{hosts}/0?master={MASTER}"

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

    def check(self) -> None:
        """Check for options that cannot work.

        Raises:
            CannotStart: says which.
        """
        if self.replicas < 1:
            raise CannotStart(f"A cluster needs at least one replica, not {self.replicas}.")
        if self.sentinel and self.redis_url is not None:
            raise CannotStart("--sentinel starts a Redis of its own: unset HELIOGRAPH_REDIS__URL.")
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
