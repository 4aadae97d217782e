"""The source addresses of users, chosen so that `ip_hash` spreads them over all replicas.

nginx hashes the first three octets of an IPv4 address. So all of 127.0.0.x lands on one replica; 127.0.1.x may land
on another. One request from each /24, through nginx, shows where it leads.
"""

import http.client
import itertools
import json
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

LOOPBACK = [f"127.0.{octet}" for octet in range(256)]
PROBES = 24  # /24s that are asked in any case; all of them only if a replica is still without one
ANSWER_S = 5.0


class CannotSpread(Exception):
    """The load would not be what it says it is; the text is one line for the person who started it."""


@dataclass(frozen=True)
class Target:
    """Where nginx listens."""

    host: str
    address: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port or 80
        except ValueError:  # the port is no number
            host, port = None, 0
        if parts.scheme != "http" or not host:
            raise CannotSpread(f"The cluster's address must be like http://127.0.0.1:8080, not {url!r}.")
        try:
            found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            raise CannotSpread(f"{host} has no IPv4 address: {error}.") from None
        return cls(host, str(found[0][4][0]), port)

    def get(self, path: str, source: str | None = None) -> tuple[int, Any]:
        """The status and, if it is JSON, the body. Of what is not JSON, a stream for one, nothing is read."""
        bound = (source, 0) if source else None
        connection = http.client.HTTPConnection(self.address, self.port, timeout=ANSWER_S, source_address=bound)
        try:
            connection.request("GET", path, headers={"Host": f"{self.host}:{self.port}"})
            response = connection.getresponse()
            if response.headers.get_content_type() != "application/json":
                return response.status, None
            return response.status, json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            came_from = f" from {source}" if source else ""
            raise CannotSpread(
                f"http://{self.host}:{self.port}{path} cannot be reached{came_from}: {error}."
            ) from None
        finally:
            connection.close()


@dataclass
class Sources:
    """The addresses to come from, by the replica they lead to."""

    networks: dict[str, list[str]]
    _next: dict[str, Iterator[str]] = field(default_factory=dict, repr=False)

    @property
    def replicas(self) -> list[str]:
        return sorted(self.networks)

    def towards(self, replica: str) -> str:
        """Another address that leads to this replica."""
        if replica not in self._next:
            self._next[replica] = itertools.cycle(_addresses(self.networks[replica]))
        return next(self._next[replica])

    def describe(self) -> list[str]:
        """One line for each replica."""
        return [
            f"{replica}  from {len(networks)} {'network' if len(networks) == 1 else 'networks'}: "
            + ", ".join(f"{network}.x" if network.count(".") == 2 else network for network in networks[:6])
            + (" …" if len(networks) > 6 else "")
            for replica, networks in sorted(self.networks.items())
        ]


def find_sources(target: Target, *, named: list[str], replicas: int | None) -> Sources:
    """Ask where each network leads, until every replica has one.

    Args:
        named: addresses of this machine, in different /24s; without them, those of loopback.
        replicas: how many there must be; None asks the cluster.

    Raises:
        CannotSpread: nobody answers, or some replica would get nobody.
    """
    if not named and not target.address.startswith("127."):
        raise CannotSpread(
            f"{target.address} is not on this machine: name addresses of yours, in different /24s, with --sources."
        )
    expected = _names(target)
    wanted = replicas or len(expected)
    if not wanted:
        raise CannotSpread(
            "The cluster does not say how many replicas it has (GET /api/cluster): say it with --replicas."
        )
    networks: dict[str, list[str]] = defaultdict(list)
    for asked, network in enumerate(named or LOOPBACK):
        if not named and asked >= PROBES and len(networks) >= wanted:
            break
        status, answer = target.get("/health", next(_addresses([network])))
        if status != 200 or not isinstance(answer, dict) or "replica" not in answer:
            raise CannotSpread(
                f"GET /health from {network} was answered with {status}: is this a Heliograph cluster?"
            )
        networks[answer["replica"]].append(network)
    if len(networks) < wanted:
        without = ", ".join(sorted(expected - set(networks))) or f"{wanted - len(networks)} of {wanted}"
        raise CannotSpread(
            f"Replicas that would get nobody: {without}. All addresses lead to {', '.join(sorted(networks))}; "
            f"ip_hash wants others (nginx looks at the first three octets), or the replica is not ready."
        )
    return Sources(dict(networks))


def _names(target: Target) -> set[str]:
    status, answer = target.get("/api/cluster")
    if status != 200 or not isinstance(answer, dict):
        return set()
    return {replica["name"] for replica in answer.get("replicas", [])}


def _addresses(networks: Iterable[str]) -> Iterator[str]:
    """Addresses of these networks, one of each in turn: nginx limits the connections of each address."""
    whole = [network for network in networks if network.count(".") == 3]
    parts = [network for network in networks if network.count(".") == 2]
    yield from whole
    for last in range(1, 255):
        yield from (f"{network}.{last}" for network in parts)
