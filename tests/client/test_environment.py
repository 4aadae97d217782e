"""Which settings other programs use: the cluster's own variables, and arguments in the place of single ones."""

import os
from collections.abc import Callable

import pytest

from heliograph.client.composite import Composite
from heliograph.client.consumer import Consumer
from heliograph.client.environment import ClusterSettings, cluster_settings
from heliograph.client.live import Live
from heliograph.client.publisher import AsyncPublisher, Publisher
from heliograph.errors import BadSetting
from heliograph.protocol.channel_options import Namespace

LIVE, KEPT, OTHER = "redis://live:6379/0", "redis://kept:6379/0", "redis://other:6379/0"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("HELIOGRAPH_"):
            monkeypatch.delenv(name)


def set_all(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"HELIOGRAPH_{name}", value)


def test_everything_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if one of the variables that programs share with the cluster is passed over."""
    set_all(monkeypatch, REDIS__URL=LIVE, REDIS__DURABLE_URL=KEPT, REDIS__PREFIX="p:", BUS__CHANNEL="bus")
    set_all(monkeypatch, REDIS__EMIT_SHARDS="8", BUS__ROUTING="directed", LIMITS__DEPTH="7")
    set_all(monkeypatch, NAMESPACES='{"job": {"run": true}}', REDIS__ACK="replica", REDIS__ACK_REPLICAS="2")
    found = cluster_settings()
    assert (found.live_url, found.kept_url, found.prefix, found.bus_channel) == (LIVE, KEPT, "p:", "bus")
    assert (found.emit_shards, found.routing, found.depth) == (8, "directed", 7)
    assert (found.ack, found.ack_replicas) == ("replica", 2)
    assert found.namespaces["job"].run


def test_an_argument_stands_for_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if giving one thing loses another: with the URL alone, what is kept stood where nobody reads it."""
    set_all(monkeypatch, REDIS__URL=LIVE, REDIS__DURABLE_URL=KEPT, REDIS__PREFIX="p:", NAMESPACES='{"a": {}}')
    assert cluster_settings(LIVE).kept_url == KEPT
    assert cluster_settings(LIVE, prefix="q:").kept_url == KEPT
    assert cluster_settings(prefix="q:").prefix == "q:"
    assert cluster_settings(bus_channel="b").prefix == "p:"
    assert cluster_settings(ack="disk").ack == "disk"
    assert cluster_settings(OTHER, durable_url="").kept_url == OTHER
    assert cluster_settings(OTHER, durable_url=KEPT).live_url == OTHER
    assert cluster_settings(namespaces={"b": Namespace()}).namespaces == {"b": Namespace()}
    monkeypatch.delenv("HELIOGRAPH_REDIS__URL")
    assert cluster_settings(OTHER).kept_url == KEPT


def test_one_cluster_and_the_durable_server_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if what is published is kept in one cluster and announced in another."""
    set_all(monkeypatch, REDIS__URL=LIVE, REDIS__DURABLE_URL=KEPT)
    for make in (cluster_settings, Publisher, AsyncPublisher, Composite):
        with pytest.raises(BadSetting, match="or give both URLs"):
            make(OTHER)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "HELIOGRAPH_REDIS__URL"),
        ({"REDIS__URL": "http://localhost"}, "HELIOGRAPH_REDIS__URL: must begin with"),
        ({"REDIS__URL": LIVE, "NAMESPACES": "job"}, "HELIOGRAPH_NAMESPACES: must be JSON"),
        ({"REDIS__URL": LIVE, "LIMITS__DEPTH": "deep"}, "HELIOGRAPH_LIMITS__DEPTH"),
        ({"REDIS__URL": LIVE, "REDIS__ACK": "quorum"}, "HELIOGRAPH_REDIS__ACK: must be one of 'memory', 'disk'"),
    ],
    ids=["no URL", "scheme", "JSON", "number", "mode"],
)
@pytest.mark.parametrize(
    "make",
    [Publisher, AsyncPublisher, Composite, Live, lambda: Consumer(None, "group", print)],  # type: ignore[arg-type]
    ids=["Publisher", "AsyncPublisher", "Composite", "Live", "Consumer"],
)
def test_each_says_what_is_wrong(
    make: Callable[[], object], variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a setting that cannot be used is another error than BadSetting, or is not named."""
    set_all(monkeypatch, **variables)
    with pytest.raises(BadSetting, match=says):
        make()


async def test_all_use_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if one of them looks elsewhere than the others."""
    set_all(monkeypatch, REDIS__URL=LIVE, REDIS__DURABLE_URL=KEPT, REDIS__PREFIX="p:", REDIS__EMIT_SHARDS="8")

    async def handle(entry: object) -> None: ...

    consumer = Consumer(None, "group", handle)
    [worker] = consumer._workers
    assert (worker.place.url, worker.place.keys.prefix, worker.options.shards_total) == (KEPT, "p:", 8)
    assert Consumer(OTHER, "group", handle)._workers[0].place.url == OTHER
    assert Consumer(None, "group", handle, stream="own")._workers[0].options.shards_total == 4
    async with Composite() as composite:
        assert (composite._live._url, composite._kept_url, composite._keys.prefix) == (LIVE, KEPT, "p:")
    for publisher in (Publisher(), Publisher(LIVE), AsyncPublisher()):
        assert isinstance(publisher._target, ClusterSettings)
        assert (publisher._target.live_url, publisher._target.durable_url) == (LIVE, KEPT)
    live = Live()
    assert live._url == LIVE
    await live.close()
