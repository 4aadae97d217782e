"""Runs that have lost their worker, over real replicas: somebody says so, once, without any worker or publisher."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from heliograph.backends.redis import client as redis_client
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.run_leases import lease_call
from heliograph.backends.redis.scripts import Scripts
from heliograph.cluster.periodic import Periodic
from heliograph.errors import BusUnavailable
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

INTERVAL_S = 0.05
SHORT_S = 0.05
LONG_S = 30.0

LOST = {"state": "FAILED", "message": "worker lost"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliograph.composition.shard.REAP_EVERY_S", INTERVAL_S)


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[redis_client.Client]:
    client = redis_client.connect(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
def lease(redis: redis_client.Client, namespace: str) -> Callable[..., Awaitable[None]]:
    """`await lease("1", ttl_s=…)`: what the worker of run 1 says now and then, as long as it lives."""
    keys = Keys(f"{namespace}:", f"{namespace}:events")
    scripts = Scripts(redis, keys)

    async def take(*run_ids: str, ttl_s: float = SHORT_S) -> None:
        await scripts.run_many("run_lease", [lease_call(keys, run_ids, ttl_s)])

    return take


@contextlib.asynccontextmanager
async def viewing(replica: RunningReplica, run_id: str) -> AsyncIterator[Client]:
    async with Client(replica.url, user="viewer", path=f"/ws/runs/{run_id}") as viewer:
        await viewer.next("initial_state")
        yield viewer


async def update(replica: RunningReplica, run_id: str, **fields: Any) -> None:
    await replica.replica.manager.publish(f"run:{run_id}", fields)


def what_matters(progress: dict[str, Any]) -> dict[str, Any]:
    return {name: progress[name] for name in ("state", "message")}


class TestLostRuns:
    async def test_viewers_see_that_the_worker_is_lost(
        self, start_replica: StartReplica, lease: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a run whose worker was killed stands at 40 % for ever, now or for who looks later."""
        one = await start_replica()
        await lease("우주여행고양이", ttl_s=LONG_S)
        await update(one, "우주여행고양이", state="RUNNING", progress=40)
        async with viewing(one, "우주여행고양이") as viewer:
            await lease("우주여행고양이")  # the last time
            assert await viewer.next("progress") == {
                "type": "progress",
                "run_id": "우주여행고양이",
                "progress": 40.0,
                **LOST,
            }
        await eventually(lambda: "1 runs lost their worker" in caplog.text)  # said once the script has answered
        async with Client(one.url, user="later", path="/ws/runs/우주여행고양이") as later:
            state = await later.next("initial_state")
            assert (state["state"], state["progress"], state["logs"]) == ("FAILED", 40.0, ["worker lost"])

    async def test_it_is_said_once_however_many_replicas_look(
        self, start_replica: StartReplica, lease: Callable[..., Awaitable[None]], redis: Redis, namespace: str
    ) -> None:
        """Fails if each replica says FAILED for itself, or goes on saying it, or leaves out one of many."""
        one, two, three = [await start_replica(f"replica-{n}") for n in (1, 2, 3)]
        runs = [f"run-{n}" for n in range(10)]
        async with contextlib.AsyncExitStack() as stack:
            viewers = [await stack.enter_async_context(viewing((one, two)[n % 2], runs[n])) for n in range(10)]
            await lease(*runs)
            for viewer in viewers:
                assert what_matters(await viewer.next("progress")) == LOST
            # A run that is lost later shows that all have looked again meanwhile, several times.
            for n in range(3):
                await lease(f"mark-{n}")
                await eventually(partial(has_failed, three, f"mark-{n}"))
            assert await redis.zcard(Keys(f"{namespace}:", f"{namespace}:events").run_leases) == 0, (
                "nobody need look at them again"
            )
            for n, run in enumerate(runs):
                history = await (one, two)[n % 2].replica.reading.history(f"run:{run}", None, 10)
                assert len(history.publications) == 1
            for viewer in viewers:
                with pytest.raises(TimeoutError):
                    await viewer.next("progress", within_s=0.01)

    async def test_a_run_that_lives_or_has_ended_is_left_alone(
        self, start_replica: StartReplica, lease: Callable[..., Awaitable[None]]
    ) -> None:
        """Fails if a renewed lease, or one left over by a run that has come to its END, makes a run FAILED."""
        one = await start_replica()
        await update(one, "ended", state="END", progress=100)
        await lease("ended", "lives", ttl_s=SHORT_S)
        await lease("lives", ttl_s=LONG_S)
        await lease("mark", ttl_s=2 * SHORT_S)  # runs out later, so it is dealt with later
        await eventually(lambda: has_failed(one, "mark"))
        assert not await has_failed(one, "lives")
        assert not await has_failed(one, "ended")

    async def test_a_replica_without_redis_has_nothing_to_look_for(self, start_replica: StartReplica) -> None:
        """Fails if memory mode does not start, or looks for leases in a Redis that is not there."""
        await start_replica(redis_url=None)
        assert "run-reaper" not in {task.get_name() for task in asyncio.all_tasks()}


async def has_failed(replica: RunningReplica, run_id: str) -> bool:
    history = await replica.replica.reading.history(f"run:{run_id}", None, 10)
    return any(b"FAILED" in bytes(publication.data) for publication in history.publications)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "level"), [(RuntimeError("a bug"), logging.ERROR), (BusUnavailable("no Redis"), logging.DEBUG)]
    )
    async def test_an_error_is_logged_and_the_loop_goes_on(
        self, caplog: pytest.LogCaptureFixture, error: Exception, level: int
    ) -> None:
        """Fails if one bad moment ends the search for good, a bug is passed over, or a missing Redis is shouted."""
        caplog.set_level(logging.DEBUG, "heliograph.cluster.periodic")
        looks = 0

        async def reap() -> None:
            nonlocal looks
            looks += 1
            if looks <= 2:
                raise error

        reaper = Periodic("run-reaper", "search for lost runs", reap, INTERVAL_S)
        reaper.start()
        reaper.start()  # one loop, however often
        try:
            await eventually(lambda: looks >= 3)
        finally:
            await reaper.stop()
            await reaper.stop()
        assert [record.levelno for record in caplog.records] == [level, level]
        assert "search for lost runs failed" in caplog.text

    async def test_redis_may_be_away_for_a_while(
        self, own_redis: RedisServer, start_replica: StartReplica, caplog: pytest.LogCaptureFixture, namespace: str
    ) -> None:
        """Fails if a replica that has been without Redis does not look for lost runs afterwards."""
        caplog.set_level(logging.DEBUG, "heliograph.cluster.periodic")
        one = await start_replica(redis_url=own_redis.url)
        own_redis.stop()
        await eventually(lambda: "search for lost runs failed" in caplog.text)
        own_redis.start()
        await eventually(lambda: one.replica.node.ready)
        async with viewing(one, "1") as viewer:
            own_redis.command("ZADD", Keys(f"{namespace}:", f"{namespace}:events").run_leases, "1", "1")
            assert what_matters(await viewer.next("progress")) == LOST
