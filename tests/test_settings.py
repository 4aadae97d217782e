"""The environment: what is read, what is refused, and that no secret is ever repeated."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from heliograph.client.environment import cluster_settings
from heliograph.errors import BadSetting
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.lifecycle import Kind
from heliograph.settings import Settings, bus_channel, settings_table, unknown_variables
from tests.support.tokens import SECRET

GOOD: dict[str, tuple[str, Any]] = {
    "API__BODY_BYTES": ("2048", 2048),
    "API__BATCH": ("5", 5),
    "REDIS__URL": ("rediss://:pw@host:6380/1", "rediss://:pw@host:6380/1"),
    "REDIS__DURABLE_URL": ("redis://durable/2", "redis://durable/2"),
    "REDIS__ACK": ("replica", "replica"),
    "REDIS__ACK_REPLICAS": ("2", 2),
    "REDIS__MAX_CONNECTIONS": ("7", 7),
    "REDIS__EMIT_SHARDS": ("8", 8),
    "REDIS__EMIT_MAXLEN": ("50", 50),
    "EMIT__EVENTS": ('["order","page.*"]', ("order", "page.*")),
    "EMIT__SHARD_BYTES": ("70000", 70_000),
    "EMIT__TTL_S": ("60", 60.0),
    "REDIS__PREFIX": ("other:", "other:"),
    "BUS__CHANNEL": ("ereignisse", "ereignisse"),
    "BUS__ROUTING": ("directed", "directed"),
    "BUS__CANARY_INTERVAL_S": ("0.5", 0.5),
    "BUS__CANARY_TIMEOUT_S": ("9", 9.0),
    "DIRECTORY__LEASE_TTL_S": ("4.5", 4.5),
    "DIRECTORY__RENEW_INTERVAL_S": ("1", 1.0),
    "DIRECTORY__REAP_GRACE_S": ("0", 0.0),
    "CHANNELS__HEARTBEAT_S": ("0.25", 0.25),
    "CHANNELS__LINGER_S": ("0", 0.0),
    "CHANNELS__PAGE": ("50", 50),
    "CHANNELS__PAGE_BYTES": ("2048", 2048),
    "PRESENCE__GRACE_S": ("0", 0.0),
    "RECEIPTS__TTL_S": ("60", 60.0),
    "NAMESPACES": (
        '{"chat":{"history_size":5,"presence":true}}',
        {"chat": Namespace(history_size=5, presence=True)},
    ),
    "STRICT_NAMESPACES": ("1", True),
    "AUTH__MODE": ("open", "open"),
    "AUTH__JWKS_URL": ("https://id.example/jwks", "https://id.example/jwks"),
    "AUTH__JWKS_MAX_AGE_S": ("60", 60.0),
    "AUTH__JWKS_TIMEOUT_S": ("1", 1.0),
    "AUTH__AUDIENCE": ("heliograph", "heliograph"),
    "AUTH__ISSUER": ("https://id.example", "https://id.example"),
    "AUTH__LEEWAY_S": ("7", 7.0),
    "AUTH__OPEN_TO_NETWORK": ("true", True),
    "AUTH__REQUIRE_EXP": ("true", True),
    "AUTH__SUBSCRIPTION_GRACE_S": ("3", 3.0),
    "AUTH__STREAM_RETURN_S": ("60", 60.0),
    "AUTH__TICKET_TTL_S": ("10", 10.0),
    "HOOKS__CONNECT": ("http://site/connect", "http://site/connect"),
    "HOOKS__REFRESH": ("http://site/refresh", "http://site/refresh"),
    "HOOKS__SUBSCRIBE": ("https://site/subscribe?key=1", "https://site/subscribe?key=1"),
    "HOOKS__PUBLISH": ("http://name:word@site/publish", "http://name:word@site/publish"),
    "HOOKS__RPC": ("http://[::1]:8000/rpc", "http://[::1]:8000/rpc"),
    "HOOKS__SUB_REFRESH": ("http://site/sub_refresh", "http://site/sub_refresh"),
    "HOOKS__HEADERS": ('["Cookie"]', ("Cookie",)),
    "HOOKS__TIMEOUT_S": ("0.5", 0.5),
    "HOOKS__CONCURRENCY": ("7", 7),
    "HOOKS__QUEUE": ("0", 0),
    "HOOKS__ANSWER_BYTES": ("2048", 2048),
    "EVENTS__KINDS": ('["user_offline"]', (Kind.USER_OFFLINE,)),
    "EVENTS__GRACE_S": ("0", 0.0),
    "EVENTS__MAXLEN": ("1000", 1000),
    "WEBHOOKS__URL": ("https://site/events?key=1", "https://site/events?key=1"),
    "WEBHOOKS__SECRET": ("a" * 32, SecretStr("a" * 32)),
    "WEBHOOKS__HEADERS": ('{"X-Key":"s3cret"}', {"X-Key": SecretStr("s3cret")}),
    "WEBHOOKS__BATCH": ("7", 7),
    "WEBHOOKS__TIMEOUT_S": ("0.5", 0.5),
    "WEBHOOKS__RETRY_FOR_S": ("0", 0.0),
    "LIMITS__FRAME_BYTES": ("2048", 2048),
    "LIMITS__DEPTH": ("5", 5),
    "LIMITS__OUTBOX_BYTES": ("70000", 70_000),
    "LIMITS__MESSAGES_PER_SECOND": ("0", 0.0),
    "LIMITS__USER_MESSAGES_PER_SECOND": ("5", 5.0),
    "LIMITS__USER_BYTES_PER_SECOND": ("1000", 1000.0),
    "LIMITS__RECIPIENT_MESSAGES_PER_SECOND": ("0.5", 0.5),
    "LIMITS__CLIENT_MEMORY_PERCENT": ("60", 60.0),
    "LIMITS__READ_BYTES_PER_SECOND": ("7", 7.0),
    "LIMITS__REQUESTS_PER_SECOND": ("7", 7.0),
    "LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS": ("7", 7.0),
    "LIMITS__REFUSALS": ("7", 7),
    "LIMITS__CONNECTIONS": ("10", 10),
    "LIMITS__CONNECTIONS_PER_ADDRESS": ("4", 4),
    "LIMITS__CONNECTIONS_PER_USER": ("0", 0),
    "LIMITS__CHANNELS_PER_CONNECTION": ("3", 3),
    "LIMITS__FAILED_ATTEMPTS_PER_MINUTE": ("5", 5.0),
    "LIMITS__NEWCOMERS_PER_ADDRESS": ("9", 9),
    "LIMITS__CONNECT_TIMEOUT_S": ("1.5", 1.5),
    "LIMITS__HEADER_BYTES": ("8192", 8192),
    "LIMITS__HEADER_TIMEOUT_S": ("2.5", 2.5),
    "LIMITS__BODY_TIMEOUT_S": ("60", 60.0),
    "COMPRESSION__ENABLED": ("true", True),
    "COMPRESSION__MIN_BYTES": ("100", 100),
    "PING__INTERVAL_S": ("5", 5),
    "PING__TIMEOUT_S": ("3", 3),
    "POLL__LINGER_S": ("3.5", 3.5),
    "POLL__ANSWER_BYTES": ("70000", 70_000),
    "DRAIN__PER_SECOND": ("100", 100),
    "DRAIN__WINDOW_S": ("2", 2.0),
    "DRAIN__GRACE_S": ("0.5", 0.5),
    "DRAIN__DEADLINE_S": ("30", 30.0),
    "INTERNAL__PORT": ("9000", 9000),
    "INTERNAL__HOST": ("10.0.0.1", "10.0.0.1"),
    "WATCHDOG_S": ("0", 0.0),
    "LOG__LEVEL": ("debug", "debug"),
    "LOG__FORMAT": ("json", "json"),
    "CONSOLE__ENABLED": ("false", False),
    "CONSOLE__SESSION_S": ("600", 600),
    "TRACE__NOTES": ("0", 0),
    "OTEL__ENABLED": ("true", True),
    "TRUSTED_PROXIES": ("10.0.0.0/8", "10.0.0.0/8"),
    "ALLOWED_ORIGINS": ('["https://a.example","https://b.example"]', ("https://a.example", "https://b.example")),
}

BAD = {
    "REDIS__URL": "http://host",
    "REDIS__DURABLE_URL": "http://host",
    "REDIS__ACK": "quorum",
    "REDIS__ACK_REPLICAS": "0",
    "REDIS__MAX_CONNECTIONS": "0",
    "REDIS__EMIT_SHARDS": "1025",
    "REDIS__EMIT_MAXLEN": "0",
    "EMIT__SHARD_BYTES": "1",
    "EMIT__TTL_S": "0",
    "BUS__CHANNEL": "",
    "BUS__ROUTING": "both",
    "BUS__CANARY_INTERVAL_S": "0",
    "BUS__CANARY_TIMEOUT_S": "soon",
    "DIRECTORY__LEASE_TTL_S": "-1",
    "DIRECTORY__RENEW_INTERVAL_S": "nan",
    "DIRECTORY__REAP_GRACE_S": "-0.1",
    "CHANNELS__HEARTBEAT_S": "0",
    "CHANNELS__LINGER_S": "-1",
    "CHANNELS__PAGE": "0",
    "CHANNELS__PAGE_BYTES": "10",
    "PRESENCE__GRACE_S": "-1",
    "RECEIPTS__TTL_S": "0",
    "NAMESPACES": "[]",
    "AUTH__MODE": "closed",
    "AUTH__JWKS_URL": "http://id.example/jwks",
    "AUTH__JWKS_MAX_AGE_S": "0",
    "AUTH__JWKS_TIMEOUT_S": "0",
    "AUTH__AUDIENCE": "",
    "AUTH__ISSUER": "",
    "AUTH__LEEWAY_S": "301",
    "AUTH__TICKET_TTL_S": "0",
    "HOOKS__CONNECT": "redis://site",
    "HOOKS__REFRESH": "site/refresh",
    "HOOKS__SUBSCRIBE": "http://site:port/",
    "HOOKS__PUBLISH": "http://site/#fragment",
    "HOOKS__RPC": "http://",
    "HOOKS__SUB_REFRESH": "",
    "HOOKS__HEADERS": '["Content-Length"]',
    "HOOKS__STATIC_HEADERS": '{"X Key":"s3cret"}',
    "HOOKS__CA_FILE": "/nowhere",
    "HOOKS__TIMEOUT_S": "0",
    "HOOKS__CONCURRENCY": "0",
    "HOOKS__QUEUE": "-1",
    "HOOKS__ANSWER_BYTES": "10",
    "EVENTS__KINDS": '["gap"]',
    "EVENTS__GRACE_S": "-1",
    "EVENTS__MAXLEN": "10",
    "WEBHOOKS__URL": "site/events",
    "WEBHOOKS__SECRET": "no base64",
    "WEBHOOKS__SECRET_FILE": "/nowhere",
    "WEBHOOKS__HEADERS": '{"X Key":"s3cret"}',
    "WEBHOOKS__CA_FILE": "/nowhere",
    "WEBHOOKS__BATCH": "0",
    "WEBHOOKS__TIMEOUT_S": "0",
    "WEBHOOKS__RETRY_FOR_S": "-1",
    "LIMITS__FRAME_BYTES": "12",
    "LIMITS__DEPTH": "129",
    "LIMITS__OUTBOX_BYTES": "1000",
    "LIMITS__MESSAGES_PER_SECOND": "-1",
    "LIMITS__USER_MESSAGES_PER_SECOND": "100001",
    "LIMITS__USER_BYTES_PER_SECOND": "-1",
    "LIMITS__RECIPIENT_MESSAGES_PER_SECOND": "-1",
    "LIMITS__CLIENT_MEMORY_PERCENT": "101",
    "LIMITS__READ_BYTES_PER_SECOND": "-1",
    "LIMITS__REQUESTS_PER_SECOND": "-1",
    "LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS": "-1",
    "LIMITS__REFUSALS": "0",
    "LIMITS__CONNECTIONS": "0",
    "LIMITS__CONNECTIONS_PER_ADDRESS": "-1",
    "LIMITS__CONNECTIONS_PER_USER": "-1",
    "LIMITS__CHANNELS_PER_CONNECTION": "0",
    "LIMITS__FAILED_ATTEMPTS_PER_MINUTE": "-1",
    "AUTH__OPEN_TO_NETWORK": "perhaps",
    "AUTH__REQUIRE_EXP": "perhaps",
    "AUTH__STREAM_RETURN_S": "-1",
    "LIMITS__NEWCOMERS_PER_ADDRESS": "-1",
    "LIMITS__CONNECT_TIMEOUT_S": "0",
    "LIMITS__HEADER_BYTES": "100",
    "LIMITS__HEADER_TIMEOUT_S": "0",
    "LIMITS__BODY_TIMEOUT_S": "0",
    "COMPRESSION__ENABLED": "perhaps",
    "COMPRESSION__MIN_BYTES": "0",
    "PING__INTERVAL_S": "0.5",
    "PING__TIMEOUT_S": "0",
    "POLL__LINGER_S": "-1",
    "POLL__ANSWER_BYTES": "0",
    "DRAIN__PER_SECOND": "0",
    "DRAIN__WINDOW_S": "-1",
    "DRAIN__GRACE_S": "x",
    "DRAIN__DEADLINE_S": "0",
    "INTERNAL__PORT": "70000",
    "INTERNAL__HOST": "",
    "WATCHDOG_S": "-1",
    "LOG__LEVEL": "loud",
    "LOG__FORMAT": "xml",
    "CONSOLE__ENABLED": "perhaps",
    "CONSOLE__SESSION_S": "59",
    "TRACE__NOTES": "-1",
    "OTEL__ENABLED": "perhaps",
    "TRUSTED_PROXIES": "10.0.0.5, proxy",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that runs the tests counts."""
    for name in os.environ:
        if name.upper().startswith("HELIOGRAPH_"):
            monkeypatch.delenv(name)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"HELIOGRAPH_{name}", value)

    return set_all


