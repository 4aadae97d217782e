"""Real replicas in this process: each with its own hub, bus and server on a free port of loopback."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import uvicorn.server

from heliograph.application import Replica, build_replica
from heliograph.backends.redis.server import RedisServer
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.server.serving import DrainingServer, build_server
from heliograph.settings import Settings
from tests.support.ports import free_port
from tests.support.waiting import eventually

OPEN = {"mode": "open"}

# uvicorn looks ten times a second whether it is to end, and whether its connections have: here five hundred times.
_SOONER = SimpleNamespace(**{**vars(asyncio), "sleep": lambda delay_s: asyncio.sleep(delay_s / 50)})
uvicorn.server.asyncio = _SOONER  # type: ignore[assignment, attr-defined]


def settings_for(*, redis_url: str | None = None, namespace: str = "test", **groups: Any) -> Settings:
    """Settings of a test: open mode, quick time-outs, keys and bus channel of its own; `groups` override."""
    values: dict[str, Any] = {
        "redis": {"url": redis_url, "prefix": f"{namespace}:"},
        "bus": {"channel": f"{namespace}:events", "canary_interval_s": 0.1, "canary_timeout_s": 0.6},
        "directory": {"lease_ttl_s": 0.6, "renew_interval_s": 0.1, "reap_grace_s": 0.2},
        "auth": OPEN,
        "limits": {
            "messages_per_second": 0,
            "user_messages_per_second": 0,
            "user_bytes_per_second": 0,
            "recipient_messages_per_second": 0,
        },
        "drain": {"grace_s": 0.1, "deadline_s": 5},
    }
    for group, override in groups.items():
        values[group] = {**values.get(group, {}), **override} if isinstance(override, dict) else override
    return Settings(**values)


def redis_of(replica: Replica) -> RedisServer:
    """The Redis with the bus of a replica that has one."""
    found = replica.backends.servers[0]
    assert isinstance(found, RedisServer)
    return found


@dataclass
class RunningReplica:
    """A replica that serves at `url`."""

    replica: Replica
    url: str
    server: DrainingServer
    task: asyncio.Task[None]

    @property
    def redis(self) -> RedisServer:
        """The Redis that it shares with the others."""
        return redis_of(self.replica)

    @property
    def bus(self) -> PubSubManager:
        """Its bus over Redis."""
        assert isinstance(self.replica.bus, PubSubManager)
        return self.replica.bus

    async def stop(self) -> None:
        """As SIGTERM does: drain, leave the cluster, end."""
        if not self.task.done() and self.server.started:
            self.server.handle_exit(15, None)
        await self.task


async def run_replica(settings: Settings, name: str = "replica-1") -> RunningReplica:
    """Start a replica and wait until it accepts connections (not until it is ready: Redis may be absent)."""
    replica = build_replica(settings, name)
    port = free_port()
    server = build_server(replica, settings, host="127.0.0.1", port=port, loop="asyncio")
    task = asyncio.create_task(server._serve(), name=f"serve-{name}")  # serve() would take over the test's signals
    await eventually(lambda: server.started or task.done())
    if task.done():
        await task
    return RunningReplica(replica, f"http://127.0.0.1:{port}", server, task)
