"""All settings, read once from `HELIOGRAPH_…` variables (`__` between levels) and passed down."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from heliograph.errors import BadSetting
from heliograph.protocol.channel_options import BadOption, Namespace
from heliograph.protocol.decision import Hook
from heliograph.redis_url import check_redis_url
from heliograph.shared_settings import (
    DEFAULT_PREFIX,
    DEPTH,
    EMIT_SHARDS,
    PREFIX,
    bus_channel_name,
)

_SettingsT = TypeVar("_SettingsT", bound=BaseSettings)


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class RedisSettings(_Group):
    """Without a URL one replica runs on its own, in memory."""

    url: str | None = Field(
        default=None,
        description="redis://host:6379/0, or rediss:// (TLS), unix:// (a socket), redis+sentinel://",
    )
    durable_url: str | None = Field(
        default=None, description="a second Redis for kept messages (with appendonly); unset: the same one"
    )
    max_connections: int = Field(default=50, ge=1, description="connections for commands; the bus has its own")
    prefix: str = Field(default=DEFAULT_PREFIX, description="the prefix of all keys")
    emit_shards: int = Field(
        default=EMIT_SHARDS,
        ge=1,
        le=1024,
        description="streams for emissions of clients; workers must use the same number",
    )
    emit_maxlen: int = Field(
        default=100_000, ge=1, description="entries in each of these streams, at most; more are refused"
    )

    @field_validator("url", "durable_url")
    @classmethod
    def _readable(cls, url: str | None) -> str | None:
        return None if url is None else check_redis_url(url)

    @model_validator(mode="after")
    def _live_too(self) -> Self:
        if self.durable_url is not None and self.url is None:
            raise ValueError("DURABLE_URL needs URL too: one Redis keeps messages, the other has the bus")
        return self


class BusSettings(_Group):
    channel: str | None = Field(
        default=None,
        min_length=1,
        description="the Redis channel that all replicas listen on; unset: `events`, or a name with prefix and "
        "database where these are not the defaults",
    )
    routing: Literal["shared", "directed"] = Field(
        default="shared",
        description="directed: a user's messages go only to the replicas that hold the user, not to all",
    )
    canary_interval_s: float = Field(default=1.0, gt=0, description="how often a replica sends itself a token")
    canary_timeout_s: float = Field(default=3.0, gt=0, description="unready when none has come back for this long")


def bus_channel(bus: BusSettings, redis: RedisSettings) -> str:
    """Return the Redis channel that all replicas of a cluster with these settings listen on."""
    return bus_channel_name(bus.channel, redis.url, redis.prefix)


class DirectorySettings(_Group):
    lease_ttl_s: float = Field(default=2.0, gt=0, description="how long a replica's lease lasts without a renewal")
    renew_interval_s: float = Field(default=0.5, gt=0, description="how often a replica renews its lease")
    reap_grace_s: float = Field(default=1.0, ge=0, description="how long after its expiry a lease is reaped")


class ChannelSettings(_Group):
    heartbeat_s: float = Field(
        default=1.0, gt=0, description="how often to look for lost messages at the end of a log"
    )
    linger_s: float = Field(default=5.0, ge=0, description="how long to follow a channel that nobody listens to")
    page: int = Field(default=500, ge=1, description="publications in one read from the log")
    page_bytes: int = Field(
        default=131_072, ge=1024, description="bytes in one read from a channel's log, or one publication"
    )


class PresenceSettings(_Group):
    grace_s: float = Field(
        default=2.0, ge=0, description="a user who is back on a channel within this time never left it"
    )


class PollSettings(_Group):
    linger_s: float = Field(
        default=5.0, ge=0, description="a client that polls again within this time stays connected"
    )
    answer_bytes: int = Field(
        default=262_144, ge=1024, description="bytes of events in one answer; the next has the rest"
    )


class AuthSettings(_Group):
    """In jwt mode exactly one of SECRET, SECRET_FILE, PUBLIC_KEY_FILE and JWKS_URL checks tokens."""

    mode: Literal["jwt", "hook", "open"] = Field(
        default="jwt",
        description="hook: the connect hook says who a client is, no tokens; open: anyone may be anyone, to develop",
    )
    open_to_network: bool = Field(
        default=False, description="allow MODE open where other machines can connect: anyone there may be any user"
    )
    secret: SecretStr | None = Field(default=None, description="the HMAC key that signs tokens, 32 bytes or more")
    secret_file: Path | None = Field(default=None, description="a file that holds the secret")
    public_key_file: Path | None = Field(
        default=None, description="a PEM file with the RSA or EC key that checks tokens"
    )
    jwks_url: str | None = Field(default=None, description="the URL of the RSA and EC keys (JSON Web Key Set)")
    jwks_max_age_s: float = Field(
        default=600, gt=0, description="how old those keys may be before they are read again"
    )
    jwks_timeout_s: float = Field(default=3.0, gt=0, description="how long reading them may take")
    audience: str | None = Field(
        default=None, min_length=1, description="what a token's aud must contain; unset: any"
    )
    issuer: str | None = Field(default=None, min_length=1, description="what a token's iss must be; unset: any")
    leeway_s: float = Field(default=5, ge=0, le=300, description="how much clocks may differ, for exp and nbf")
    require_exp: bool = Field(default=False, description="refuse tokens without exp, which never expire")
    subscription_grace_s: float = Field(
        default=25, ge=0, description="how long a client stays on a channel after its subscription token has expired"
    )
    ticket_ttl_s: float = Field(default=30, gt=0, le=300, description="how long a ticket is valid")
    stream_return_s: float = Field(
        default=86_400, ge=0, description="how long a stream that was opened with a ticket may be resumed, at most"
    )

    @field_validator("jwks_url")
    @classmethod
    def _safe_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError("cannot be read") from None  # the error's own text repeats a part of the URL
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a password")
        if parts.scheme == "https" and parts.hostname:
            return url
        if parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"):
            return url
        raise ValueError("must begin with https:// (http:// only for this machine): its keys decide who is a user")

    @model_validator(mode="after")
    def _need_a_key(self) -> Self:
        names = ("SECRET", "SECRET_FILE", "PUBLIC_KEY_FILE", "JWKS_URL")
        given = [name for name in names if getattr(self, name.lower()) is not None]
        if len(given) > 1:
            raise ValueError(f"set one of {' and '.join(given)}, not {'both' if len(given) == 2 else 'all'}")
        if self.mode == "open":
            return self
        if self.mode == "hook":
            if given:
                raise ValueError(f"MODE hook takes no tokens: unset {given[0]}, or set MODE to jwt to take both")
            return self
        if not given:
            raise ValueError(
                "MODE jwt needs SECRET or SECRET_FILE with at least 32 bytes, or PUBLIC_KEY_FILE, or JWKS_URL "
                "(or set MODE to open, for development)"
            )
        if given[0].startswith("SECRET") and len(self.key()) < 32:
            raise ValueError(f"{given[0]} needs at least 32 bytes in MODE jwt; it has {len(self.key())}")
        _refuse_example(given[0], self.key())
        self.public_key()
        return self

    def key(self) -> bytes:
        """Return the secret from its variable or file; empty if neither is set."""
        if self.secret_file is not None:
            return _read("SECRET_FILE", self.secret_file).strip()
        return self.secret.get_secret_value().encode() if self.secret else b""

    def public_key(self) -> bytes | None:
        """Return the content of the file of the public key."""
        return None if self.public_key_file is None else _read("PUBLIC_KEY_FILE", self.public_key_file)


_EXAMPLES = ("0123456789abcdef", "changeme", "change-me", "change_me", "secret", "password", "example")


def _refuse_example(name: str, key: bytes) -> None:
    """Refuse a key from documentation, ours or another's: everybody has it."""
    text = key.decode(errors="replace").lower()
    if any(not text.replace(example, "").strip(" -_.!0123456789") for example in _EXAMPLES if example in text):
        raise ValueError(f"{name} is an example that everybody knows; make one of your own: openssl rand -hex 32")


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None


