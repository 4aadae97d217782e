"""Pools of connections for programs without an event loop."""

from heliograph.backends.redis.sync_pool import open_pool_sync
from tests.support.redis_server import RedisServer


def test_a_signal_handler_may_publish_while_its_thread_takes_a_connection(redis_server: RedisServer) -> None:
    """Fails if a thread that is interrupted inside the pool's queue waits for itself for ever."""
    pool = open_pool_sync(redis_server.url, max_connections=2)
    mutex = pool.pool.mutex
    with mutex:  # as if the signal came here
        assert mutex.acquire(blocking=False)
        mutex.release()
        pool.release(pool.get_connection())  # type: ignore[no-untyped-call]
    pool.disconnect()