def names_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Every variable there is, by walking the settings."""
    names: set[str] = set()
    for name, field in model.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            names |= names_of(group, f"{name.upper()}__")
        else:
            names.add(prefix + name.upper())
    return names


def test_every_setting_is_read_from_its_variable(environment: Any) -> None:
    """Fails if a variable of some group does not arrive, or a new setting has no test here."""
    assert names_of(Settings) == {*GOOD, *SECRETS, "REDIS__SHARDS"}
    environment(**{name: text for name, (text, _) in GOOD.items()})
    loaded = Settings.load()
    for name, (_, value) in GOOD.items():
        found: Any = loaded
        for part in name.lower().split("__"):
            found = getattr(found, part)
        assert found == value, name


def test_without_any_variable_but_the_mode_the_defaults_hold(environment: Any) -> None:
    """Fails if a default is not good enough to start with."""
    environment(AUTH__MODE="open")
    loaded = Settings.load()
    assert loaded.redis.url is None
    assert (bus_channel(loaded.bus, loaded.redis), loaded.limits.frame_bytes, loaded.ping.interval_s) == (
        "events",
        65_536,
        25,
    )
    assert loaded.console_enabled


def test_one_variable_of_a_group_leaves_the_others(environment: Any) -> None:
    """Fails if setting one value of a group resets the rest of it."""
    environment(AUTH__MODE="open", LIMITS__DEPTH="3")
    assert Settings.load().limits.connections_per_user == 20


@pytest.mark.parametrize(("name", "value"), BAD.items(), ids=BAD)
def test_a_bad_value_is_refused_by_name(environment: Any, name: str, value: str) -> None:
    """Fails if a value that cannot be meant is accepted, or the person who set it is not told which it was."""
    environment(AUTH__MODE="open")
    environment(**{name: value})
    with pytest.raises(BadSetting) as raised:
        Settings.load()
    assert str(raised.value).startswith(f"HELIOGRAPH_{name}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('{"chat":{"history_size":0}}', "HELIOGRAPH_NAMESPACES__CHAT__HISTORY_SIZE: "),
        ('{"chat":{"historysize":9}}', "HELIOGRAPH_NAMESPACES__CHAT__HISTORYSIZE: there is no such setting"),
        ('{"chat":5}', "HELIOGRAPH_NAMESPACES__CHAT: "),
        ('{"chat":', "HELIOGRAPH_NAMESPACES: must be JSON"),
        ('{"chat":{"client_send":true}}', "HELIOGRAPH_NAMESPACES: client_send is an option of '#'"),
        ('{"#":{"client_subscribe":true}}', "HELIOGRAPH_NAMESPACES: client_subscribe cannot be"),
        ('{"#":{"subscribe_hook":false}}', "HELIOGRAPH_NAMESPACES: subscribe_hook cannot be"),
        (
            '{"a":{"publish_hook":true}}',
            "HELIOGRAPH_NAMESPACES: 'a' has publish_hook, which needs HELIOGRAPH_HOOKS__PUBLISH",
        ),
    ],
)
def test_a_bad_namespace_is_refused_by_name(environment: Any, value: str, says: str) -> None:
    """Fails if an option of a namespace is silently ignored, or one is not told which it was."""
    environment(AUTH__MODE="open", NAMESPACES=value)
    with pytest.raises(BadSetting) as raised:
        Settings.load()
    assert str(raised.value).startswith(says)


@pytest.mark.parametrize(
    "written",
    [
        "redis://one:1/0, rediss+sentinel://two:2,three:3/0?master=m,unix:///run/redis.sock",
        '["redis://one:1/0", "rediss+sentinel://two:2,three:3/0?master=m", "unix:///run/redis.sock"]',
    ],
    ids=["commas", "JSON"],
)
def test_shards_are_read_as_programs_read_them(
    environment: Any, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if replicas and publishers take one list for two, or cut a group of Sentinels in two."""
    environment(AUTH__MODE="open", REDIS__SHARDS=written)
    urls = ("redis://one:1/0", "rediss+sentinel://two:2,three:3/0?master=m", "unix:///run/redis.sock")
    assert Settings.load().redis.urls == urls
    assert tuple(cluster_settings().urls) == urls
    monkeypatch.delenv("HELIOGRAPH_REDIS__SHARDS")
    assert tuple(cluster_settings(written).urls) == tuple(cluster_settings(urls).urls) == urls


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"SHARDS": '["redis://one:1/0", "http://:hunter2@x"]'}, "SHARDS: shard 2 must begin with"),
        ({"SHARDS": '["redis://one:1/0", 7]'}, "SHARDS: shard 2 must be text"),
        ({"SHARDS": '["redis://one:1/0"'}, "SHARDS: is not valid JSON"),
        ({"SHARDS": "redis://one:1/0,redis://two/0,redis://one:1/0"}, "SHARDS: shards 1 and 3 are the same"),
        ({"SHARDS": "redis://one:1/0,redis://two/0", "URL": "redis://one/0"}, "SHARDS and URL cannot both be set"),
        ({"SHARDS": "redis://one:1/0,redis://two/0", "DURABLE_URL": "redis://x/0"}, "DURABLE_URL does not go with"),
    ],
    ids=["scheme", "number", "JSON", "twice", "with URL", "with DURABLE_URL"],
)
def test_a_bad_list_of_shards_is_refused(environment: Any, variables: dict[str, str], says: str) -> None:
    """Fails if a mistake in the list is found by a user, or is told in other words to replicas and publishers."""
    environment(AUTH__MODE="open", **{f"REDIS__{name}": value for name, value in variables.items()})
    for load in (Settings.load, cluster_settings):
        with pytest.raises(BadSetting, match=says) as caught:
            load()
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("live", "durable"),
    [("redis+cluster://one", "redis://x/0"), ("redis://x/0", "redis+cluster://one?virtual_shards=1")],
)
def test_a_cluster_with_a_durable_redis_is_refused(environment: Any, live: str, durable: str) -> None:
    """Fails if what is kept gets keys or bus channels that the other server does not know."""
    environment(AUTH__MODE="open", REDIS__URL=live, REDIS__DURABLE_URL=durable)
    for load in (Settings.load, cluster_settings):
        with pytest.raises(BadSetting, match="HELIOGRAPH_REDIS: DURABLE_URL does not go with a cluster"):
            load()


