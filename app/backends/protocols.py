"""The promises that every backend keeps. The contract tests hold all of them to these words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec


class ReplicaInfo(msgspec.Struct, frozen=True):
    """What a replica says of itself with each renewal of its lease."""

    name: str
    node_id: str
    ready: bool
    draining: bool
    connections: int
    users: int
    started_at: str
    renewed_at: float  # seconds since the epoch, by that replica's clock
    version: str


@dataclass(frozen=True, slots=True)
class Renewal:
    """`held`: the lease was still ours. `expired`: leases of others that nobody renewed in time."""

    held: bool
    expired: tuple[str, ...] = ()


class DirectoryBackend(Protocol):
    """Which replicas hold which user, each entry under the lease of the replica that made it.

    All calls may raise BusUnavailable; a call that did may or may not have been carried out, and each can be
    repeated without harm.
    """

    async def take(self, lease: str, info: ReplicaInfo, ttl_s: float) -> None:
        """Begin a new lease, alive for `ttl_s` seconds from now. A lease's name is never used twice."""
        ...

    async def renew(self, lease: str, info: ReplicaInfo, ttl_s: float) -> Renewal:
        """Keep the lease for `ttl_s` seconds from now, even if it ran out, unless somebody began to reap it."""
        ...

    async def hold(self, lease: str, connections: Mapping[str, int]) -> dict[str, int] | None:
        """Say how many connections of each user this lease has now (0: none); returns how many all leases have.

        None, and nothing is entered, if the lease is not held any more: whoever reaped it would not come again.
        """
        ...

    async def holders(self, user_id: str) -> dict[str, int]:
        """The user's connections by lease, empty when the user is nowhere."""
        ...

    async def reap(self, lease: str) -> int:
        """Forget the lease and every entry under it; returns how many users that were.

        From its first step on the lease cannot be renewed; a reaping that broke off is finished by the next.
        """
        ...

    async def replicas(self) -> list[ReplicaInfo]:
        """The replicas whose lease is alive, by name."""
        ...
