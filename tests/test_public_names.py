"""What a program may import from `heliograph`, and what that costs."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import heliograph
from heliograph.client import environment
from heliograph.settings import BusSettings, LimitSettings, OtelSettings, RedisSettings
from tests.support.cluster import ROOT

PUBLIC = {
    "Ack",
    "AsyncPublisher",
    "BadChannel",
    "BadCursor",
    "BadData",
    "BadDevice",
    "BadSetting",
    "BadSignature",
    "BadUserId",
    "BusUnavailable",
    "ChannelSubscription",
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientState",
    "Composite",
    "Consumer",
    "ConsumerStats",
    "HeliographError",
    "History",
    "Item",
    "Joined",
    "Left",
    "LifecycleEvent",
    "Live",
    "LiveMessage",
    "Lost",
    "Message",
    "Namespace",
    "NeedsRedis",
    "NoSocket",
    "NotAnswered",
    "PublishError",
    "Published",
    "Publisher",
    "RequestRefused",
    "RunProgress",
    "RunState",
    "ShardedStream",
    "StorageFull",
    "Stored",
    "StreamEntry",
    "Subscribed",
    "Subscription",
    "SubscriptionRefused",
    "TokenMaker",
    "Unsubscribed",
    "__version__",
    "connect",
    "online_users",
}
# What the extra `server` brings.
SERVER = {
    "click",
    "httptools",
    "httpx",
    "jwt",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "starlette",
    "uvicorn",
    "uvloop",
    "websockets",
}


def test_the_public_names_are_these() -> None:
    """Fails if a name is published or taken back without anybody having decided that."""
    assert set(heliograph.__all__) == PUBLIC
    assert set(dir(heliograph)) >= PUBLIC


def test_type_checkers_see_the_same_names() -> None:
    """Fails if a public name is unknown to mypy, or one that it knows is not there."""
    lines = Path(heliograph.__file__ or "").read_text().splitlines()
    imported = {line.rpartition(" as ")[2].strip() for line in lines if "import" in line and " as " in line}
    assert imported == PUBLIC - {"__version__"}


def test_no_public_name_needs_a_server() -> None:
    """Fails if a program that only publishes has to install what serves."""
    code = "import sys, heliograph; [getattr(heliograph, name) for name in heliograph.__all__]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {module.partition(".")[0] for module in done.stdout.split()} & SERVER


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Fails if `hasattr` and `from heliograph import` go wrong on a name that is not there."""
    assert not hasattr(heliograph, "Nothing")


def test_the_version_is_said_once() -> None:
    """Fails if the package, its metadata and pyproject.toml disagree (install it again: scripts/check)."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert heliograph.__version__ == importlib.metadata.version("heliograph") == said


def test_programs_and_replicas_read_the_same_settings() -> None:
    """Fails if a publisher, which reads its settings without pydantic, has another name or default than a replica."""
    assert {
        name: set(group.model_fields)
        for name, group in (("redis", RedisSettings), ("bus", BusSettings), ("otel", OtelSettings))
    } == (environment.KNOWN)
    found = environment.cluster_settings("redis://host")
    redis, bus = RedisSettings(url="redis://host"), BusSettings()
    assert (found.prefix, found.emit_shards, found.routing) == (redis.prefix, redis.emit_shards, bus.routing)
    assert found.depth == LimitSettings().depth
