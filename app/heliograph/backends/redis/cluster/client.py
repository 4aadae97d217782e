"""redis-py's client of a virtual shard, for rare calls: to the server that owns the slot, wherever that moves."""

import asyncio
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import ConnectionPool
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.backends.redis.client import TIMEOUT_S, Client
from heliograph.backends.redis.cluster.link import ClusterLink
from heliograph.backends.redis.cluster.nodes import Nodes
from heliograph.backends.redis.cluster.tags import slot_of
from heliograph.backends.redis.cluster.topology import HOLD_S, NOT_EXECUTED, PAUSE_S


class OwnerPool(ConnectionPool):
    """Lends connections of the pool of whichever server owns the slot. Virtual shards share those pools."""

    def __init__(self, nodes: Nodes, slot: int) -> None:
        super().__init__(**nodes.connection_options)
        self._nodes = nodes
        self._slot = slot
        self._lenders: WeakKeyDictionary[AbstractConnection, ConnectionPool] = WeakKeyDictionary()

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> AbstractConnection:
        node = await self._nodes.topology.owner(self._slot)
        lender = self._nodes.pool(node)
        try:
            connection: AbstractConnection = await lender.get_connection()  # type: ignore[no-untyped-call]
        except (RedisConnectionError, RedisTimeoutError, OSError):
            self._nodes.topology.doubt(node)
            raise
        self._lenders[connection] = lender
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        await self._lenders.pop(connection).release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Do nothing: the connections belong to others too."""

    async def aclose(self) -> None:
        """Do nothing, likewise."""


class ShardPipeline(Pipeline):
    """A pipeline of a virtual shard. If a part of it was not executed, all of it is sent again.

    A transaction that is refused was not executed at all. What else is sent so may be repeated without harm.
    """

    shard: "ShardClient"

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        stack = list(self.command_stack)
        loop = asyncio.get_running_loop()
        until = loop.time() + HOLD_S
        while True:
            try:
                return await super().execute(raise_on_error)
            except NOT_EXECUTED as error:
                self.shard.refused(error)
                if loop.time() > until:
                    raise
            await asyncio.sleep(PAUSE_S)
            self.command_stack = list(stack)


class ShardClient(Client):
    """A `Client` of one virtual shard, which is one slot of the cluster. `tag`: or a key."""

    def __init__(self, nodes: Nodes, tag: str) -> None:
        self.nodes = nodes
        self.tag = tag
        self.slot = slot_of(tag)
        pool = OwnerPool(nodes, self.slot)
        # WAIT blocks its connection, so nobody else's calls may stand behind it.
        kinds = "link", "bulk", f"kept {tag}"
        link, bulk, kept = (ClusterLink(nodes, kind, self.slot, pool, TIMEOUT_S) for kind in kinds)
        self.cluster_links = link, bulk, kept
        super().__init__(pool, links=(link, bulk, kept))
        nodes.users += 1
        self._is_open = True

    def refused(self, error: Exception) -> None:
        """Take an error that says that the command was not executed here."""
        self.nodes.topology.refused(self.slot, error)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        until = loop.time() + HOLD_S
        while True:
            try:
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except NOT_EXECUTED as error:
                self.refused(error)
                if loop.time() > until:
                    raise
            await asyncio.sleep(PAUSE_S)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        made = ShardPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.shard = self
        return made

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        if self._is_open:
            self._is_open = False
            self.nodes.users -= 1
        if self.nodes.users == 0:
            with suppress(RedisError, OSError, TimeoutError):
                await self.nodes.close()
