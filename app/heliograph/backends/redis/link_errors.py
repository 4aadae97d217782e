"""What a link fails with beside what Redis says. Not compiled: these have several bases."""

from typing import Final

from redis.exceptions import BusyLoadingError, MasterDownError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

# Said by a server that takes no writes: its connections end, as its address may lead to another by now.
DEMOTED: Final = (ReadOnlyError, MasterDownError, BusyLoadingError)


class NotSent(RedisError):
    """Nothing was sent, so nothing has happened."""


class LinkFull(NotSent):
    """Redis is so far behind that no more is asked of it."""


class NotConnected(NotSent, RedisConnectionError):
    """There is no connection, and it is too early for another try, or that has failed."""


class NotConnectedInTime(NotSent, RedisTimeoutError):
    """No connection was made in time."""
