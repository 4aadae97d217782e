"""What load balancers, people and Prometheus ask."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually


async def get(replica: RunningReplica, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=replica.url, trust_env=False) as http:
        return await http.get(path)


async def metrics(replica: RunningReplica) -> dict[str, float]:
    """Every sample by name, as Prometheus reads it."""
    response = await get(replica, "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


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
    assert (await metrics(one))["heliograph_bus_canary_age_seconds"] == float("inf")
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
    assert (await metrics(one))["heliograph_draining"] == 1
    assert (await metrics(one))["heliograph_ready"] == 0


async def test_metrics_count_what_happens(start_replica: StartReplica) -> None:
    """Fails if a counter does not move with what it is named after, or its name changes (dashboards know it)."""
    one, two = await start_replica("replica-1"), await start_replica("replica-2")
    before = await metrics(one)
    assert before["heliograph_connections"] == 0
    async with Client(one.url, user="alice") as alice, Client(one.url, user="alice") as phone:
        await alice.send("alice", 1)
        await alice.say("nonsense")
        await alice.next("error")
        await phone.messages(1)
        async with Client(two.url, user="bob") as bob:
            await bob.send("alice", 2)
            await phone.messages(1)
        during = await metrics(one)
    assert (during["heliograph_connections"], during["heliograph_users"], during["heliograph_ready"]) == (2, 1, 1)

    def grown(name: str) -> float:
        return during[f"heliograph_{name}_total"] - before[f"heliograph_{name}_total"]

    assert grown("messages_in") == 2
    assert grown("messages_out") == 4
    assert grown("bad_frames") == 1
    assert grown("bus_received") >= 1
    assert grown("bus_published") == 1, "what bob sent was published by his own replica"
    for name in ("slow_closes", "connections_refused", "bus_malformed", "bus_publish_errors", "bus_handler_errors"):
        assert grown(name) == 0
    assert during["heliograph_bus_canary_age_seconds"] < 3


async def test_they_are_there_without_the_console(start_replica: StartReplica) -> None:
    """Fails if what operators need goes away with the page that people look at."""
    one = await start_replica(redis_url=None, console={"enabled": False})
    for path in ("/health", "/ready", "/metrics"):
        assert (await get(one, path)).status_code == 200
    assert (await get(one, "/")).status_code == 404
