"""Whether the replicas say that they are ready."""

import asyncio
from typing import Final

import httpx

from loadtest.auditing.history import Readiness
from loadtest.auditing.scene import Scene

EVERY_S: Final = 0.5
STARTS_S: Final = 6.0  # a replica that was killed so long ago may not be ready yet


async def watch_readiness(scene: Scene) -> None:
    """Ask every replica again and again, and note when its answer changes; until cancelled."""
    async with httpx.AsyncClient(timeout=2.0) as http:
        await asyncio.gather(*(_watch(scene, http, port) for port in scene.ports))


async def _watch(scene: Scene, http: httpx.AsyncClient, port: int) -> None:
    was_ready = True
    while True:
        why = await _problem(http, port)
        if was_ready is not (why == ""):
            was_ready = not was_ready
            excuse = scene.excuse(port, STARTS_S)
            scene.history.note(Readiness, replica=str(port), ready=was_ready, why=why, excuse=excuse)
        await asyncio.sleep(EVERY_S)


async def _problem(http: httpx.AsyncClient, port: int) -> str:
    try:
        answer = await http.get(f"http://127.0.0.1:{port}/ready")
    except httpx.HTTPError as error:
        return f"no answer: {type(error).__name__}"
    return "" if answer.status_code == 200 else answer.text[:200]
