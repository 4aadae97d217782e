"""What all tests share: a real Redis, replicas in this process, and the check that nothing is left behind."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from heliograph.api.metrics import IS_COMPILED
from heliograph.backends.redis import client as redis_client
from heliograph.cluster.pubsub_manager import reset_pubsub_manager
from tests.support.alone import Turns
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica, run_replica, settings_for
from tests.support.waiting import eventually

# In the background of a script SIGINT is ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

# Real workers, playbooks and consumers, and channels that are broken and repaired: `-m "not e2e and not slow"` leaves
# them out, and is to be done in two minutes. What else it leaves out is marked in its place: sweeps over every place
# to stop, floods, and what waits for whole seconds.
SLOW = ("tests/client/", "tests/contrib/", "tests/cluster/test_channels.py", "tests/cluster/test_presence.py")

# What a replica does now and then, or gives others time for, is sooner or shorter here.
SOONER = {
    "heliograph.composition.shard.SWEEP_EVERY_S": 0.2,
    "heliograph.composition.shard.TELL_EVERY_S": 0.05,
    "heliograph.cluster.channel_counts.INTERVAL_S": 0.05,
    "heliograph.cluster.commands.LOOK_S": 0.2,
    "heliograph.cluster.directory.AFTER_ERROR_S": 0.1,
    "heliograph.cluster.memory_watch.INTERVAL_S": 0.05,
    "heliograph.cluster.presence.RETRY_S": 0.1,
    "heliograph.cluster.pulse.INTERVAL_S": 0.1,
    "heliograph.cluster.receipts.INTERVAL_S": 0.05,
    "heliograph.server.websocket.DISCARD_S": 0.3,
    "heliograph.transports.asgi_sink.CLOSE_TIMEOUT_S": 0.3,
    "heliograph.transports.asgi_stream.CLOSE_TIMEOUT_S": 0.3,
}

StartReplica = Callable[..., Awaitable[RunningReplica]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of tests/sdk, here because pytest reads no others in time."""
    parser.addoption("--sdk", default="node,chromium,python", help="which SDKs: these, go, java")
    parser.addoption("--reference", action="store_true", help="test the SDKs against Centrifugo instead")


def pytest_report_header() -> str:
    return f"heliograph: {'compiled' if IS_COMPILED else 'not compiled, so the sources are what runs'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):  # one of several processes
        files: dict[Path, list[pytest.Item]] = {}
        for item in items:
            files.setdefault(item.path, []).append(item)
        items.sort(key=lambda item: _place(files[item.path]))


def _place(tests: list[pytest.Item]) -> int:
    """Where a file comes: one that takes long first, so that no process is left with it at the end.

    A test that is to be alone keeps all processes waiting until what runs has ended. So it comes when long tests are
    over, and a file with no others last.
    """
    alone = [test.get_closest_marker("alone") is not None for test in tests]
    if any(alone):
        return 3 if all(alone) else 2
    return 0 if any(test.get_closest_marker("slow") or test.get_closest_marker("e2e") for test in tests) else 1


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait for a turn before the test's time begins (see tests/support/alone.py)."""
    if not hasattr(item.config, "workerinput"):  # not one of several processes
        return (yield)
    turns = Turns(Path(item.config.getoption("basetemp")).parent)
    with turns.turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """A report may quote text that is no valid Unicode, which cannot be sent to the process that gathers reports."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _sendable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_sendable(each) for each in value]
    if isinstance(value, tuple):  # pytest's own summary of what was skipped counts on one
        return tuple(_sendable(each) for each in value)
    return value


@pytest.fixture(scope="session", autouse=True)
def sooner() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, interval_s in SOONER.items():
            patch.setattr(name, interval_s)
        yield


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that Redis does not answer fails after 0.3 s instead of one."""
    monkeypatch.setattr(redis_client, "TIMEOUT_S", 0.3)
    assert redis_client.connect.__kwdefaults__ is not None
    monkeypatch.setitem(redis_client.connect.__kwdefaults__, "timeout_s", 0.3)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis that tests share. Each uses a namespace of its own and does nothing that others would notice."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """The Redis Cluster that tests share: three masters, and all users and channels in one slot, which comes back."""
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for one test, to be killed, frozen, flushed or counted on."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def namespace() -> str:
    """What this test's keys and bus channels begin with."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def start_replica(redis_server: RedisServer, namespace: str) -> AsyncIterator[StartReplica]:
    """Start replicas of one cluster: `await start_replica("replica-2", limits={…})`. Each is ready when it returns.

    `redis_url=None` starts one without Redis, `ready=False` does not wait.
    """
    running: list[RunningReplica] = []

    async def start(name: str = "replica-1", *, ready: bool = True, **options: Any) -> RunningReplica:
        options.setdefault("redis_url", redis_server.url)
        replica = await run_replica(settings_for(namespace=namespace, **options), name)
        running.append(replica)
        if ready:
            await eventually(lambda: replica.replica.node.ready)
        return replica

    yield start
    await asyncio.gather(*(replica.stop() for replica in running))


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    """Fails the test that leaves a task running, and resets the process's PubSubManager."""
    before = asyncio.all_tasks()
    yield
    await reset_pubsub_manager()
    await eventually(lambda: not _left_over(before), within_s=2)


def _left_over(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
