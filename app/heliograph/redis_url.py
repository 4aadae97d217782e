"""Addresses of Redis: one server, the master that Sentinels name, or a cluster. Needs only the standard library."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlencode, urlsplit

SERVER_SCHEMES: Final = ("redis", "rediss", "unix")
SENTINEL_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
SENTINEL_PORT: Final = 26379
CLUSTER_SCHEMES: Final = ("redis+cluster", "rediss+cluster")
CLUSTER_PORT: Final = 6379
VIRTUAL_SHARDS: Final = 16  # of a cluster, by default
MOST_VIRTUAL_SHARDS: Final = 256

# The options of redis-py that a URL may set. Others do not fit here, change what answers look like, or are misspelt.
_OPTIONS: Final = {
    *("client_name", "db", "health_check_interval", "max_connections", "password", "protocol", "retry_on_timeout"),
    *("socket_connect_timeout", "socket_read_size", "socket_timeout", "timeout", "username"),
}
_TCP_OPTIONS: Final = {"socket_keepalive"}
_TLS_OPTIONS: Final = {
    *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname"),
    *("ssl_ciphers", "ssl_keyfile", "ssl_min_version", "ssl_password"),
}
_OPTIONS_OF: Final = {
    "unix": _OPTIONS,
    "redis": _OPTIONS | _TCP_OPTIONS,
    "rediss": _OPTIONS | _TCP_OPTIONS | _TLS_OPTIONS,
}

# A comma within an address stands between Sentinels; one before a scheme stands between addresses.
_BETWEEN_URLS: Final = re.compile(r"\s*,\s*(?=(?:rediss?(?:\+\w+)?|unix)://)")

_FORM: Final = (
    "cannot be read: it is redis://user:password@host:port/number, in which / ? # @ : [ ] % of a user or "
    "password are written as %2F %3F %23 %40 %3A %5B %5D %25"
)
_SENTINEL_FORM: Final = (
    "cannot be read: with Sentinels it is redis+sentinel://user:password@host:port,host:port/number?master=name"
)
_CLUSTER_FORM: Final = (
    "cannot be read: of a cluster it is redis+cluster://user:password@host:port,host:port?virtual_shards=16"
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


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """What an address `redis+cluster://` says.

    `nodes`: host and port of some of the cluster's servers, which name the others. `virtual_shards`: over how many
    slots users and channels are spread. `server_url`: as for one server; what it says of the host counts nothing.
    """

    nodes: tuple[tuple[str, int], ...]
    virtual_shards: int
    server_url: str


def check_redis_url(url: str) -> str:
    """Return the URL if it is read as intended.

    Raises:
        ValueError: says what is wrong, without any part of the URL, which may belong to a password.
    """
    if (sentinels := read_sentinel_address(url)) is not None:
        _check_server_url(sentinels.server_url, {"master", "sentinel_user", "sentinel_password"})
        return url
    if (cluster := read_cluster_address(url)) is not None:
        _check_server_url(cluster.server_url, {"virtual_shards"})
        return url
    if url.partition("://")[0] not in SERVER_SCHEMES or "://" not in url:
        raise ValueError(
            "must begin with redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// "
            "or rediss+cluster://"
        )
    _check_server_url(url, set())
    return url


def split_urls(text: str) -> list[str]:
    """Return the addresses in a text with commas between them."""
    return _BETWEEN_URLS.split(text.strip()) if text.strip() else []


def read_shards(given: str | Sequence[object]) -> tuple[str, ...]:
    """Return the addresses of shards: from a list, from a JSON list, or from text with commas between them.

    Raises:
        ValueError: says what is wrong, and with which shard, without any part of an address.
    """
    if isinstance(given, str):
        text = given.strip()
        if text.startswith("["):
            try:
                given = json.loads(text)
            except ValueError:
                raise ValueError("is not valid JSON: it is a list of addresses") from None
        else:
            given = split_urls(text)
    if not isinstance(given, Sequence):
        raise ValueError("must be a list of addresses")
    urls: list[str] = []
    for number, url in enumerate(given, start=1):
        if not isinstance(url, str):
            raise ValueError(f"shard {number} must be text")
        try:
            check_redis_url(url)
        except ValueError as error:
            raise ValueError(f"shard {number} {error}") from None
        if url in urls:
            raise ValueError(f"shards {urls.index(url) + 1} and {number} are the same")
        urls.append(url)
    return tuple(urls)


def _check_server_url(url: str, read_before: set[str]) -> None:
    """Check the URL of one server. `read_before`: options of the URL that it comes from."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        is_readable = "@" in parts.netloc or "@" not in url
        _check_host(parts.hostname or "")
        _database_in(parts)
    except ValueError:
        is_readable = False
    if not is_readable or parts.fragment:
        raise ValueError(_FORM)
    options = _OPTIONS_OF[parts.scheme]
    if not options.issuperset(parse_qs(parts.query, keep_blank_values=True)):
        raise ValueError(f"has an option after the ? that is none of {', '.join(sorted(options | read_before))}")


