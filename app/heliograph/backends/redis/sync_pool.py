"""Pools of connections for programs without an event loop."""

from redis import BlockingConnectionPool
from redis.backoff import NoBackoff
from redis.retry import Retry

from heliograph.backends.redis.client import TIMEOUT_S, unusable


def open_pool_sync(url: str, *, max_connections: int) -> BlockingConnectionPool:
    """Return a pool for one server. See `client.open_pool`."""
    try:
        return BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=TIMEOUT_S,  # wait this long for a free connection, instead of failing at once
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        raise unusable("an option in its query has a value that cannot be used") from None
