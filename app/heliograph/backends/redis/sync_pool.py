"""Pools of connections for programs without an event loop."""

import threading
from queue import LifoQueue
from typing import Any

from redis import BlockingConnectionPool
from redis.backoff import NoBackoff
from redis.retry import Retry

from heliograph.backends.redis.client import TIMEOUT_S, unusable


class _IdleConnections(LifoQueue[Any]):
    """The queue of a pool. A signal handler may use it while its own thread does: it puts back what it takes."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self.mutex = threading.RLock()  # type: ignore[assignment] # it has all that a queue needs of a lock
        self.not_empty = threading.Condition(self.mutex)
        self.not_full = threading.Condition(self.mutex)
        self.all_tasks_done = threading.Condition(self.mutex)


def open_pool_sync(url: str, *, max_connections: int) -> BlockingConnectionPool:
    """Return a pool for one server. See `client.open_pool`."""
    try:
        return BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            queue_class=_IdleConnections,
            timeout=TIMEOUT_S,  # wait this long for a free connection, instead of failing at once
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        raise unusable("an option in its query has a value that cannot be used") from None