def _check_host(host: str) -> None:
    """Raise ValueError if it cannot be the name of one host, so that a list of them is not taken for a name."""
    if "," in host or any(map(str.isspace, host)):
        raise ValueError(host)


def read_sentinel_address(url: str) -> SentinelAddress | None:
    """Return what the URL says of Sentinels; None if it is the URL of one server.

    Raises:
        ValueError: says what is wrong, without any part of the URL.
    """
    if url.partition("://")[0] not in SENTINEL_SCHEMES:
        return None
    parts, credentials, sentinels = _read_hosts(url, SENTINEL_PORT, _SENTINEL_FORM)
    if len(set(sentinels)) < len(sentinels):
        raise ValueError("names a Sentinel twice")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    master = options.pop("master", "")
    if not master:
        raise ValueError("must say which master the Sentinels are asked for: …/number?master=name")
    user, password = options.pop("sentinel_user", None), options.pop("sentinel_password", None)
    server_url = _server_url(parts, credentials, options)
    return SentinelAddress(sentinels, master, server_url, user, password)


def read_cluster_address(url: str) -> ClusterAddress | None:
    """Return what the URL says of a cluster; None if it is the URL of something else.

    Raises:
        ValueError: says what is wrong, without any part of the URL.
    """
    if url.partition("://")[0] not in CLUSTER_SCHEMES:
        return None
    parts, credentials, nodes = _read_hosts(url, CLUSTER_PORT, _CLUSTER_FORM)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for database in (parts.path.strip("/"), options.pop("db", "")):
        if database not in ("", "0"):
            raise ValueError("names a database: a cluster has only number 0" if database.isdigit() else _CLUSTER_FORM)
    given = options.pop("virtual_shards", str(VIRTUAL_SHARDS))
    if not (given.isascii() and given.isdigit() and 1 <= int(given) <= MOST_VIRTUAL_SHARDS):
        raise ValueError(f"must have a virtual_shards from 1 to {MOST_VIRTUAL_SHARDS}")
    return ClusterAddress(nodes, int(given), _server_url(parts, credentials, options))


def check_durable_url(live: str | None, durable: str | None) -> None:
    """Make sure that neither Redis is a cluster where what is kept has a Redis of its own.

    Raises:
        ValueError: one is.
    """
    if durable is not None and any(url is not None and read_cluster_address(url) for url in (live, durable)):
        raise ValueError("DURABLE_URL does not go with a cluster: let each virtual shard keep what it holds")


def _read_hosts(url: str, port: int, form: str) -> tuple[SplitResult, str, tuple[tuple[str, int], ...]]:
    """Return the parts of a URL with several hosts: the credentials end with an "@" if there are any.

    `port`: of a host without one. Raises ValueError with the text `form`.
    """
    try:
        parts = _split(url)
        credentials, at, hosts = parts.netloc.rpartition("@")
        found = tuple(_host_and_port(each, port) for each in hosts.split(","))
    except ValueError:
        raise ValueError(form) from None
    if "@" in url and not at:
        raise ValueError(_FORM)
    if parts.fragment or ("@" in credentials and "," in credentials):  # with a password before each host
        raise ValueError(form)
    return parts, credentials + at, found


def _split(url: str) -> SplitResult:
    """Split a URL with any number of hosts: `urlsplit` refuses some lists with IPv6 addresses."""
    scheme, _, rest = url.partition("://")
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    return urlsplit(f"//{rest.removeprefix(netloc)}")._replace(scheme=scheme, netloc=netloc)


def _server_url(parts: SplitResult, credentials: str, options: dict[str, str]) -> str:
    """Return the URL of one server of several: the first of the hosts stands for all of them."""
    host = parts.netloc.rpartition("@")[2].split(",")[0]
    scheme = parts.scheme.partition("+")[0]
    return SplitResult(scheme, f"{credentials}{host}", parts.path, urlencode(options), "").geturl()


def _host_and_port(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path:
        raise ValueError(text)
    _check_host(parts.hostname)
    return parts.hostname, parts.port or port


def without_password(url: str) -> str:
    """Return the URL as it may be shown: without a user, a password, and options that may hold one."""
    parts = _split(url)
    shown = {name: value for name, value in parse_qsl(parts.query) if "password" not in name and "user" not in name}
    netloc = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if shown else ''}{urlencode(shown)}"


def database_of(url: str | None) -> int:
    """Return the number of the database that a URL names; 0 without a URL."""
    if url is None:
        return 0
    address = read_sentinel_address(url) or read_cluster_address(url)
    return _database_in(urlsplit(url if address is None else address.server_url))


def _database_in(parts: SplitResult) -> int:
    """Return the number as redis-py reads it: `?db=` or, except for a socket, the path. Raises ValueError."""
    named = parse_qs(parts.query).get("db", [""])[0]
    return int(named or (parts.path.strip("/") if parts.scheme != "unix" else "") or 0)
