"""Connections to Redis, and the errors of their failures."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.backends.redis.acknowledgement import Unconfirmed
from heliograph.backends.redis.leaving import leaving
from heliograph.backends.redis.link import Link
from heliograph.backends.redis.link_errors import NotSent, text_of
from heliograph.backends.redis.sentinels import MasterFinder, tls_options, to_master
from heliograph.errors import BadSetting, BusUnavailable
from heliograph.redis_url import check_redis_url, read_cluster_address, read_sentinel_address
from heliograph.telemetry import REDIS_ERRORS

logger = logging.getLogger(__name__)

# After these errors nothing has happened; after all others the command may have been carried out.
_CERTAIN = (ResponseError, NotSent, AuthenticationError, AuthorizationError, BusyLoadingError)

# Texts for clients, by the kind of an error. The texts of Redis name addresses, commands and keys.
PLAIN: Final = {
    "refused": "the server's storage does not take it",
    "unconfirmed": "it is kept, but not confirmed by enough copies of the server's storage",
    "timeout": "the server's storage did not answer in time",
    "connection": "the server's storage cannot be reached",
}
LOG_EVERY_S: Final = 10.0
_logged_at: dict[str, float] = {}  # kind -> last logged at, monotonic seconds

# With maintenance notifications on, redis-py 8.1 does not notice that an idle connection was closed: after a restart
# of Redis the first command on each one in the pool would fail. Older versions have none.
_NO_MAINTENANCE: dict[str, Any] = {}
with suppress(ImportError):
    from redis.maint_notifications import MaintNotificationsConfig

    _NO_MAINTENANCE["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)

TIMEOUT_S = 1.0  # a command that takes longer has failed


class Client(Redis):
    """redis-py's client with its pool, for rare calls; `link`, for the calls of a message or of a second.

    `bulk`: another link, for reads with large answers, so that no message waits behind them. `kept`: one more, for
    what replicas of Redis must confirm. `finder` is the pool's, if Sentinels name the server.
    """

    def __init__(
        self, pool: ConnectionPool, finder: MasterFinder | None = None, links: tuple[Link, Link, Link] | None = None
    ) -> None:
        super().__init__(connection_pool=pool)
        self._finder = finder
        self.auto_close_connection_pool = True
        self.timeout_s = TIMEOUT_S  # of a command on a link
        self.link, self.bulk, self.kept = links or (
            Link(pool, TIMEOUT_S),
            Link(pool, TIMEOUT_S),
            Link(pool, TIMEOUT_S),
        )
        if finder is not None:
            for link in (self.link, self.bulk, self.kept):
                finder.on_replaced(link.try_again)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await self.link.close()
        await self.bulk.close()
        await self.kept.close()
        await super().aclose(close_connection_pool)
        if self._finder is not None:
            await self._finder.close()


def connect(url: str, *, max_connections: int = 50, timeout_s: float = TIMEOUT_S) -> Client:
    """Return a client with its own pool and link; nothing is opened before the first command. Not for a cluster.

    `timeout_s`: the time-out of a command; a blocking command needs more than it asks Redis to wait.

    No retries: redis-py cannot tell a command that was never carried out from one whose answer was lost, and most of
    ours must not be carried out twice. A caller that may repeat a command does so itself.
    """
    try:
        sentinels = read_sentinel_address(check_redis_url(url))
    except ValueError as error:
        raise unusable(str(error)) from None
    if read_cluster_address(url) is not None:
        raise unusable("names a cluster, where there is no one server to connect to")
    pool = open_pool(
        url if sentinels is None else sentinels.server_url, max_connections=max_connections, timeout_s=timeout_s
    )
    if sentinels is None:
        return Client(pool)
    finder = MasterFinder(sentinels, tls_options(pool))
    pool.connection_class = to_master(pool.connection_class, finder)
    return Client(pool, finder)


def open_pool(url: str, *, max_connections: int, timeout_s: float) -> BlockingConnectionPool:
    """Return a pool for one server, whose connections leave it when it accepts no writes any more. See `connect`."""
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=TIMEOUT_S,  # wait this long for a free connection, instead of failing at once
            socket_timeout=timeout_s,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            **_NO_MAINTENANCE,
        )
    except ValueError:
        raise unusable("an option in its query has a value that cannot be used") from None
    pool.connection_class = leaving(pool.connection_class)
    return pool


def unusable(why: str) -> BadSetting:
    """Return the error; `why` is our text, because redis-py's texts may repeat parts of a password."""
    return BadSetting(f"the address of Redis (HELIOGRAPH_REDIS__URL, …_DURABLE_URL) {why}")


@contextmanager
def as_bus_unavailable() -> Iterator[None]:
    """Turn errors of redis-py and the network into BusUnavailable."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise bus_unavailable(error) from error


def bus_unavailable(error: Exception) -> BusUnavailable:
    """Return the BusUnavailable for an error, and count it. Redis' text is its detail, logged now and then."""
    kind, is_unsure = _kind(error), not isinstance(error, _CERTAIN)
    detail = f"Redis: {text_of(error)}"
    REDIS_ERRORS[kind] += 1
    now = monotonic()
    if now - _logged_at.get(kind, -LOG_EVERY_S) >= LOG_EVERY_S:
        _logged_at[kind] = now
        logger.warning("%s (said at most once in %g s)", detail, LOG_EVERY_S)
    return BusUnavailable(PLAIN[kind], is_unsure=is_unsure, detail=detail)


def _kind(error: Exception) -> str:
    if isinstance(error, Unconfirmed):
        return "unconfirmed"
    if isinstance(error, ResponseError):
        return "refused"
    return "timeout" if isinstance(error, RedisTimeoutError | TimeoutError) else "connection"
