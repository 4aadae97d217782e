"""The embedded default: one process, no Redis. Several replicas in one process may share one of these."""

from collections.abc import Mapping

from heliograph.clock import Clock
from heliograph.ports import Renewal, ReplicaInfo, node_of


class MemoryDirectory:
    """A `DirectoryBackend` in this process's memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._leases: dict[str, tuple[float, ReplicaInfo]] = {}  # lease -> (expiry, monotonic; its report)
        self._holders: dict[str, dict[str, int]] = {}  # user -> lease -> connections

    async def take(self, lease: str, info: ReplicaInfo, ttl_s: float) -> None:
        self._leases[lease] = (self._clock.monotonic() + ttl_s, info)

    async def renew(self, lease: str, info: ReplicaInfo, ttl_s: float) -> Renewal:
        if lease not in self._leases:
            return Renewal(held=False)
        now = self._clock.monotonic()
        self._leases[lease] = (now + ttl_s, info)
        return Renewal(held=True, expired=tuple(other for other, (until, _) in self._leases.items() if until <= now))

    async def hold(self, lease: str, connections: Mapping[str, int]) -> dict[str, int] | None:
        if lease not in self._leases:
            return None
        return {user_id: self._enter(lease, user_id, count) for user_id, count in connections.items()}

    def _enter(self, lease: str, user_id: str, count: int) -> int:
        holders = self._holders.setdefault(user_id, {})
        if count:
            holders[lease] = count
        else:
            holders.pop(lease, None)
        if not holders:
            del self._holders[user_id]
        node = node_of(lease)
        others = (held for other, held in holders.items() if other != lease and _is_others(other, node))
        return count + sum(others)

    async def holders(self, user_id: str) -> dict[str, int]:
        return dict(self._holders.get(user_id, {}))

    async def users(self) -> set[str]:
        return set(self._holders)

    async def doom(self, lease: str) -> None:
        self._leases.pop(lease, None)

    async def reap(self, lease: str) -> int:
        self._leases.pop(lease, None)
        held = [user_id for user_id, holders in self._holders.items() if lease in holders]
        for user_id in held:
            self._enter(lease, user_id, 0)
        return len(held)

    async def replicas(self) -> list[ReplicaInfo]:
        now = self._clock.monotonic()
        alive = [info for until, info in self._leases.values() if until > now]
        return sorted(alive, key=lambda info: info.name)


def _is_others(lease: str, node: str) -> bool:
    """Return False if it is an earlier lease of this replica."""
    return not node or node_of(lease) != node
