"""What load balancers and people ask."""

import httpx

from tests.conftest import StartReplica
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
    health = await get(one, "/health")
    assert (health.status_code, health.json()) == (200, {"status": "alive", "replica": "replica-7"})
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
    assert ready.json()["canary_age_s"] >= 0.5
    own_redis.thaw()
    await eventually(lambda: one.replica.node.ready, within_s=10)


async def test_draining_is_a_reason(start_replica: StartReplica) -> None:
    """Fails if nginx or Kubernetes goes on sending clients to a replica that is leaving."""
    one = await start_replica(redis_url=None)
    one.replica.node.draining = True
    ready = await get(one, "/ready")
    assert (ready.status_code, ready.json()["draining"], ready.json()["ready"]) == (503, True, False)


async def test_they_are_there_without_the_console(start_replica: StartReplica) -> None:
    """Fails if what operators need goes away with the page that people look at."""
    one = await start_replica(redis_url=None, console={"enabled": False})
    for path in ("/health", "/ready", "/metrics"):
        assert (await get(one, path)).status_code == 200
    assert (await get(one, "/")).status_code == 404