def test_a_durable_redis_alone_is_refused(environment: Any) -> None:
    """Fails if what is kept goes to Redis while replicas do not hear each other."""
    environment(AUTH__MODE="open", REDIS__DURABLE_URL="redis://host")
    with pytest.raises(BadSetting, match="HELIOGRAPH_REDIS: DURABLE_URL needs URL"):
        Settings.load()


@pytest.mark.parametrize("name", ["DIRECTORY__LEASE_TTL_S", "LIMITS__CONNECT_TIMEOUT_S", "DRAIN__WINDOW_S"])
def test_infinity_is_no_time(environment: Any, name: str) -> None:
    """Fails if `inf` passes for seconds: it ends in a traceback where it is first counted with."""
    environment(AUTH__MODE="open", **{name: "inf"})
    with pytest.raises(BadSetting, match=f"HELIOGRAPH_{name}: "):
        Settings.load()


def test_all_bad_values_are_named_at_once(environment: Any) -> None:
    """Fails if one has to start over for each mistake."""
    environment(AUTH__MODE="open", LIMITS__DEPTH="x", PING__TIMEOUT_S="y")
    with pytest.raises(BadSetting) as raised:
        Settings.load()
    assert "HELIOGRAPH_LIMITS__DEPTH: " in str(raised.value)
    assert "HELIOGRAPH_PING__TIMEOUT_S: " in str(raised.value)


