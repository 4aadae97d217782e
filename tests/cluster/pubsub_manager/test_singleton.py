"""The process's own manager: one, and replaceable."""

import asyncio

import pytest

from heliograph.application import build_replica
from heliograph.cluster.pubsub_manager import get_pubsub_manager, reset_pubsub_manager
from heliograph.errors import BadSetting
from heliograph.ports import BusState
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_server import RedisServer
from tests.support.replicas import settings_for
from tests.support.waiting import eventually


class TestSingleton:
    async def test_is_the_same_at_each_call(self) -> None:
        """Fails if two parts of a process get two managers: the handler would be set on the wrong one."""
        first = get_pubsub_manager(settings_for())
        assert get_pubsub_manager() is first
        assert get_pubsub_manager(settings_for(namespace="other")) is first

    async def test_is_made_of_the_settings_given_first(self, redis_server: RedisServer, namespace: str) -> None:
        """Fails if settings are passed over, and the manager listens on another channel or on none."""
        bus = get_pubsub_manager(settings_for(redis_url=redis_server.url, namespace=namespace))
        assert bus.enabled
        assert bus.channel == f"{namespace}:events"
        assert bus.server.keys.prefix == f"{namespace}:"

    async def test_without_settings_reads_the_environment(
        self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if `get_pubsub_manager()` alone does not follow HELIOGRAPH_REDIS__URL."""
        monkeypatch.setenv("HELIOGRAPH_AUTH__MODE", "open")
        monkeypatch.setenv("HELIOGRAPH_BUS__CHANNEL", "from-the-environment")
        monkeypatch.setenv("HELIOGRAPH_REDIS__URL", redis_server.url)
        bus = get_pubsub_manager()
        assert bus.channel == "from-the-environment"
        await bus.initialize()
        assert bus.state is BusState.INITIALIZED

    async def test_a_bad_environment_makes_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if a setting that cannot be used leaves half a manager behind."""
        monkeypatch.setenv("HELIOGRAPH_AUTH__MODE", "open")
        monkeypatch.setenv("HELIOGRAPH_REDIS__URL", "http://not-a-redis")
        with pytest.raises(BadSetting):
            get_pubsub_manager()
        monkeypatch.delenv("HELIOGRAPH_REDIS__URL")
        assert get_pubsub_manager().state is BusState.DISABLED

    async def test_reset_closes_the_old_one_and_the_next_is_new(
        self, own_redis: RedisServer, own_admin: RedisAdmin, namespace: str
    ) -> None:
        """Fails if a reset forgets a manager that still listens, or hands out the old one again."""
        settings = settings_for(redis_url=own_redis.url, namespace=namespace)
        old = get_pubsub_manager(settings)
        await old.initialize()
        old.start_listening()
        await eventually(lambda: old.ready)
        await reset_pubsub_manager()
        assert old.state is BusState.NEW
        await eventually(lambda: _no_connections(own_admin))
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("bus-")]
        new = get_pubsub_manager(settings)
        assert new is not old
        assert new.node_id != old.node_id

    async def test_a_replica_takes_the_one_that_was_there_before_it(
        self, redis_server: RedisServer, namespace: str
    ) -> None:
        """Fails if the replica is one node to its log and another one to its bus."""
        settings = settings_for(redis_url=redis_server.url, namespace=namespace)
        bus = get_pubsub_manager(settings)
        replica = build_replica(settings, "replica-1", get_pubsub_manager)
        assert replica.bus is bus
        assert replica.backends.servers == [bus.server]
        assert replica.node.node_id == bus.server.node_id

    async def test_reset_without_one_does_nothing(self) -> None:
        """Fails if a test (or a worker) that never had a manager cannot reset it."""
        await reset_pubsub_manager()
        await reset_pubsub_manager()
        assert get_pubsub_manager(settings_for()).state is BusState.DISABLED


async def _no_connections(admin: RedisAdmin) -> bool:
    return await admin.connections() == []
