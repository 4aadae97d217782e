"""Which run a state is of, where several are polled: the state itself does not say."""

from typing import Any

from tests.conftest import StartReplica
from tests.support.http import http_client


async def test_each_state_follows_the_name_of_its_run(start_replica: StartReplica) -> None:
    """Fails if a poll that goes on elsewhere brings the states of several runs and does not say which is whose."""
    one, two = await start_replica("replica-1"), await start_replica("replica-2")
    cursor = ""

    async def poll(url: str) -> list[Any]:
        nonlocal cursor
        params = {"user": "alice", "channels": "run:a,news,run:b,run:c", "wait": "5", "cursor": cursor}
        async with http_client(url) as client:
            answer = (await client.get("/api/poll", params=params)).json()
        cursor = answer["cursor"]
        return [event.get("channel", event.get("progress")) for event in answer["events"]]

    async def advance(progress: int) -> None:
        for run in ("run:b", "run:a"):
            await one.replica.manager.publish(run, {"state": "RUNNING", "progress": progress})

    await advance(10)
    assert await poll(one.url) == ["run:a", 10, "news", "run:b", 10, "run:c", 0]
    await advance(20)
    assert await poll(two.url) == ["run:a", 20, "run:b", 20]