@pytest.mark.parametrize("name", ["AUTH__SECRT", "REDIS__URI", "LIMITS__DEPHT", "LIMITS__DEPTH__MAX"])
def test_a_typing_error_within_a_group_is_refused(environment: Any, name: str) -> None:
    """Fails if a misspelt setting is silently ignored: the limit one meant to set would not be."""
    environment(AUTH__MODE="open", **{name: "5"})
    with pytest.raises(BadSetting, match="HELIOGRAPH_" + name.removesuffix("__MAX")):
        Settings.load()


def test_typing_errors_outside_of_a_group_are_found(environment: Any) -> None:
    """Fails if a misspelt group cannot be warned of, or a known variable is."""
    environment(REDDIS__URL="redis://x", LIMITS__DEPTH="3", PORT="8080", ALLOWED_ORIGIN="[]")
    assert unknown_variables() == ["HELIOGRAPH_ALLOWED_ORIGIN", "HELIOGRAPH_REDDIS__URL"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOWED_ORIGINS", "https://app.example.org"),
        ("ALLOWED_ORIGINS", '["https://app.example.org"'),
        ("ALLOWED_ORIGINS", '{"a":1}'),
        ("ALLOWED_ORIGINS", "[5]"),
        ("LIMITS", "5"),
        ("LIMITS", '{"depth":'),
    ],
)
def test_what_should_be_json_and_is_not_is_refused_by_name(environment: Any, name: str, value: str) -> None:
    """Fails if a list that was not written as JSON ends in a traceback instead of a line that says so."""
    environment(AUTH__MODE="open", **{name: value})
    with pytest.raises(BadSetting, match=f"HELIOGRAPH_{name}"):
        Settings.load()