class ApiSettings(_Group):
    key: SecretStr | None = Field(
        default=None, description="the key of the server API, 16 bytes or more; unset: no API"
    )
    key_file: Path | None = Field(default=None, description="a file that holds the key")
    body_bytes: int = Field(default=1_048_576, ge=1024, description="the largest body of a request")
    batch: int = Field(default=1000, ge=1, description="commands in a batch, and channels in a broadcast")

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        if self.key is not None and self.key_file is not None:
            raise ValueError("set one of KEY and KEY_FILE, not both")
        given = self.key is not None or self.key_file is not None
        if given and len(self.secret()) < 16:
            raise ValueError("KEY needs 16 bytes or more")
        if given:
            _refuse_example("KEY" if self.key is not None else "KEY_FILE", self.secret())
        return self

    def secret(self) -> bytes:
        """Return the key from its variable or file; empty if neither is set."""
        if self.key_file is not None:
            return _read("KEY_FILE", self.key_file).strip()
        return self.key.get_secret_value().encode() if self.key else b""


class HookSettings(_Group):
    """The user's backend: each URL switches its hook on."""

    connect: str | None = Field(default=None, description="asked who a client without a token is")
    refresh: str | None = Field(default=None, description="asked whether a client that `connect` let in may stay")
    subscribe: str | None = Field(default=None, description="asked whether a client may read a channel")
    publish: str | None = Field(default=None, description="asked whether a client may publish on a channel")
    rpc: str | None = Field(default=None, description="answers the `rpc` calls of clients")
    sub_refresh: str | None = Field(default=None, description="asked whether a client may stay on a channel")
    headers: tuple[str, ...] = Field(
        default=("Cookie", "Origin", "User-Agent", "X-Forwarded-For", "X-Request-Id"),
        description="headers of the client's own request that hooks get, as a JSON list",
    )
    static_headers: dict[str, SecretStr] = Field(
        default={}, description="headers of every call, as JSON: a secret that the backend knows the cluster by"
    )
    ca_file: Path | None = Field(
        default=None, description="a PEM file with the authority that signed the backend's certificate"
    )
    timeout_s: float = Field(default=1.0, gt=0, le=60, description="how long an answer may take, with any wait")
    concurrency: int = Field(default=100, ge=1, description="calls of one hook under way at once")
    queue: int = Field(default=1000, ge=0, description="calls of one hook that may wait; more are refused at once")
    answer_bytes: int = Field(default=262_144, ge=1024, description="the largest answer")

    @field_validator("connect", "refresh", "subscribe", "publish", "rpc", "sub_refresh")
    @classmethod
    def _url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise ValueError("cannot be read") from None  # the error's own text repeats a part of the URL
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise ValueError("must be http://host/path or https://host/path")
        return url

    @field_validator("headers", "static_headers")
    @classmethod
    def _names(cls, names: Any) -> Any:
        for name in names:
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _FRAMING_HEADERS:
                raise ValueError(f"{name[:64]!r} is not a header that can be passed on")
        return names

    @field_validator("ca_file")
    @classmethod
    def _certificate(cls, path: Path | None) -> Path | None:
        if path is not None:
            _read("CA_FILE", path)
        return path

    @model_validator(mode="after")
    def _refresh_whom(self) -> Self:
        if self.refresh is not None and self.connect is None:
            raise ValueError("REFRESH needs CONNECT: it is asked about the clients that CONNECT let in")
        if self.sub_refresh is not None and self.subscribe is None:
            raise ValueError("SUB_REFRESH needs SUBSCRIBE: it is asked about subscriptions that SUBSCRIBE allowed")
        return self

    def urls(self) -> dict[Hook, str]:
        """Return the URL of each hook that is switched on."""
        given = {hook: getattr(self, hook.value) for hook in Hook}
        return {hook: url for hook, url in given.items() if url is not None}

    def secret_headers(self) -> dict[str, str]:
        """Return the headers of every call."""
        return {name: value.get_secret_value() for name, value in self.static_headers.items()}


