"""Addresses of Redis: one server, or the master that Sentinels name. Needs only the standard library."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlencode, urlsplit

SERVER_SCHEMES: Final = ("redis", "rediss", "unix")
SENTINEL_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
SENTINEL_PORT: Final = 26379

_FORM: Final = (
    "cannot be read: it is redis://user:password@host:port/number, in which / ? # @ : [ ] % of a user or "
    "password are written as %2F %3F %23 %40 %3A %5B %5D %25"
)
_SENTINEL_FORM: Final = (
    "cannot be read: with Sentinels it is redis+sentinel://user:password@host:port,host:port/number?master=name"
)


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """What an address `redis+sentinel://` says.

    `sentinels`: host and port of each. `master`: the name that they know the master by. `server_url`: as for one
    server; what it says of the host counts nothing. `user`, `password`: for the Sentinels; None: without.
    """

    sentinels: tuple[tuple[str, int], ...]
    master: str
    server_url: str
    user: str | None
    password: str | None

    @property
    def majority(self) -> int:
        """How many of the Sentinels are more than half."""
        return len(self.sentinels) // 2 + 1


def check_redis_url(url: str) -> str:
    """Return the URL if it is read as intended.

    Raises:
        ValueError: says what is wrong, without any part of the URL, which may belong to a password.
    """
    address = read_sentinel_address(url)
    if address is not None:
        _check_server_url(address.server_url)
        return url
    if url.partition("://")[0] not in SERVER_SCHEMES or "://" not in url:
        raise ValueError("must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://")
    _check_server_url(url)
    return url


def _check_server_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
        is_readable = "@" in parts.netloc or "@" not in url
        _database_in(parts)
    except ValueError:
        is_readable = False
    if not is_readable or parts.fragment:
        raise ValueError(_FORM)


def read_sentinel_address(url: str) -> SentinelAddress | None:
    """Return what the URL says of Sentinels; None if it is the URL of one server.

    Raises:
        ValueError: says what is wrong, without any part of the URL.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SENTINEL_SCHEMES:
        return None
    try:
        parts = urlsplit(f"//{rest}")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        credentials, at, hosts = parts.netloc.rpartition("@")
        sentinels = tuple(_host_and_port(each) for each in hosts.split(","))
    except ValueError:
        raise ValueError(_SENTINEL_FORM) from None
    if "@" in url and not at:
        raise ValueError(_FORM)
    if len(set(sentinels)) < len(sentinels):
        raise ValueError("names a Sentinel twice")
    master = options.pop("master", "")
    if not master:
        raise ValueError("must say which master the Sentinels are asked for: …/number?master=name")
    user, password = options.pop("sentinel_user", None), options.pop("sentinel_password", None)
    server = SplitResult(
        scheme.removesuffix("+sentinel"),
        f"{credentials}{at}{hosts.split(',')[0]}",
        parts.path,
        urlencode(options),
        "",
    )
    if parts.fragment:
        raise ValueError(_SENTINEL_FORM)
    return SentinelAddress(sentinels, master, server.geturl(), user, password)


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path:
        raise ValueError(text)
    return parts.hostname, parts.port or SENTINEL_PORT


def without_password(url: str) -> str:
    """Return the URL as it may be shown: without a user, a password, and options that may hold one."""
    scheme, separator, rest = url.partition("://")
    parts = urlsplit(f"//{rest}")
    shown = {name: value for name, value in parse_qsl(parts.query) if "password" not in name and "user" not in name}
    netloc = parts.netloc.rpartition("@")[2]
    return f"{scheme}{separator}{netloc}{parts.path}{'?' if shown else ''}{urlencode(shown)}"


def database_of(url: str | None) -> int:
    """Return the number of the database that a URL names; 0 without a URL."""
    if url is None:
        return 0
    address = read_sentinel_address(url)
    return _database_in(urlsplit(url if address is None else address.server_url))


def _database_in(parts: SplitResult) -> int:
    """Return the number as redis-py reads it: `?db=` or, except for a socket, the path. Raises ValueError."""
    named = parse_qs(parts.query).get("db", [""])[0]
    return int(named or (parts.path.strip("/") if parts.scheme != "unix" else "") or 0)
