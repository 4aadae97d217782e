"""The cluster's settings as other programs read them: one place, so that all use the same variables and defaults.

An argument replaces the variable of the same name; the rest comes from the environment. These programs have no
pydantic, so this module reads the variables itself. A test compares the result with `heliograph.settings`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import msgspec

from heliograph.errors import BadSetting
from heliograph.protocol.channel_options import BadOption, Namespace, as_flag, as_number
from heliograph.redis_url import check_durable_url, check_redis_url, read_shards, split_urls
from heliograph.shared_settings import (
    DEFAULT_PREFIX,
    DEPTH,
    EMIT_SHARDS,
    MOST_ACK_REPLICAS,
    PREFIX,
    AckMode,
    bus_channel_name,
)

# The variables that the groups may hold. Only replicas use those that are not read here. Others are typing errors.
KNOWN: Final = {
    "redis": {
        "url",
        "shards",
        "durable_url",
        "ack",
        "ack_replicas",
        "max_connections",
        "prefix",
        "emit_shards",
        "emit_maxlen",
    },
    "bus": {"channel", "routing", "canary_interval_s", "canary_timeout_s"},
    "otel": {"enabled"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """The cluster's settings that a program beside it must share."""

    urls: Sequence[str]
    """URL of each shard: of the server with the bus. One, unless the cluster has several shards."""
    durable_url: str | None
    """URL of a second server, for kept messages; None: it is the same one."""
    ack: AckMode
    """When a kept message counts as acknowledged."""
    ack_replicas: int
    """How many replicas of Redis must have it, in mode `replica`."""
    prefix: str
    """Prefix of all keys."""
    emit_shards: int
    """Number of streams for emissions of clients."""
    bus_channels: Sequence[str]
    """The channel of each shard's Redis that all replicas listen on."""
    routing: Literal["shared", "directed"]
    namespaces: Mapping[str, Namespace]
    depth: int
    """How deep arrays and objects may nest in data."""

    @property
    def live_url(self) -> str:
        """URL of the first shard, which has what is not spread over them."""
        return self.urls[0]

    @property
    def bus_channel(self) -> str:
        """The channel of the first shard."""
        return self.bus_channels[0]

    @property
    def kept_url(self) -> str:
        """URL of the server that keeps messages, or of the first shard."""
        return self.durable_url or self.live_url


