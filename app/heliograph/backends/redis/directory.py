"""The directory in Redis."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import msgspec
from redis.exceptions import ResponseError

from heliograph.backends.redis.client import Client, as_bus_unavailable
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import ONE
from heliograph.backends.redis.server import RedisServer
from heliograph.errors import BusUnavailable
from heliograph.ports import Renewal, ReplicaInfo, node_of

if TYPE_CHECKING:
    from heliograph.backends.redis.scripts import Argument

SETTLE_MS = 5_000  # longer than a replica needs to notice that Redis is back and to register its users again
OTHER_LAYOUT = -1  # what the lease script answers
BATCH = 500  # users in one command: short enough not to delay Redis


class RedisDirectory:
    """A `DirectoryBackend` in Redis."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._redis = server.client
        self._scripts = server.scripts
        self._keys = server.keys
        # Lease -> the server under which it was held, and its expiry, as far as Redis has acknowledged.
        self._taken: dict[str, tuple[bytes, int]] = {}

    async def take(self, lease: str, info: ReplicaInfo, ttl_s: float) -> None:
        _, server, deadline, *_ = await self._run_lease(lease, info, ttl_s, "take")
        self._taken[lease] = server, deadline

    async def renew(self, lease: str, info: ReplicaInfo, ttl_s: float) -> Renewal:
        held, server, deadline, _, *expired = await self._run_lease(lease, info, ttl_s, "renew")
        before, _ = self._taken.get(lease, (server, 0))
        if held != 1 or server != before:
            self._taken.pop(lease, None)
            return Renewal(held=False)
        self._taken[lease] = server, deadline
        return Renewal(held=True, expired=tuple(cast("bytes", other).decode() for other in expired))

    async def _run_lease(self, lease: str, info: ReplicaInfo, ttl_s: float, verb: str) -> list[Any]:
        keys = [self._keys.leases, self._keys.replicas, self._keys.settled_at, self._keys.server]
        _, deadline = self._taken.get(lease, (b"", 0))
        told = msgspec.json.encode(info)
        layout = self._server.layout
        arguments: list[str | bytes | int] = [lease, told, int(ttl_s * 1000), verb, SETTLE_MS, deadline]
        arguments += [layout.text, 1 if layout.may_be_written else 0, ONE]
        with as_bus_unavailable():
            answer = cast("list[Any]", await self._scripts.run("lease", keys, arguments))
            if answer[0] == OTHER_LAYOUT:
                self._server.scripts.forget()  # whatever comes next compares the layout too
                layout.compare(answer[1].decode() or None)
                raise BusUnavailable("the other shards were not asked yet which of them they are")
            if answer[3]:
                await self._forget_scripts()
        return answer

    async def _forget_scripts(self) -> None:
        """Let programs that found no layout load their scripts again: then they compare theirs with the new one."""
        with suppress(ResponseError):  # without the right to it, they notice when they or this server start again
            await self._server.link.ask("SCRIPT", "FLUSH")

    async def hold(self, lease: str, connections: Mapping[str, int]) -> dict[str, int] | None:
        totals: dict[str, int] = {}
        entries = iter(connections.items())
        while batch := dict(islice(entries, BATCH)):
            keys = [self._keys.leases, self._keys.held_by(lease), *map(self._keys.holders, batch)]
            arguments: list[Argument] = [lease, *(part for entry in batch.items() for part in entry)]
            with as_bus_unavailable():
                counts = await self._run_hold(keys, arguments)
            if not counts:
                return None
            totals.update(zip(batch, counts, strict=True))
        return totals

    async def _run_hold(self, keys: list[str], arguments: "list[Argument]") -> list[int]:
        return cast("list[int]", await self._scripts.run("hold", keys, arguments))

    async def holders(self, user_id: str) -> dict[str, int]:
        with as_bus_unavailable():
            held = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.holders(user_id)))
        return {lease.decode(): int(count) for lease, count in held.items()}

    async def users(self) -> set[str]:
        return await read_users(self._redis, self._keys)

    async def doom(self, lease: str) -> None:
        with as_bus_unavailable():
            await self._redis.zadd(self._keys.leases, {lease: 0}, xx=True)

    async def reap(self, lease: str) -> int:
        reaped = 0
        self._taken.pop(lease, None)
        await self.doom(lease)
        with as_bus_unavailable():
            while users := await self._redis.srandmember(self._keys.held_by(lease), BATCH):
                await self._forget(lease, cast("list[bytes]", users))
                reaped += len(users)
            await self._redis.hdel(self._keys.replicas, lease)
            await self._redis.hdel(self._keys.bus_sequences, node_of(lease))
            await self._redis.zrem(self._keys.leases, lease)  # last: until then another replica can finish this
        return reaped

    async def _forget(self, lease: str, users: list[bytes]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for user_id in users:
                pipeline.hdel(self._keys.holders(user_id.decode()), lease)
            pipeline.srem(self._keys.held_by(lease), *users)
            await pipeline.execute()

    async def replicas(self) -> list[ReplicaInfo]:
        with as_bus_unavailable():
            now_ms = await self._server.now_ms()
            alive = cast("list[bytes]", await self._redis.zrangebyscore(self._keys.leases, f"({now_ms}", "+inf"))
            said = await self._redis.hmget(self._keys.replicas, alive) if alive else []
        infos = [msgspec.json.decode(text, type=ReplicaInfo) for text in said if text is not None]
        return sorted(infos, key=lambda info: info.name)


async def read_users(client: Client, keys: Keys) -> set[str]:
    """Return the users with a connection. Raises BusUnavailable."""
    with as_bus_unavailable():
        leases = cast("list[bytes]", await client.zrange(keys.leases, 0, -1))
        return {
            user_id.decode()
            for lease in leases
            async for user_id in client.sscan_iter(keys.held_by(lease.decode()), count=BATCH)
        }
