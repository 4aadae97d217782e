"""Settings that a cluster shares with the programs beside it. Needs only the standard library."""

from typing import Final
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

PREFIX: Final = "HELIOGRAPH_"  # of all variables
DEFAULT_PREFIX: Final = "heliograph:"  # of keys in Redis
EMIT_SHARDS: Final = 4  # streams for emissions of clients
DEPTH: Final = 32  # how deep arrays and objects may nest in data


def check_redis_url(url: str) -> str:
    """Return the URL if redis-py reads it as intended.

    Raises:
        ValueError: says what is wrong, without any part of the URL, which may belong to a password.
    """
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    try:
        parts = urlsplit(url)
        _ = parts.port
        is_readable = "@" in parts.netloc or "@" not in url
        _database_in(parts)
    except ValueError:
        is_readable = False
    if not is_readable or parts.fragment:
        raise ValueError(
            "cannot be read: it is redis://user:password@host:port/number, in which / ? # @ : [ ] % of a user or "
            "password are written as %2F %3F %23 %40 %3A %5B %5D %25"
        )
    return url


def database_of(url: str | None) -> int:
    """Return the number of the database that a URL names; 0 without a URL."""
    return 0 if url is None else _database_in(urlsplit(url))


def _database_in(parts: SplitResult) -> int:
    """Return the number as redis-py reads it: `?db=` or, except for a socket, the path. Raises ValueError."""
    named = parse_qs(parts.query).get("db", [""])[0]
    return int(named or (parts.path.strip("/") if parts.scheme != "unix" else "") or 0)


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
