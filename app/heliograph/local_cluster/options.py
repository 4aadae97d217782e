"""What a person can choose about a local cluster."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


class CannotStart(Exception):
    """The cluster cannot run; the text is one line for the person who started it."""


@dataclass(frozen=True, slots=True)
class LocalClusterOptions:
    """The choices of `heliograph up`. Ports that are not given follow from `port`: several clusters fit."""

    replicas: int = 3
    edge: Literal["nginx", "caddy"] = "nginx"
    """What stands before the replicas. Caddy: for development, where nginx is not installed."""
    port: int = 8080
    """Where nginx listens, and with it the console."""
    host: str = "127.0.0.1"
    """The address nginx listens on; with the loopback address it also listens on `::1` where there is one."""
    first_replica_port: int | None = None
    """Of `replicas` ports in a row, on 127.0.0.1; `port + 1` by default."""
    redis_port: int | None = None
    """Of the Redis that is started, on 127.0.0.1; `port - 1` by default."""
    redis_url: str | None = None
    """A Redis that runs already; none is started then."""
    console: bool = True
    """Whether the replicas serve one."""
    connections_per_address: int = 1000
    """How many connections nginx accepts from one address at a time (0: no limit)."""
    replicas_stop_within_s: float = 25.0
    """How long they may drain, by default 5 s more than their own deadline; then they are killed."""

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
    def replica_redis_url(self) -> str:
        return self.redis_url or f"redis://127.0.0.1:{self.own_redis_port}/0"

    @property
    def url(self) -> str:
        """Where a person finds the cluster."""
        local = self.host in ("127.0.0.1", "0.0.0.0", "::")  # noqa: S104 - compared only
        return f"http://{'localhost' if local else bracketed(self.host)}:{self.port}/"

    def ports(self) -> Iterator[tuple[str, int]]:
        """Who listens on which port."""
        yield self.edge, self.port
        for number, port in enumerate(self.replica_ports, start=1):
            yield f"replica-{number}", port
        if self.own_redis_port is not None:
            yield "redis", self.own_redis_port

    def check(self) -> None:
        """Find choices that cannot work.

        Raises:
            CannotStart: saying which.
        """
        if self.replicas < 1:
            raise CannotStart(f"A cluster needs at least one replica, not {self.replicas}.")
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
    """An address as URLs and nginx want it, before a port."""
    return f"[{address}]" if ":" in address else address
