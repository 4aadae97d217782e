"""A virtual shard for programs without an event loop: connections to whichever server owns its slot. Thread-safe."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic, sleep
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from redis import BlockingConnectionPool, ConnectionPool, Redis
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.backends.redis.cluster.tags import slot_of
from heliograph.backends.redis.cluster.topology import (
    HOLD_S,
    NO_CLUSTER,
    NOT_EXECUTED,
    PAUSE_S,
    QUESTION,
    Node,
    Owners,
)
from heliograph.backends.redis.link import Command
from heliograph.backends.redis.link_errors import DEMOTED
from heliograph.backends.redis.sync_pool import open_pool_sync
from heliograph.redis_url import ClusterAddress

_T = TypeVar("_T")

UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError)


class SyncNodes:
    """A pool of connections to each server of a cluster, and who owns which slot. Nothing is opened before.

    Nobody looks for changes here, unlike in `Topology`: replies tell of them, and servers that do not answer.
    """

    def __init__(self, address: ClusterAddress, *, max_connections: int) -> None:
        self._address = address
        self._max_connections = max_connections
        self._owners = Owners(address.nodes)
        self._lock = threading.RLock()  # a signal handler may publish while its own thread looks for the owner
        self._pools: dict[Node, BlockingConnectionPool] = {}
        self.connection_options: dict[str, Any] = self._open(address.nodes[0]).connection_kwargs

    def owner(self, slot: int) -> Node:
        """Return the server that owns the slot, as far as is known.

        Raises:
            NoOwner: no server that answers knows one.
        """
        began = monotonic()
        with self._lock:
            if self._owners.must_be_read(slot):
                self._owners.check_not_failed_since(began)
                self._read()
            owner = self._owners.of(slot)
            if owner is None:
                raise self._owners.missing(slot)
            return owner

    def refused(self, slot: int, error: Exception, asked: Node | None = None) -> None:
        """Take an error that says that the slot is elsewhere, or in doubt. `asked`: the server that gave it."""
        with self._lock:
            self._owners.refused(slot, error, asked)

    def doubt(self, node: Node) -> None:
        """Note that the server does not answer: perhaps it owns nothing any more."""
        with self._lock:
            self._owners.doubt(node)

    def doubt_owner(self, slot: int) -> None:
        """Note that the owner of this slot, as far as it is known, does not answer."""
        with self._lock:
            if (owner := self._owners.of(slot)) is not None:
                self._owners.doubt(owner)

    def pool(self, node: Node) -> BlockingConnectionPool:
        """Return the pool of connections to a server."""
        with self._lock:
            if node not in self._pools:
                self._pools[node] = self._open(node)
            return self._pools[node]

    @contextmanager
    def lent(self, node: Node) -> Iterator[AbstractConnection]:
        """Lend a connection to a server. After an error other than an answer of Redis it is closed."""
        pool = self.pool(node)
        connection: AbstractConnection | None = None
        try:
            connection = pool.get_connection()  # type: ignore[no-untyped-call]
            yield connection
        except ResponseError:
            raise
        except BaseException as error:
            if isinstance(error, UNREACHABLE):
                self.doubt(node)
            if connection is not None:
                connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            if connection is not None:
                pool.release(connection)  # type: ignore[no-untyped-call]

    def answers(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        """Return a server's answers, each of which may be an error; if it cannot be reached, all are that error."""
        try:
            with self.lent(node) as connection:
                return exchange(connection, commands)
        except (RedisError, OSError) as error:
            return [error] * len(commands)

    def close(self) -> None:
        """Close every connection. It may be used again."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.disconnect()

    def _read(self) -> None:
        errors: list[tuple[Node, Exception | str]] = []
        for node in self._owners.to_ask():
            [answer] = self.answers(node, [QUESTION])
            if isinstance(answer, Exception):
                errors.append((node, answer))
            elif self._owners.read(answer, node):
                return
            else:
                errors.append((node, NO_CLUSTER))
        raise self._owners.failed(errors)

    def _open(self, node: Node) -> BlockingConnectionPool:
        pool = open_pool_sync(self._address.server_url, max_connections=self._max_connections)
        host, port = node
        pool.connection_kwargs = pool.connection_kwargs | {"host": host, "port": port}
        return pool


def exchange(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
    """Send commands in one go, and return the answers. An error of Redis is the answer to its command."""
    connection.send_packed_command(connection.pack_commands(commands))  # type: ignore[no-untyped-call]
    return [_answer(connection) for _ in commands]


def _answer(connection: AbstractConnection) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


class OwnerPool(ConnectionPool):
    """Lends connections of the pool of whichever server owns the slot. Virtual shards share those pools."""

    def __init__(self, nodes: SyncNodes, slot: int) -> None:
        super().__init__(**nodes.connection_options)
        self._nodes = nodes
        self._slot = slot
        self._lenders: WeakKeyDictionary[AbstractConnection, ConnectionPool] = WeakKeyDictionary()

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        node = self._nodes.owner(self._slot)
        lender = self._nodes.pool(node)
        try:
            connection = lender.get_connection()  # type: ignore[no-untyped-call]
        except UNREACHABLE:
            self._nodes.doubt(node)
            raise
        self._lenders[connection] = lender
        return connection

    def release(self, connection: Any) -> None:
        self._lenders.pop(connection).release(connection)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Do nothing: the connections belong to others too."""

    def close(self) -> None:
        """Do nothing, likewise."""


class SyncShardClient(Redis):
    """redis-py's client of one virtual shard. A command that was not executed is sent again, for `HOLD_S` at most."""

    def __init__(self, nodes: SyncNodes, tag: str) -> None:
        self.nodes = nodes
        self.slot = slot_of(tag)
        super().__init__(connection_pool=OwnerPool(nodes, self.slot))

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return self.hold(partial(super().execute_command, *args, **options))
        except (*UNREACHABLE, *DEMOTED):
            self.nodes.doubt_owner(self.slot)
            raise

    def hold(self, attempt: Callable[[], _T]) -> _T:
        """Return what the attempt does. What was not executed is attempted again, for `HOLD_S` at most."""
        until = monotonic() + HOLD_S
        while True:
            try:
                return attempt()
            except NOT_EXECUTED as error:
                self.nodes.refused(self.slot, error)
                if monotonic() > until:
                    raise
            sleep(PAUSE_S)

    def close(self) -> None:
        """Close the connections of all virtual shards of the cluster. May be called twice."""
        self.nodes.close()
