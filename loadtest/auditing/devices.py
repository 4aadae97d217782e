"""A Redis that comes back without its last writes, among them the second device of a user (F9)."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect

from loadtest.auditing.history import NotKept
from loadtest.auditing.scene import Scene, true_within
from loadtest.auditing.topology import Breakage
from tests.support.redis_server import RedisServer

USER: Final = "two-devices"
LOST_S: Final = 1.0  # what Redis has forgotten
READY_S: Final = 20.0
AT_ONCE_S: Final = 1.0  # how long a message to the second device may take


def of_devices(server: RedisServer) -> Mapping[str, Breakage]:
    """Return the way to have Redis forget a device."""

    async def forget(scene: Scene, dice: random.Random) -> None:
        first, second = dice.sample(scene.ports, 2)
        async with _device(first) as laptop:
            await asyncio.sleep(LOST_S)  # it is on the disk
            before = await asyncio.to_thread(server.files)
            async with _device(second) as phone:
                await asyncio.sleep(LOST_S)
                scene.note_fault("times Redis lost its last second", str(server.port))
                began = time.monotonic()
                await asyncio.to_thread(server.put_back, before)
                if not await true_within(lambda: _are_ready(scene.ports), READY_S):
                    raise RuntimeError(f"the replicas are not ready {READY_S:g} s after Redis came back")
                scene.note_took("until all replicas were ready", began)
                for kind in ("ephemeral", "kept"):
                    await _send(scene, laptop, phone, kind)

    return {"forget": Breakage(forget, 0)}


@asynccontextmanager
async def _device(port: int) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://127.0.0.1:{port}/ws?user={USER}", proxy=None, compression=None) as socket:
        await _next(socket, "connected")
        yield socket


async def _send(scene: Scene, laptop: ClientConnection, phone: ClientConnection, kind: str) -> None:
    """Send the user a message from the first device, and note how long the second one waits for it."""
    frame: dict[str, Any] = {"type": "send", "to": USER, "data": kind, "id": kind}
    began = time.monotonic()
    await laptop.send(json.dumps(frame | ({"ephemeral": True} if kind == "ephemeral" else {})))
    try:
        async with asyncio.timeout(AT_ONCE_S):
            while (await _next(phone, "message"))["data"] != kind:
                pass
    except TimeoutError:
        text = f"the device that Redis had forgotten did not get the next {kind} message within {AT_ONCE_S:g} s"
        scene.history.note(NotKept, text=text)
    else:
        scene.note_took(f"until a forgotten device got the next {kind} message", began)


async def _next(socket: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        frame: dict[str, Any] = json.loads(await socket.recv())
        if frame["type"] == kind:
            return frame


async def _are_ready(ports: list[int]) -> bool:
    async with httpx.AsyncClient(timeout=2.0) as http:
        try:
            answers = [await http.get(f"http://127.0.0.1:{port}/ready") for port in ports]
        except httpx.HTTPError:
            return False
    return all(answer.status_code == 200 for answer in answers)
