"""Settings that a cluster shares with the programs beside it. Needs only the standard library."""

from typing import Final, Literal
from urllib.parse import quote

from heliograph.redis_url import database_of

PREFIX: Final = "HELIOGRAPH_"  # of all variables
DEFAULT_PREFIX: Final = "heliograph:"  # of keys in Redis
EMIT_SHARDS: Final = 4  # streams for emissions of clients
AckMode = Literal["memory", "disk", "replica", "managed"]  # when a kept message counts as acknowledged
MOST_ACK_REPLICAS: Final = 16
DEPTH: Final = 32  # how deep arrays and objects may nest in data


def bus_channel_name(given: str | None, url: str | None, prefix: str) -> str:
    """Return the Redis channel that all replicas of a cluster listen on: the given one, or a derived one.

    Redis channels are shared by all databases. So that two clusters on one Redis do not hear each other, the name
    holds the database and the prefix, quoted so that they cannot be confused with a channel's name.
    """
    if given is not None:
        return given
    if prefix == DEFAULT_PREFIX and database_of(url) == 0:
        return "events"
    return f"events@{database_of(url)}.{quote(prefix, safe='')}"