SECRETS = {
    "API__KEY",
    "API__KEY_FILE",
    "AUTH__SECRET",
    "AUTH__SECRET_FILE",
    "AUTH__PUBLIC_KEY_FILE",
    "HOOKS__STATIC_HEADERS",
    "HOOKS__CA_FILE",
    "WEBHOOKS__SECRET_FILE",
    "WEBHOOKS__CA_FILE",
}  # which have tests of their own, below


class TestHooks:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"HOOKS__REFRESH": "http://site"}, "HELIOGRAPH_HOOKS: REFRESH needs CONNECT"),
            ({"HOOKS__SUB_REFRESH": "http://site"}, "HELIOGRAPH_HOOKS: SUB_REFRESH needs SUBSCRIBE"),
            ({"AUTH__MODE": "hook"}, "HELIOGRAPH_AUTH__MODE hook needs HELIOGRAPH_HOOKS__CONNECT"),
            (
                {"AUTH__MODE": "hook", "AUTH__SECRET": SECRET, "HOOKS__CONNECT": "http://site"},
                "HELIOGRAPH_AUTH: MODE hook takes no tokens",
            ),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
    )
    def test_a_hook_that_nobody_would_call_is_refused(
        self, environment: Any, given: dict[str, str], says: str
    ) -> None:
        """Fails if a replica starts that nobody can enter, or asks less than its operator believes."""
        environment(**{"AUTH__MODE": "open", **given})
        with pytest.raises(BadSetting) as raised:
            Settings.load()
        assert str(raised.value).startswith(says)

    def test_the_secret_of_the_backend_is_not_shown(self, environment: Any) -> None:
        """Fails if the secret is lost on its way to the backend, or stands in a log of the settings."""
        environment(AUTH__MODE="open", HOOKS__STATIC_HEADERS='{"X-Key":"s3cret"}')
        hooks = Settings.load().hooks
        assert hooks.secret_headers() == {"X-Key": "s3cret"}
        assert "s3cret" not in repr(hooks)


