"""How this program connects to Redis, and what its failures are called inside."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from app.errors import BadSetting, BusUnavailable

TIMEOUT_S = 1.0  # a command that takes longer has failed as far as a waiting person is concerned


def connect(url: str, *, max_connections: int = 50) -> Redis:
    """A client with its own pool; nothing is opened before the first command.

    No retries: redis-py cannot tell a command that was never carried out from one whose answer was lost, and most
    of ours must not be carried out twice. Who may repeat a command does so in the open.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=TIMEOUT_S,  # until one is free
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            # With these on, redis-py 8.1 does not see that an idle connection was closed: after a restart of Redis
            # the first command on each one in the pool would fail.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
    except ValueError as error:
        raise BadSetting(f"HELIOGRAPH_REDIS__URL: {error}") from None
    return Redis.from_pool(pool)


def script(name: str) -> str:
    """The text of `lua/<name>.lua`."""
    return resources.files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


@contextmanager
def as_bus_unavailable() -> Iterator[None]:
    """Turn what redis-py and the network raise into the one error that callers know."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise BusUnavailable(f"Redis: {str(error) or type(error).__name__}") from error