# The name of a header (RFC 9110, section 5.1), and those that only the sender of a request can set.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING_HEADERS = frozenset(
    ("connection", "content-length", "content-type", "host", "te", "transfer-encoding", "upgrade")
)


class EmitSettings(_Group):
    events: tuple[str, ...] = Field(
        default=(),
        description="events that clients may emit to workers, as a JSON list; 'order*' is a prefix",
    )
    shard_bytes: int = Field(
        default=33_554_432, ge=65_536, description="bytes of memory of each stream, at most; more is refused"
    )
    ttl_s: float = Field(default=604_800, gt=0, description="how long an entry is kept, handled or not")


class LimitSettings(_Group):
    frame_bytes: int = Field(
        default=65_536, ge=1024, description="the largest frame of a client; a larger one closes with 1009"
    )
    depth: int = Field(default=DEPTH, ge=1, le=128, description="how deep arrays and objects may nest in data")
    outbox_bytes: int = Field(
        default=1_048_576, ge=65_536, description="bytes that may wait for a client; more closes with 3008"
    )
    messages_per_second: float = Field(
        default=100, ge=0, description="operations that one connection may send (0: no limit)"
    )
    # The maximum fits into the number that counts them in Redis (`backends/redis/lua/_budget.lua`).
    user_messages_per_second: float = Field(
        default=200,
        ge=0,
        le=100_000,
        description="messages that all clients of one user may write, over 10 s (0: no limit)",
    )
    user_bytes_per_second: float = Field(
        default=131_072,
        ge=0,
        le=100_000_000,
        description="bytes that all clients of one user may write, over 10 s (0: no limit)",
    )
    recipient_messages_per_second: float = Field(
        default=50, ge=0, description="messages that one user may send to any one user, over 10 s (0: no limit)"
    )
    client_memory_percent: float = Field(
        default=80,
        ge=0,
        le=100,
        description="used part of Redis' maxmemory beyond which nothing that clients write is kept (0: no limit)",
    )
    read_bytes_per_second: float = Field(
        default=1_048_576,
        ge=0,
        description="bytes of history and presence that one connection may read; then its frames wait (0: no limit)",
    )
    requests_per_second: float = Field(
        default=50,
        ge=0,
        description="HTTP requests of one user on one replica, in bursts of five times that (0: no limit)",
    )
    requests_per_second_per_address: float = Field(
        default=500,
        ge=0,
        description="HTTP requests of one address on one replica, in such bursts (0: no limit); nginx has its own",
    )
    refusals: int = Field(
        default=1000, ge=1, description="refused operations in a row that get an error; more close with 3509"
    )
    connections: int = Field(default=20_000, ge=1, description="connections of one replica, at most")
    connections_per_user: int = Field(
        default=20, ge=0, description="connections of one user over all replicas (0: no limit)"
    )
    connections_per_address: int = Field(
        default=0,
        ge=0,
        description="connections of one address on one replica (0: no limit); nginx has its own limit",
    )
    failed_attempts_per_minute: float = Field(
        default=60,
        ge=0,
        description="bad tokens, keys, first frames of an address answered at once; others late (0: no limit)",
    )
    newcomers_per_address: int = Field(
        default=256,
        ge=0,
        description="sockets of one address that have not identified themselves; the oldest makes room (0: no limit)",
    )
    channels_per_connection: int = Field(
        default=100, ge=1, description="channels that one connection may subscribe to"
    )
    connect_timeout_s: float = Field(
        default=5.0, gt=0, description="how long a client may take to send its first frame"
    )
    header_bytes: int = Field(
        default=131_072, ge=4096, description="bytes of a request's URL and headers; more is answered with 431"
    )
    header_timeout_s: float = Field(default=10.0, gt=0, description="how long a request's headers may take to arrive")
    body_timeout_s: float = Field(default=30.0, gt=0, description="how long a request's body may take to arrive")