class TestApiKey:
    def test_from_the_variable(self, environment: Any) -> None:
        """Fails if the key is not what was given."""
        environment(AUTH__MODE="open", API__KEY="sixteen bytes...")
        assert Settings.load().api.secret() == b"sixteen bytes..."

    def test_from_a_file(self, environment: Any, tmp_path: Path) -> None:
        """Fails if the key is not what the file holds, or its line end belongs to it."""
        file = tmp_path / "key"
        file.write_text("another sixteen bytes\n")
        environment(AUTH__MODE="open", API__KEY_FILE=str(file))
        assert Settings.load().api.secret() == b"another sixteen bytes"

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"API__KEY": "short"}, "16 bytes"),
            ({"API__KEY": "0123456789abcdef"}, "an example that everybody knows"),
            ({"API__KEY": "changeme-changeme"}, "an example that everybody knows"),
            ({"API__KEY": ""}, "16 bytes"),
            ({"API__KEY_FILE": "/nonesuch"}, "KEY_FILE cannot be read"),
            ({"API__KEY": "sixteen bytes...", "API__KEY_FILE": "/nonesuch"}, "not both"),
        ],
    )
    def test_one_that_protects_nothing_is_refused(self, environment: Any, values: dict[str, str], says: str) -> None:
        """Fails if a replica starts with a key that can be guessed, or without the one that was meant."""
        environment(AUTH__MODE="open", **values)
        with pytest.raises(BadSetting, match=f"HELIOGRAPH_API: .*{says}"):
            Settings.load()


