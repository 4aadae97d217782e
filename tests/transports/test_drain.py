"""SIGTERM, as a server gets it: drain, close, stop; and a second one."""

import asyncio
import time

import pytest

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.raw_socket import RawSocket
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

SIGTERM = 15


async def crowd(replica: RunningReplica, count: int) -> list[Client]:
    clients = [Client(replica.url, user=f"user-{number}") for number in range(count)]
    await asyncio.gather(*(client.__aenter__() for client in clients))
    return clients


async def test_each_client_is_told_then_closed_with_3001_over_the_window(start_replica: StartReplica) -> None:
    """Fails if clients are not told, are cut (1006) or sent off with 1012, or all go in the same moment."""
    one = await start_replica(drain={"per_second": 30, "window_s": 10, "grace_s": 0.1, "deadline_s": 5})
    clients = await crowd(one, 15)  # at 30 a second: half a second
    started_at = time.monotonic()
    gone_at: list[float] = []

    async def last_words(client: Client) -> tuple[int, int]:
        in_ms = (await client.next("reconnect"))["in_ms"]
        code = await client.close_code()
        gone_at.append(time.monotonic() - started_at)
        return in_ms, code

    one.server.handle_exit(SIGTERM, None)
    words = await asyncio.gather(*(last_words(client) for client in clients))
    assert {code for _, code in words} == {3001}
    told = sorted(in_ms for in_ms, _ in words)
    assert told == [round(1000 * number / 30) for number in range(15)]
    assert max(gone_at) - min(gone_at) >= 0.3
    async with asyncio.timeout(2):
        await one.task
    assert one.replica.hub.connections == 0


async def test_while_it_drains_it_refuses_and_says_so(start_replica: StartReplica) -> None:
    """Fails if a draining replica looks ready, takes new clients, or stops serving those it still has."""
    one = await start_replica("replica-1", drain={"grace_s": 0.6, "window_s": 0, "deadline_s": 5})
    two = await start_replica("replica-2")
    async with Client(one.url, user="alice") as alice, Client(two.url, user="bob") as bob:
        one.server.handle_exit(SIGTERM, None)
        await alice.next("reconnect")
        async with http_client(one.url) as http:
            ready = await http.get("/ready")
            assert ready.status_code == 503
            assert ready.json()["draining"] is True
            assert (await http.get("/health")).status_code == 200, "alive: not to be restarted"
        async with RawSocket(one.url, "/ws?user=carol") as refused:
            assert refused.status == 503
        assert (await alice.send("bob", "last words"))["delivery"] == "remote"
        assert await bob.messages(1) == ["last words"]
        await bob.send("alice", "farewell")
        assert await alice.messages(1) == ["farewell"]
        assert await alice.close_code() == 3001
        await one.task

        async def offline() -> bool:
            return bool((await bob.send("alice", "?"))["delivery"] == "stored")

        await eventually(offline, within_s=3)


async def test_one_stuck_client_does_not_keep_the_replica(start_replica: StartReplica) -> None:
    """Fails if a client that neither reads nor closes holds up the end beyond the deadline and uvicorn's time."""
    one = await start_replica(redis_url=None, drain={"grace_s": 0, "window_s": 0, "deadline_s": 0.5})
    async with RawSocket(one.url, "/ws?user=stuck"), Client(one.url, user="polite") as polite:
        one.server.handle_exit(SIGTERM, None)
        assert await polite.close_code() == 3001
        async with asyncio.timeout(0.5 + 3 + 1):
            await one.task


async def test_a_second_signal_stops_at_once(start_replica: StartReplica) -> None:
    """Fails if an operator who is in a hurry has to wait for the drain."""
    before = asyncio.all_tasks()
    one = await start_replica(redis_url=None, drain={"grace_s": 30, "window_s": 30, "deadline_s": 60})
    async with Client(one.url, user="alice") as alice:
        one.server.handle_exit(SIGTERM, None)
        await alice.next("reconnect")
        assert not one.task.done()
        one.server.handle_exit(SIGTERM, None)
        async with asyncio.timeout(1.5):
            await one.task
        assert await alice.close_code() == 1012
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    for task in left:  # as asyncio.run does at the end of the process
        task.cancel()
    await asyncio.wait(left)


async def test_a_signal_before_it_serves_stops_it(start_replica: StartReplica) -> None:
    """Fails if a replica that is told to stop while it starts begins to drain what is not there."""
    one = await start_replica(redis_url=None)
    one.server.started = False
    one.server.handle_exit(SIGTERM, None)
    assert one.server._drain_task is None
    assert one.server.should_exit
    one.server.started, one.server.force_exit = True, False  # so that this test's replica says goodbye in order
    await one.task


async def test_a_client_of_a_replica_without_redis_is_sent_off_as_well(start_replica: StartReplica) -> None:
    """Fails if draining needs the bus."""
    one = await start_replica(redis_url=None, drain={"grace_s": 0, "window_s": 0})
    async with Client(one.url, user="alice") as alice:
        one.server.handle_exit(SIGTERM, None)
        assert (await alice.next("reconnect"))["cursor"] == alice.connected["cursor"] != ""
        assert await alice.close_code() == 3001
        await one.task


@pytest.mark.parametrize("reads", [True, False])
async def test_a_client_that_has_not_connected_yet_is_not_forgotten(start_replica: StartReplica, reads: bool) -> None:
    """Fails if a socket that has not said who it is survives the drain, or keeps the replica from ending."""
    one = await start_replica(redis_url=None, drain={"grace_s": 0, "window_s": 0})
    async with RawSocket(one.url, "/ws") as raw:
        one.server.handle_exit(SIGTERM, None)
        if reads:
            code, _ = await raw.closed()
            assert code in (1012, 3001)
        async with asyncio.timeout(4):
            await one.task
