"""`heliograph.connect` while replicas are killed and frozen, in processes of their own."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import httpx
import pytest

import heliograph
from heliograph import AsyncPublisher, Lost, Message, Subscribed
from tests.client.programs import HELIOGRAPH, Program, environment, program
from tests.support.gate import gate_to
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


async def _is_ready(port: int) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(f"http://127.0.0.1:{port}/ready")).is_success
    except httpx.TransportError:
        return False


@asynccontextmanager
async def two_replicas(redis_server: RedisServer, namespace: str) -> AsyncIterator[dict[int, Program]]:
    """Two replicas as processes, by port."""
    env = environment(redis_server.url, namespace)
    async with AsyncExitStack() as stack:
        found = {}
        for number in (1, 2):
            port = free_port()
            words = ("serve", "--open", "--host", "127.0.0.1", "--port", str(port), "--name", f"replica-{number}")
            found[port] = await stack.enter_async_context(program(*HELIOGRAPH, *words, env=env))
        for port in found:
            await eventually(partial(_is_ready, port), within_s=30)
        yield found


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_replica_that_dies_costs_no_message(
    redis_server: RedisServer, namespace: str, fault: signal.Signals
) -> None:
    """Fails if a replica that is killed or hangs loses or doubles what is said or heard, or keeps a client."""
    async with two_replicas(redis_server, namespace) as replicas, AsyncExitStack() as stack:
        (doomed, process), (other, _) = replicas.items()
        bus = f"{namespace}:events"
        publisher = await stack.enter_async_context(
            AsyncPublisher(redis_server.url, prefix=f"{namespace}:", bus_channel=bus)
        )
        gate = await stack.enter_async_context(gate_to(f"http://127.0.0.1:{doomed}"))
        bob = await stack.enter_async_context(heliograph.connect(gate.url, user="bob", channels=["news"]))
        lost: list[Lost] = []
        heard: list[object] = []
        bob.on("lost", lost.append)
        reading = asyncio.create_task(_read(bob, heard))
        assert bob.state.replica == "replica-1"
        await publisher.publish("news", "before")
        await eventually(lambda: heard == ["before"])
        gate.target = other
        os.kill(process.process.pid, fault)
        try:
            sending = [asyncio.create_task(bob.publish("said", number)) for number in range(20)]
            for number in range(50):
                await publisher.publish("news", number)
            await eventually(lambda: bob.state.replica == "replica-2", within_s=20)
            await asyncio.gather(*sending)
            await publisher.publish("news", "after")
            await eventually(lambda: "after" in heard)
            said = [message.data for message in (await bob.history("said")).publications]
        finally:
            with suppress(ProcessLookupError):
                os.kill(process.process.pid, signal.SIGCONT)
            reading.cancel()
        assert heard == ["before", *range(50), "after"]
        assert said == list(range(20))
        assert lost == []


async def _read(client: heliograph.Client, heard: list[object]) -> None:
    async for event in client.events():
        if not isinstance(event, Subscribed):
            heard.append(event.data if isinstance(event, Message) else event)