class CompressionSettings(_Group):
    """permessage-deflate, for WebSocket clients that offer it."""

    enabled: bool = Field(
        default=False, description="compress messages to WebSocket clients that offer permessage-deflate"
    )
    min_bytes: int = Field(default=512, ge=1, description="messages smaller than this are not compressed")


class PingSettings(_Group):
    interval_s: int = Field(
        default=25, ge=1, le=60, description="how often the server pings each socket; nginx waits 75 s for a ping"
    )
    timeout_s: int = Field(
        default=10, ge=1, description="how long a pong may take; then the socket is closed with 3012"
    )


class DrainSettings(_Group):
    per_second: int = Field(default=500, ge=1, description="how many clients a second are asked to reconnect")
    window_s: float = Field(default=10.0, ge=0, description="over how long the clients are spread, at most")
    grace_s: float = Field(default=1.0, ge=0, description="how long after its time a client that stayed is closed")
    deadline_s: float = Field(default=20.0, gt=0, description="how long the whole shutdown may take")


class InternalSettings(_Group):
    """With a port, metrics, the OpenAPI document and detailed health are on that port only."""

    port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="a port of its own for metrics, health in detail and OpenAPI; unset: the public port",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="the address to listen on for that port")


class LogSettings(_Group):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the lowest level that is logged"
    )
    format: Literal["text", "json"] = Field(default="text", description="text for people, or JSON for programs")