def cluster_settings(
    url: str | Sequence[str] | None = None,
    *,
    durable_url: str | None = None,
    ack: AckMode | None = None,
    prefix: str | None = None,
    bus_channel: str | None = None,
    namespaces: Mapping[str, Namespace] | None = None,
) -> ClusterSettings:
    """Read the environment, and put what is given in its place.

    Args:
        url: `HELIOGRAPH_REDIS__URL`; or several, as a list or with commas between them: `HELIOGRAPH_REDIS__SHARDS`.
        durable_url: `HELIOGRAPH_REDIS__DURABLE_URL`; "" for a cluster that has no second Redis.
        ack: `HELIOGRAPH_REDIS__ACK`.
        prefix: `HELIOGRAPH_REDIS__PREFIX`.
        bus_channel: `HELIOGRAPH_BUS__CHANNEL`.
        namespaces: `HELIOGRAPH_NAMESPACES`.

    Raises:
        BadSetting: there is no URL, or a value that cannot be used.
    """
    redis, bus = _group("redis"), _group("bus")
    options = _namespaces() if namespaces is None else dict(namespaces)
    url_of_environment = redis.get("url")
    if url is not None:
        is_one = isinstance(url, str) and not url.lstrip().startswith("[") and len(split_urls(url)) < 2
        redis["url"], redis["shards"] = (url, ()) if is_one else (None, url)
    if durable_url is not None:
        redis["durable_url"] = durable_url or None
    if ack is not None:
        redis["ack"] = ack
    if prefix is not None:
        redis["prefix"] = prefix
    if bus_channel is not None:
        bus["channel"] = bus_channel

    live, kept, shards = _url(redis, "url"), _url(redis, "durable_url"), _shards(redis)
    if shards and kept is not None:
        raise BadSetting(f"{PREFIX}REDIS: DURABLE_URL does not go with SHARDS: let each shard keep what it holds")
    try:
        check_durable_url(live, kept)
    except ValueError as error:
        raise BadSetting(f"{PREFIX}REDIS: {error}") from None
    if shards and live is not None:
        raise BadSetting(f"{PREFIX}REDIS: SHARDS and URL cannot both be set: SHARDS names every Redis of the cluster")
    urls = shards or (() if live is None else (live,))
    if not urls:
        if kept is not None:
            raise BadSetting(f"{PREFIX}REDIS: DURABLE_URL needs URL too: one Redis for what is kept, one for the bus")
        raise BadSetting(f"the URL of Redis is missing: set {PREFIX}REDIS__URL, or give it as an argument")
    if durable_url is None and kept is not None and url_of_environment not in (None, urls[0]):
        # A message published on the bus of one cluster and kept on the server of another reaches no client.
        raise BadSetting(
            f"the URL given is not {PREFIX}REDIS__URL, while {PREFIX}REDIS__DURABLE_URL is set: they would be of two "
            'clusters. Set both variables, or give both URLs ("" as the durable one of a cluster with one Redis)'
        )
    keys = _text("REDIS__PREFIX", redis.get("prefix", DEFAULT_PREFIX))
    routing = bus.get("routing", "shared")
    if routing not in ("shared", "directed"):
        raise BadSetting(f"{PREFIX}BUS__ROUTING: must be 'shared' or 'directed'")
    mode = redis.get("ack", "memory")
    if mode not in get_args(AckMode):
        raise BadSetting(f"{PREFIX}REDIS__ACK: must be one of {', '.join(map(repr, get_args(AckMode)))}")
    channel = bus.get("channel")
    if channel == "":
        raise BadSetting(f"{PREFIX}BUS__CHANNEL: must not be empty; leave it out for the default")
    return ClusterSettings(
        urls=urls,
        durable_url=kept,
        ack=cast("AckMode", mode),
        ack_replicas=_whole("REDIS__ACK_REPLICAS", redis.get("ack_replicas", 1), ge=1, le=MOST_ACK_REPLICAS),
        prefix=keys,
        emit_shards=_whole("REDIS__EMIT_SHARDS", redis.get("emit_shards", EMIT_SHARDS), ge=1, le=1024),
        bus_channels=[
            bus_channel_name(None if channel is None else _text("BUS__CHANNEL", channel), each, keys) for each in urls
        ],
        routing=cast("Literal['shared', 'directed']", routing),
        namespaces=options,
        depth=_depth(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Settings of a program that reaches the cluster over HTTP."""

    key: str
    """Key of the server API."""
    namespaces: Mapping[str, Namespace]
    depth: int
    """How deep arrays and objects may nest in data."""


def api_settings(key: str | None = None, *, namespaces: Mapping[str, Namespace] | None = None) -> ApiSettings:
    """Read the environment, and put what is given in its place.

    Args:
        key: `HELIOGRAPH_API__KEY`, or what `HELIOGRAPH_API__KEY_FILE` holds.
        namespaces: `HELIOGRAPH_NAMESPACES`.

    Raises:
        BadSetting: there is no key, or a value that cannot be used.
    """
    key = _secret("api", "key") if key is None else key
    if not key:
        raise BadSetting(
            f"the API key is missing: set {PREFIX}API__KEY or {PREFIX}API__KEY_FILE, or give it as api_key"
        )
    if not (key.isascii() and key.isprintable()):
        raise BadSetting("the API key must be printable ASCII, as it is sent in a header")
    return ApiSettings(
        key=key,
        namespaces=_namespaces() if namespaces is None else dict(namespaces),
        depth=_depth(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """Settings of a program that signs tokens."""

    secret: bytes
    audience: str | None
    issuer: str | None


def auth_settings(
    secret: str | bytes | None = None, *, audience: str | None = None, issuer: str | None = None
) -> AuthSettings:
    """Read the environment, and put what is given in its place.

    Args:
        secret: `HELIOGRAPH_AUTH__SECRET`, or what `HELIOGRAPH_AUTH__SECRET_FILE` holds.
        audience: `HELIOGRAPH_AUTH__AUDIENCE`.
        issuer: `HELIOGRAPH_AUTH__ISSUER`.

    Raises:
        BadSetting: there is no secret, or a value that cannot be used.
    """
    auth = _group("auth")
    if secret is None:
        secret = _secret("auth", "secret")
    if not secret:
        raise BadSetting(
            f"the secret that signs tokens is missing: set {PREFIX}AUTH__SECRET or {PREFIX}AUTH__SECRET_FILE, "
            "or give it as secret"
        )
    found = {"audience": audience, "issuer": issuer}
    for name, value in found.items():
        if value is None and name in auth:
            found[name] = _text(f"AUTH__{name.upper()}", auth[name])
    return AuthSettings(secret=secret.encode() if isinstance(secret, str) else secret, **found)


def logging_is_on() -> bool:
    """Return whether log handlers may publish: unless `HELIOGRAPH_LOGGING` is "off" (or 0, false, no).

    Raises:
        BadSetting: the variable has another value.
    """
    try:
        return as_flag(f"{PREFIX}LOGGING", _variables().get("logging", True))
    except BadOption as error:
        raise BadSetting(str(error)) from None


def otel_is_on() -> bool:
    """Return whether programs take part in traces: what `HELIOGRAPH_OTEL__ENABLED` says, or else not.

    Raises:
        BadSetting: the variable has another value.
    """
    try:
        return as_flag(f"{PREFIX}OTEL__ENABLED", _group("otel").get("enabled", False))
    except BadOption as error:
        raise BadSetting(str(error)) from None


def _secret(group: str, name: str) -> str:
    """Return a secret from its variable, or from the file that `…_FILE` names; empty if neither is set."""
    values, variable = _group(group), f"{group.upper()}__{name.upper()}"
    path = values.get(f"{name}_file")
    if path is None:
        return _text(variable, values.get(name, ""))
    try:
        return Path(_text(f"{variable}_FILE", path)).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise BadSetting(f"{PREFIX}{variable}_FILE: cannot be read: {error}") from None


def _depth() -> int:
    return _whole("LIMITS__DEPTH", _group("limits").get("depth", DEPTH), ge=1, le=128)


def _variables() -> dict[str, str]:
    """Return our variables by their name without the prefix, in any case, as the cluster itself reads them."""
    return {
        name[len(PREFIX) :].lower(): value for name, value in os.environ.items() if name.upper().startswith(PREFIX)
    }


def _group(name: str) -> dict[str, Any]:
    """Return a group's values: from the JSON object in its own variable, and from the variables of single values."""
    variables = _variables()
    group: dict[str, Any] = {}
    if name in variables:
        try:
            group = msgspec.json.decode(variables[name].encode(), type=dict[str, Any])
        except msgspec.DecodeError:
            raise BadSetting(f"{PREFIX}{name.upper()}: must be JSON, an object") from None
    start = f"{name}__"
    for variable, value in variables.items():
        if variable.startswith(start):
            group[variable[len(start) :]] = value
    for option in group:
        if name in KNOWN and option not in KNOWN[name]:
            raise BadSetting(
                f"{PREFIX}{name.upper()}__{option.upper()}: there is no such setting (see `heliograph settings`)"
            )
    return group


def _namespaces() -> dict[str, Namespace]:
    options: dict[str, Any] = {}
    for name, value in _group("namespaces").items():
        of, separator, option = name.partition("__")
        if not separator:
            options[of] = value
        elif isinstance(options.setdefault(of, {}), dict):
            options[of][option] = value
    found: dict[str, Namespace] = {}
    for name, given in options.items():
        try:
            found[name] = Namespace.read(given)
        except BadOption as error:
            variable = "__".join(part for part in (f"{PREFIX}NAMESPACES", name, error.option) if part).upper()
            raise BadSetting(f"{variable}: {error.why}") from None
    return found


def _url(redis: Mapping[str, Any], name: str) -> str | None:
    url = redis.get(name)
    if url is None:
        return None
    try:
        return check_redis_url(_text(f"REDIS__{name.upper()}", url))
    except ValueError as error:
        raise BadSetting(f"{PREFIX}REDIS__{name.upper()}: {error}") from None


def _shards(redis: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return read_shards(redis.get("shards") or ())
    except ValueError as error:
        raise BadSetting(f"{PREFIX}REDIS__SHARDS: {error}") from None


def _text(variable: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadSetting(f"{PREFIX}{variable}: must be text")
    return value


def _whole(variable: str, value: object, *, ge: int, le: int) -> int:
    try:
        return int(as_number(variable, value, is_whole=True, ge=ge, le=le))
    except BadOption as error:
        raise BadSetting(f"{PREFIX}{error}") from None
