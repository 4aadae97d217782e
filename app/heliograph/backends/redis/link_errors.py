"""Errors of a link beside those of Redis, and the texts of all. Not compiled, because they have several bases."""

from typing import Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

# Errors of a server that accepts no writes. Its connections end, because its address may lead to another by now.
DEMOTED: Final = (ReadOnlyError, MasterDownError, BusyLoadingError)


class OtherLayout(ResponseError):
    """The Redis belongs to a cluster with other shards than the settings here say: see `layout.py`."""


class NotSent(RedisError):
    """Nothing was sent, so nothing has happened."""


class LinkFull(NotSent):
    """Redis is so far behind that no more commands are sent."""


class SlotMoved(RedisConnectionError):
    """The bus channels are at another server of the cluster now."""


class Held(NotSent, RedisConnectionError):
    """The slot of a cluster was between two servers for too long. Nothing has happened."""


class NotConnected(NotSent, RedisConnectionError):
    """There is no connection; it is too early for another attempt, or the attempt failed."""


class NotConnectedInTime(NotSent, RedisTimeoutError):
    """No connection was opened in time."""


def text_of(error: Exception) -> str:
    """Return what an error of Redis or of the network says."""
    if isinstance(error, AskError):  # MOVED too; redis-py keeps only the slot and the address of what the server says
        slot, _, address = str(error).partition(" ")
        return f"slot {slot} is at {address}: the URL of a Redis Cluster begins with redis+cluster://"
    if isinstance(error, AuthenticationError) and "HELLO" in str(error):  # as answer to a client that gives none
        return "it asks for a password: redis://user:password@host:port/number"
    return str(error) or type(error).__name__