class ConsoleSettings(_Group):
    enabled: bool | None = Field(
        default=None, description="serve the console at / and its data; unset: in open mode only"
    )


def _namespace(given: object) -> Namespace:
    try:
        return given if isinstance(given, Namespace) else Namespace.read(given)
    except BadOption as error:
        # `_variable` names the option, which pydantic does not know.
        raise PydanticCustomError("bad_option", "{why}", {"why": error.why, "option": error.option}) from None


_NamespaceField = Annotated[Namespace, PlainValidator(_namespace), PlainSerializer(Namespace.given)]


# What would open personal channels to others, or cannot hold for them.
_NOT_PERSONAL = (
    "client_subscribe",
    "client_publish",
    "allow_publish_for_subscriber",
    "allow_history_for_client",
    "allow_history_for_subscriber",
    "allow_presence_for_client",
    "allow_presence_for_subscriber",
    "allow_user_limited_channels",
    "allowed_delta_types",
)


class Settings(BaseSettings):
    """One frozen object. `Settings.load()` reads the environment and explains what is wrong in it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        nested_model_default_partial_update=True,
        hide_input_in_errors=True,
    )

    redis: RedisSettings = RedisSettings()
    bus: BusSettings = BusSettings()
    directory: DirectorySettings = DirectorySettings()
    channels: ChannelSettings = ChannelSettings()
    presence: PresenceSettings = PresenceSettings()
    namespaces: dict[str, _NamespaceField] = Field(
        default={}, description="options of namespaces by name, as JSON; each option replaces the built-in one"
    )
    strict_namespaces: bool = Field(
        default=False, description="refuse channels of a namespace that is neither built in nor set by `NAMESPACES`"
    )
    poll: PollSettings = PollSettings()
    auth: Annotated[AuthSettings, Field(validate_default=True)] = AuthSettings.model_construct()
    api: ApiSettings = ApiSettings()
    emit: EmitSettings = EmitSettings()
    hooks: HookSettings = HookSettings()
    limits: LimitSettings = LimitSettings()
    compression: CompressionSettings = CompressionSettings()
    ping: PingSettings = PingSettings()
    drain: DrainSettings = DrainSettings()
    internal: InternalSettings = InternalSettings()
    log: LogSettings = LogSettings()
    console: ConsoleSettings = ConsoleSettings()
    watchdog_s: float = Field(
        default=8.0, ge=0, description="`serve` kills a replica that stands still for this long (0: never)"
    )
    trusted_proxies: str = Field(
        default="127.0.0.1",
        description="addresses or networks whose X-Forwarded-For is trusted, comma-separated; *: every peer, "
        "and only the last address in the header",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="origins whose pages may connect, as a JSON list; pages of the server's own host always may",
    )

    @field_validator("namespaces")
    @classmethod
    def _rights_where_they_mean_something(cls, namespaces: dict[str, Namespace]) -> dict[str, Namespace]:
        for name, options in namespaces.items():
            if name == "#":
                for option in _NOT_PERSONAL:
                    if getattr(options, option):
                        raise ValueError(
                            f"{option} cannot be given for '#': each personal channel is its user's alone"
                        )
            elif options.client_send is not None:
                raise ValueError(f"client_send is an option of '#' (users' own channels), not of {name!r}")
        return namespaces

    @model_validator(mode="after")
    def _hooks_exist(self) -> Self:
        if self.auth.mode == "hook" and self.hooks.connect is None:
            raise ValueError(f"{PREFIX}AUTH__MODE hook needs {PREFIX}HOOKS__CONNECT: it says who a client is")
        for name, options in self.namespaces.items():
            if name == "#" and options.subscribe_hook is not None:
                raise ValueError(
                    f"{PREFIX}NAMESPACES: subscribe_hook cannot be given for '#': only its user reads one"
                )
            for option, url in (("subscribe", self.hooks.subscribe), ("publish", self.hooks.publish)):
                if getattr(options, f"{option}_hook") and url is None:
                    raise ValueError(
                        f"{PREFIX}NAMESPACES: {name!r} has {option}_hook, which needs {PREFIX}HOOKS__{option.upper()}"
                    )
        return self

    @property
    def console_enabled(self) -> bool:
        return self.auth.mode == "open" if self.console.enabled is None else self.console.enabled

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Raises BadSetting, like `read_environment`."""
        return read_environment(cls)