class TestSecrets:
    def test_jwt_without_a_secret_refuses(self) -> None:
        """Fails if a replica that anybody could make tokens for starts; and jwt is what one gets by default."""
        with pytest.raises(BadSetting, match=r"HELIOGRAPH_AUTH: .*SECRET.*32 bytes"):
            Settings.load()

    @pytest.mark.parametrize("size", [0, 1, 31])
    def test_a_short_secret_refuses(self, environment: Any, size: int) -> None:
        """Fails if a key that can be guessed is accepted (RFC 7518 section 3.2 asks for 32 bytes)."""
        environment(AUTH__SECRET="x" * size)
        with pytest.raises(BadSetting, match="32 bytes"):
            Settings.load()

    @pytest.mark.parametrize(
        "example", ["0123456789abcdef" * 2, "secret-secret-secret-secret-123456", "Password" * 4]
    )
    def test_an_example_refuses(self, environment: Any, example: str) -> None:
        """Fails if a key that stands in documentation protects anything."""
        environment(AUTH__SECRET=example)
        with pytest.raises(BadSetting, match="SECRET is an example that everybody knows"):
            Settings.load()

    def test_a_secret_of_32_bytes_will_do(self, environment: Any) -> None:
        """Fails if the limit is off by one, or counts characters."""
        environment(AUTH__SECRET="안" * 11)
        assert Settings.load().auth.key() == ("안" * 11).encode()

    def test_a_secret_from_a_file(self, environment: Any, tmp_path: Path) -> None:
        """Fails if the line break that editors and `docker secret` leave is taken for a part of the secret."""
        (tmp_path / "secret").write_text(SECRET + "\n")
        environment(AUTH__SECRET_FILE=str(tmp_path / "secret"))
        assert Settings.load().auth.key() == SECRET.encode()

    def test_a_file_that_cannot_be_read_refuses(self, environment: Any, tmp_path: Path) -> None:
        """Fails if a missing secret file is found out when the first client comes."""
        environment(AUTH__SECRET_FILE=str(tmp_path / "nothing-here"))
        with pytest.raises(BadSetting, match="SECRET_FILE cannot be read: No such file"):
            Settings.load()

    def test_a_secret_and_a_file_refuse(self, environment: Any, tmp_path: Path) -> None:
        """Fails if one of the two is chosen silently."""
        (tmp_path / "secret").write_text(SECRET)
        environment(AUTH__SECRET=SECRET, AUTH__SECRET_FILE=str(tmp_path / "secret"))
        with pytest.raises(BadSetting, match="not both"):
            Settings.load()

    def test_a_public_key_file_that_cannot_be_read_refuses(self, environment: Any, tmp_path: Path) -> None:
        """Fails if a missing key file is found out when the first client comes."""
        environment(AUTH__PUBLIC_KEY_FILE=str(tmp_path / "nothing-here"))
        with pytest.raises(BadSetting, match="PUBLIC_KEY_FILE cannot be read: No such file"):
            Settings.load()

    @pytest.mark.parametrize("mode", ["jwt", "open"])
    def test_two_kinds_of_key_refuse(self, environment: Any, tmp_path: Path, mode: str) -> None:
        """Fails if a replica checks tokens with one of two keys and does not say with which."""
        environment(AUTH__SECRET=SECRET, AUTH__JWKS_URL="https://id.example/jwks", AUTH__MODE=mode)
        with pytest.raises(BadSetting, match="one of SECRET and JWKS_URL, not both"):
            Settings.load()
        environment(AUTH__PUBLIC_KEY_FILE=str(tmp_path / "key.pem"))
        with pytest.raises(BadSetting, match="one of SECRET and PUBLIC_KEY_FILE and JWKS_URL, not all"):
            Settings.load()

    @pytest.mark.parametrize(
        ("url", "good"),
        [
            ("https://id.example/.well-known/jwks.json", True),
            ("http://localhost:8000/jwks", True),
            ("http://127.0.0.1/jwks", True),
            ("http://[::1]:8000/jwks", True),
            ("http://id.example/jwks", False),
            ("http://localhost.id.example/jwks", False),
            ("http://localhost@id.example/jwks", False),
            ("https://", False),
            ("file:///etc/jwks", False),
            ("id.example/jwks", False),
            ("http://[", False),
        ],
    )
    def test_keys_come_over_a_safe_line(self, environment: Any, url: str, good: bool) -> None:
        """Fails if keys are fetched in a way that anyone in between could change."""
        environment(AUTH__JWKS_URL=url)
        if good:
            assert Settings.load().auth.jwks_url == url
        else:
            with pytest.raises(BadSetting, match="HELIOGRAPH_AUTH__JWKS_URL"):
                Settings.load()

    @pytest.mark.parametrize(
        "variables",
        [
            {"AUTH__SECRET": "hunter2-hunter2"},
            {"AUTH__SECRET": "hunter2-" * 8, "AUTH__MODE": "hunter2"},
            {"AUTH__SECRET": "hunter2-" * 8, "AUTH__JWKS_URL": "https://id.example"},
            {"AUTH__JWKS_URL": "https://me:hunter2@id.example"},
            {"AUTH__JWKS_URL": "http://id.example/hunter2"},
            {"AUTH__SECRET": "hunter2-" * 8, "LIMITS__DEPTH": "x"},
            {"AUTH__SECRT": "hunter2-" * 8},
            {"AUTH": '{"secret":"hunter2"'},
            {"AUTH": '{"secret":["hunter2"]}'},
            {"AUTH__MODE": "open", "REDIS__URL": "http://:hunter2@host"},
            {"AUTH__MODE": "open", "REDIS__DURABLE_URL": "http://:hunter2@host"},
            {"AUTH__MODE": "open", "REDIS__DURABLE_URL": "redis://:hunter2@host"},
        ],
        ids=str,
    )
    def test_no_value_is_repeated(self, environment: Any, variables: dict[str, str]) -> None:
        """Fails if a refusal puts a secret (or a password in a URL) into a log or onto a screen."""
        environment(**variables)
        with pytest.raises(BadSetting) as raised:
            Settings.load()
        assert "hunter2" not in str(raised.value)
        assert raised.value.__suppress_context__, "a traceback would show the value that pydantic has in its error"

    def test_settings_do_not_show_the_secret(self, environment: Any) -> None:
        """Fails if printing or logging the settings shows the secret."""
        environment(AUTH__SECRET=SECRET)
        loaded = Settings.load()
        for text in (repr(loaded), str(loaded), loaded.model_dump_json()):
            assert SECRET not in text


