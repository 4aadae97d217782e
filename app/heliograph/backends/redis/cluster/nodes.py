"""The servers of a cluster, and what the virtual shards of one program share of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from heliograph.backends.redis.client import TIMEOUT_S, open_pool
from heliograph.backends.redis.cluster.bus_trunk import BusLane, BusTrunk
from heliograph.backends.redis.cluster.opened import Opened
from heliograph.backends.redis.cluster.topology import NOT_EXECUTED, Node, Topology
from heliograph.backends.redis.cluster.trunk import Lane, Trunk
from heliograph.backends.redis.link import Command
from heliograph.backends.redis.link_errors import SlotMoved
from heliograph.redis_url import ClusterAddress

MOST_RARE = 2  # connections to one server for what is asked now and then


class Nodes:
    """The servers of a cluster, who owns which slot, and the connections that virtual shards share.

    A server has one connection for the links of a kind, one to listen on, and pools for rare calls. Nothing is opened
    before its use.
    """

    def __init__(self, address: ClusterAddress, *, max_connections: int, timeout_s: float) -> None:
        self._address = address
        self._max_connections = max_connections
        self._timeout_s = timeout_s
        self._pools: dict[Node, BlockingConnectionPool] = {}
        self._askers: dict[Node, BlockingConnectionPool] = {}
        self._trunks = Opened(self._open_trunk)
        self._bus_trunks = Opened(self._open_bus_trunk)
        self.topology = Topology(address.nodes, self.ask)
        self.connection_options: dict[str, Any] = self._open(address.nodes[0], 1, timeout_s).connection_kwargs
        self.users = 0  # clients that are open

    def pool(self, node: Node) -> BlockingConnectionPool:
        """Return the pool of connections to a server."""
        if node not in self._pools:
            self._pools[node] = self._open(node, self._max_connections, self._timeout_s)
        return self._pools[node]

    async def open_lane(
        self,
        kind: str,
        slot: int,
        receive: Callable[[Any], object],
        lost: Callable[[Exception], object],
        on_resume: Callable[[], object],
    ) -> tuple[Lane, Node]:
        """Return a part of the connection for links of this kind to the owner of a slot, and the owner."""
        node = await self.topology.owner(slot)
        trunk = await self._trunks.get(node, kind)
        return trunk.lane(receive, lost, on_resume), node

    async def open_bus(
        self, tag: str, slot: int, receive: Callable[[Any], object], lost: Callable[[Exception], object]
    ) -> BusLane:
        """Return a part of the connection to listen on to the owner of a slot.

        It ends with `SlotMoved` when another server owns that.
        """

        def take(push: Any) -> None:
            if isinstance(push, NOT_EXECUTED):
                self.topology.refused(slot, push, node)
                raise SlotMoved(str(push))
            receive(push)

        def ended(reason: Exception) -> None:
            self.topology.unwatch(slot, leave)
            lost(reason)

        def leave() -> None:
            if self.topology.known_owner(slot) != node:
                lane.fail(SlotMoved(f"slot {slot} has moved to another server"))

        node = await self.topology.owner(slot)
        trunk = await self._bus_trunks.get(node)
        lane = trunk.lane(tag, slot, take, ended)
        self.topology.watch(slot, leave)
        return lane

    async def ask(self, node: Node, *command: str | bytes | int) -> Any:
        """Send one command to a server and return its answer as it is. Raises the errors of redis-py."""
        [answer] = await self.answers(node, [command])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def answers(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        """Send commands to a server in one go, and return its answers, each of which may be an error.

        If it cannot be reached, all are that error.
        """
        if node not in self._askers:
            self._askers[node] = self._open(node, MOST_RARE, TIMEOUT_S)
        pool = self._askers[node]
        try:
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            return [error] * len(commands)
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await _answer(connection) for _ in commands]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, (RedisError, OSError, TimeoutError)):
                return [error] * len(commands)
            raise
        finally:
            await pool.release(connection)

    async def _open_trunk(self, node: Node) -> Trunk:
        with self._doubting(node):
            return await Trunk.open(self.pool(node))

    async def _open_bus_trunk(self, node: Node) -> BusTrunk:
        with self._doubting(node):
            return await BusTrunk.open(self.pool(node))

    @contextmanager
    def _doubting(self, node: Node) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError):
            self.topology.doubt(node)
            raise

    def _open(self, node: Node, max_connections: int, timeout_s: float) -> BlockingConnectionPool:
        pool = open_pool(self._address.server_url, max_connections=max_connections, timeout_s=timeout_s)
        host, port = node
        pool.connection_kwargs = pool.connection_kwargs | {"host": host, "port": port}
        return pool

    async def close(self) -> None:
        """Close every connection. It may be used again."""
        await self.topology.close()
        await self._trunks.close()
        await self._bus_trunks.close()
        for pools in (self._pools, self._askers):
            while pools:
                _, pool = pools.popitem()
                with suppress(RedisError, OSError, TimeoutError):
                    await pool.aclose()


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