def read_environment(kind: type[_SettingsT], **given: Any) -> _SettingsT:
    """Read settings of this kind; values that are `given` replace the variables of the same name.

    Raises:
        BadSetting: names each invalid variable, and why. Values are not repeated: some are secret.
    """
    try:
        return kind(**given)
    except ValidationError as error:
        lines = [_named(_location(problem), _text(problem)) for problem in error.errors()]
        raise BadSetting("; ".join(lines)) from None
    except SettingsError as error:
        # The error's text names the field without its value, which may be secret; the cause has the value.
        field = str(error).partition('"')[2].partition('"')[0]
        raise BadSetting(f"{_variable((field,))}: must be JSON") from None


def settings_table() -> str:
    """Return all variables with their defaults and meanings, as a Markdown table."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            rows += [_row((name, inner), value) for inner, value in group.model_fields.items()]
        else:
            rows.append(_row((name,), field))
    return "\n".join(rows)


def _row(location: tuple[str, ...], field: FieldInfo) -> str:
    shown = json.dumps(field.default) if isinstance(field.default, tuple) else field.default
    default = "" if field.default is None or field.default == () else f"`{shown}`"
    return f"| `{_variable(location)}` | {default} | {field.description} |"


def unknown_variables() -> list[str]:
    """Return variables of the environment that look like settings but are not: probably typing errors."""
    # The commands of `heliograph`, the Ansible plugin and the log handler read the others.
    known = {*Settings.model_fields, "port", "url", "token", "log_id", "wait", "logging", "nginx_trusted_proxies"}
    names = (name for name in os.environ if name.upper().startswith(PREFIX))
    return sorted(name for name in names if name[len(PREFIX) :].lower().split("__")[0] not in known)


def _named(location: tuple[int | str, ...], text: str) -> str:
    """Return the text with the variable before it; a text about several variables names them itself."""
    return f"{_variable(location)}: {text}" if location else text


def _location(problem: ErrorDetails) -> tuple[int | str, ...]:
    option = problem.get("ctx", {}).get("option")
    return (*problem["loc"], option) if option else problem["loc"]


def _text(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such setting (see `heliograph settings`)"
    return problem["msg"].removeprefix("Value error, ")


def _variable(location: tuple[int | str, ...]) -> str:
    return PREFIX + "__".join(str(part) for part in location).upper()
