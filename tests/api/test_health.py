"""What load balancers and people ask."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually


async def get(replica: RunningReplica, path: str) -> httpx.Response:
    async with http_client(replica.url) as http:
        return await http.get(path)


async def test_a_replica_that_hears_itself_is_ready(start_replica: StartReplica) -> None:
    """Fails if a healthy replica is not reported so, or does not say who it is."""
    one = await start_replica("replica-7")

    async def is_alive() -> bool:  # a busy machine may keep its bus quiet for a moment
        health = await get(one, "/health")
        return (health.status_code, health.json()) == (200, {"status": "alive", "replica": "replica-7"})

    await eventually(is_alive)
    ready = await get(one, "/ready")
    assert ready.status_code == 200
    answer = ready.json()
    assert 0 <= answer.pop("canary_age_s") < 3
    assert answer == {"ready": True, "replica": "replica-7", "bus": "running", "draining": False}


async def test_without_redis_there_is_nothing_to_wait_for(start_replica: StartReplica) -> None:
    """Fails if one replica on its own is never ready, or talks of a canary that it has not."""
    one = await start_replica(redis_url=None)
    ready = await get(one, "/ready")
    assert (ready.status_code, ready.json()) == (
        200,
        {"ready": True, "replica": "replica-1", "bus": "disabled", "draining": False},
    )


async def test_redis_that_never_was_is_a_reason(start_replica: StartReplica, own_redis: RedisServer) -> None:
    """Fails if a replica that has never heard itself is ready, or the answer is not valid JSON (Infinity)."""
    own_redis.stop()
    one = await start_replica(redis_url=own_redis.url, ready=False)
    ready = await get(one, "/ready")
    assert ready.status_code == 503
    answer = ready.json()
    assert answer["ready"] is False
    assert answer["bus"] in ("new", "lost")
    assert answer["canary_age_s"] is None
    assert (await get(one, "/health")).status_code == 200, "alive, and not to be restarted"
    own_redis.start()
    await eventually(lambda: one.replica.node.ready)
    assert (await get(one, "/ready")).status_code == 200


async def test_a_frozen_redis_is_a_reason_and_heals(start_replica: StartReplica, own_redis: RedisServer) -> None:
    """Fails if a replica that has gone deaf stays in service: the connection looks alive, and nothing arrives."""
    one = await start_replica(redis_url=own_redis.url)
    own_redis.freeze()
    await eventually(lambda: not one.replica.node.ready, within_s=3)
    ready = await get(one, "/ready")
    assert ready.status_code == 503
    age_s = ready.json()["canary_age_s"]
    assert age_s is None or age_s >= 0.5, "None: the deaf connection was given up already"
    own_redis.thaw()
    await eventually(lambda: one.replica.node.ready, within_s=10)


async def test_draining_is_a_reason(start_replica: StartReplica) -> None:
    """Fails if nginx or Kubernetes goes on sending clients to a replica that is leaving."""
    one = await start_replica(redis_url=None)
    one.replica.node._health.begin_draining()
    ready = await get(one, "/ready")
    assert (ready.status_code, ready.json()["draining"], ready.json()["ready"]) == (503, True, False)


async def test_they_are_there_without_the_console(start_replica: StartReplica) -> None:
    """Fails if what operators need goes away with the page that people look at."""
    one = await start_replica(redis_url=None, console={"enabled": False})
    for path in ("/health", "/ready", "/metrics"):
        assert (await get(one, path)).status_code == 200
    assert (await get(one, "/")).status_code == 404


async def reason_of(replica: RunningReplica) -> str:
    """Why it is not ready, told alike wherever one can ask; empty if it is."""
    ready, health = await get(replica, "/ready"), await get(replica, "/health")
    reason = ready.json().get("reason", "")
    assert (ready.status_code, health.status_code) == (503 if reason else 200, 200)
    assert health.json()["status"] == ("degraded" if reason else "alive")
    return str(reason)


@pytest.mark.parametrize(
    ("breaks", "heals", "reason"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "redis_memory_full"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "redis_read_only"),
        (("ACL", "SETUSER", "default", "-xadd"), ("ACL", "SETUSER", "default", "+xadd"), "redis_denied"),
    ],
)
async def test_a_redis_that_takes_no_writes_is_a_reason(
    start_replica: StartReplica, own_redis: RedisServer, breaks: tuple[str], heals: tuple[str], reason: str
) -> None:
    """Fails if every publish is refused and load balancers, the console and alerts see green."""
    one = await start_replica(redis_url=own_redis.url)
    async with Client(one.url, user="alice") as alice:
        own_redis.command(*breaks)
        await eventually(lambda: not one.replica.node.ready, within_s=5)
        assert (await alice.send("bob", 1))["code"] == "unavailable"
        assert await reason_of(one) == reason
        assert one.replica.node.describe().reason == reason
        metrics = (await get(one, "/metrics")).text
        assert f'heliograph_degraded{{reason="{reason}"}} 1.0' in metrics
        assert "heliograph_ready 0.0" in metrics
        own_redis.command(*heals)
        await eventually(lambda: one.replica.node.ready, within_s=5)
        assert await reason_of(one) == ""
        assert (await alice.send("bob", 1))["type"] == "ack"


async def test_the_second_server_counts_too(start_replica: StartReplica, tmp_path: Path) -> None:
    """Fails if the server that keeps is not tried: without it a replica is degraded, and ready all the same."""
    live, durable = (RedisServer(tmp_path / name) for name in ("live", "durable"))
    for server in (live, durable):
        server._directory.mkdir()
        server.start()
    try:
        one = await start_replica(redis={"url": live.url, "durable_url": durable.url})
        durable.command("CONFIG", "SET", "maxmemory", "1")
        await eventually(lambda: one.replica.node.reason == "redis_memory_full", within_s=5)
        ready, health = await get(one, "/ready"), await get(one, "/health")
        assert (ready.status_code, ready.json()["reason"]) == (200, "redis_memory_full")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        durable.command("CONFIG", "SET", "maxmemory", "0")
        await eventually(lambda: not one.replica.node.reason, within_s=5)
        await one.stop()
    finally:
        live.stop()
        durable.stop()


async def test_a_replica_that_cannot_heal_ends(start_replica: StartReplica) -> None:
    """Fails if a replica of which nothing works any more goes on for ever, as nobody starts it anew."""
    one = await start_replica()
    one.replica.node._health.breakdown.give_up("a test")
    async with asyncio.timeout(5):
        await one.task
    # A server that does not end it (any other than ours) can have it ended for what /health says.
    async with httpx.AsyncClient(transport=httpx.ASGITransport(one.replica.app), base_url="http://test") as http:
        health = await http.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "broken")


@pytest.mark.slow
async def test_ready_within_two_seconds_after_redis_is_back(
    start_replica: StartReplica, own_redis: RedisServer
) -> None:
    """Fails if clients are kept away for longer than that by back-offs, with the settings that everybody has."""
    usual = {"canary_interval_s": 1.0, "canary_timeout_s": 3.0}
    replicas = [await start_replica(f"replica-{n}", redis_url=own_redis.url, bus=usual) for n in range(5)]
    own_redis.stop()
    await asyncio.sleep(6)  # the back-off has reached its bound
    assert not any(each.replica.node.ready for each in replicas)
    own_redis.start()
    await eventually(lambda: all(each.replica.node.ready for each in replicas), within_s=2)