def test_settings_cannot_be_changed_later(environment: Any) -> None:
    """Fails if a part of the program can change what another has read."""
    environment(AUTH__MODE="open")
    loaded = Settings.load()
    with pytest.raises(ValidationError):
        loaded.limits.depth = 5
    with pytest.raises(ValidationError):
        loaded.trusted_proxies = "*"


@pytest.mark.parametrize(
    ("mode", "enabled", "shown"),
    [("open", None, True), ("jwt", None, False), ("open", False, False), ("jwt", True, True)],
)
def test_where_the_console_is_shown(environment: Any, mode: str, enabled: bool | None, shown: bool) -> None:
    """Fails if the page is shown in production without being asked for, or cannot be switched."""
    environment(AUTH__MODE=mode, AUTH__SECRET=SECRET)
    if enabled is not None:
        environment(CONSOLE__ENABLED=str(enabled))
    assert Settings.load().console_enabled is shown


def test_the_table_has_every_variable() -> None:
    """Fails if a setting lacks its line, or its explanation."""
    rows = [row.split("|")[1:-1] for row in settings_table().splitlines()[2:]]
    assert {row[0].strip(" `") for row in rows} == {f"HELIOGRAPH_{name}" for name in names_of(Settings)}
    assert all(row[2].strip() not in ("", "None") for row in rows)


def test_the_handbook_has_this_very_table() -> None:
    """Fails if docs/operations.md lacks a setting, or tells another default or meaning than the code."""
    text = (Path(__file__).parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `HELIOGRAPH_")]
    assert rows == settings_table().splitlines()[2:], "put in what `heliograph settings` prints"
