"""The servers of a cluster, and what the virtual shards of one program share of them."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError, ResponseError

from heliograph.backends.redis.client import TIMEOUT_S, open_pool
from heliograph.backends.redis.cluster.topology import NOT_EXECUTED, Node, Topology
from heliograph.backends.redis.link_errors import SlotMoved
from heliograph.backends.redis.wire import BusWire, Wire
from heliograph.redis_url import ClusterAddress

MOST_RARE = 2  # connections to one server for what is asked now and then


class Nodes:
    """A pool of connections to each server of a cluster, and who owns which slot. Nothing is opened before."""

    def __init__(self, address: ClusterAddress, *, max_connections: int, timeout_s: float) -> None:
        self._address = address
        self._max_connections = max_connections
        self._timeout_s = timeout_s
        self._pools: dict[Node, BlockingConnectionPool] = {}
        self._askers: dict[Node, BlockingConnectionPool] = {}
        self.topology = Topology(address.nodes, self.ask)
        self.connection_options: dict[str, Any] = self._open(address.nodes[0], 1, timeout_s).connection_kwargs
        self.users = 0  # clients that are open

    def pool(self, node: Node) -> BlockingConnectionPool:
        """Return the pool of connections to a server."""
        if node not in self._pools:
            self._pools[node] = self._open(node, self._max_connections, self._timeout_s)
        return self._pools[node]

    async def open_wire(
        self,
        slot: int,
        receive: Callable[[Any], object],
        lost: Callable[[Exception], object],
        on_resume: Callable[[], object] | None = None,
    ) -> tuple[Wire, Node]:
        """Open a connection to the owner of a slot: see `Wire.open`. Return the owner too."""
        node = await self.topology.owner(slot)
        try:
            return await Wire.open(self.pool(node), receive, lost, on_resume), node
        except (RedisError, OSError):
            self.topology.doubt(node)
            raise

    async def open_bus(
        self, slot: int, receive: Callable[[Any], object], lost: Callable[[Exception], object]
    ) -> BusWire:
        """Open a connection to listen at the owner of a slot. It ends with `SlotMoved` when another one owns that."""

        def take(reply: Any) -> None:
            if isinstance(reply, NOT_EXECUTED):
                self.topology.refused(slot, reply, node)
                raise SlotMoved(str(reply))
            receive(reply)

        def end(reason: Exception) -> None:
            self.topology.unwatch(slot, leave)
            lost(reason)

        def leave() -> None:
            if self.topology.known_owner(slot) != node:
                wire.fail(SlotMoved(f"slot {slot} has moved to another server"))

        wire, node = await self.open_wire(slot, take, end)
        self.topology.watch(slot, leave)
        return wire

    async def ask(self, node: Node, *command: str | bytes | int) -> Any:
        """Send one command to a server and return its answer as it is. Raises the errors of redis-py."""
        if node not in self._askers:
            self._askers[node] = self._open(node, MOST_RARE, TIMEOUT_S)
        pool = self._askers[node]
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_command(*command)
            return await connection.read_response()
        except ResponseError:
            raise  # an answer: the connection is good
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)

    def _open(self, node: Node, max_connections: int, timeout_s: float) -> BlockingConnectionPool:
        pool = open_pool(self._address.server_url, max_connections=max_connections, timeout_s=timeout_s)
        host, port = node
        pool.connection_kwargs = pool.connection_kwargs | {"host": host, "port": port}
        return pool

    async def close(self) -> None:
        """Close every connection. It may be used again."""
        await self.topology.close()
        for pools in (self._pools, self._askers):
            while pools:
                _, pool = pools.popitem()
                with suppress(RedisError, OSError, TimeoutError):
                    await pool.aclose()
