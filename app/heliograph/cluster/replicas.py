"""The replicas of the cluster, and the users whom they hold, as its directories list them."""

import asyncio
from collections.abc import Sequence

from heliograph.errors import BusUnavailable
from heliograph.ports import DirectoryBackend, ReplicaInfo


class Replicas:
    """Every replica has a lease in every shard: any of them knows all, and the latest report counts."""

    def __init__(self, directories: Sequence[DirectoryBackend]) -> None:
        self._directories = tuple(directories)

    async def all(self) -> list[ReplicaInfo]:
        """Return the replicas with a live lease, by name.

        Raises:
            BusUnavailable: no Redis can be reached.
        """
        answers = await asyncio.gather(*(each.replicas() for each in self._directories), return_exceptions=True)
        latest: dict[str, ReplicaInfo] = {}
        for answer in answers:
            if isinstance(answer, BaseException):
                if not isinstance(answer, BusUnavailable):
                    raise answer
                continue
            for info in answer:
                if info.node_id not in latest or latest[info.node_id].renewed_at < info.renewed_at:
                    latest[info.node_id] = info
        if all(isinstance(answer, BusUnavailable) for answer in answers):
            raise next(answer for answer in answers if isinstance(answer, BusUnavailable))
        return sorted(latest.values(), key=lambda info: info.name)

    async def users(self) -> set[str]:
        """Return the users whom any replica holds.

        Raises:
            BusUnavailable: the Redis of a shard cannot be reached, so its users are unknown.
        """
        return set().union(*await asyncio.gather(*(each.users() for each in self._directories)))
