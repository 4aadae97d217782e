"""A replica that knows other shards than the rest (F7)."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

import httpx

from loadtest.auditing.history import NotKept
from loadtest.auditing.scene import Scene, true_within
from loadtest.auditing.topology import Breakage
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

SAYS_WITHIN_S: Final = 15.0
STAYS_S: Final = 5.0  # how long it must go on saying so
OWN_LAYOUT: Final = "of 3 (v1)"  # what it has found instead, in words


def of_layouts(servers: Sequence[RedisServer]) -> Mapping[str, Breakage]:
    """Return the way to have a replica of another layout join, and leave."""
    urls = [server.url for server in servers]
    others = {
        "two of the shards": urls[:2],
        "another order": urls[::-1],
        "a shard twice as one of four": urls + urls[:1],
    }

    async def join(scene: Scene, dice: random.Random) -> None:
        what = dice.choice(sorted(others))
        port = free_port()
        environment = {
            **os.environ,
            "HELIOGRAPH_AUTH__MODE": "open",
            "HELIOGRAPH_REDIS__SHARDS": json.dumps(others[what]),
        }
        scene.note_fault("replicas of another layout that joined", what)
        began = time.monotonic()
        command = [sys.executable, "-m", "heliograph", "serve", "--port", str(port), "--name", "replica-other"]
        nowhere = subprocess.DEVNULL
        replica = await asyncio.create_subprocess_exec(*command, env=environment, stdout=nowhere, stderr=nowhere)
        try:
            if not await true_within(lambda: _says_why(port), SAYS_WITHIN_S):
                text = f"a replica that knows {what} did not say that it is unready, and why"
                scene.history.note(NotKept, text=text)
                return
            scene.note_took("until a replica of another layout said so", began)
            until = time.monotonic() + STAYS_S
            while time.monotonic() < until:
                if not await _says_why(port):
                    scene.history.note(NotKept, text=f"a replica that knows {what} took that back")
                    return
                await asyncio.sleep(0.2)
        finally:
            replica.terminate()
            await replica.wait()

    return {"layout": Breakage(join, 0)}


async def _says_why(port: int) -> bool:
    async with httpx.AsyncClient(timeout=2.0) as http:
        try:
            answer = await http.get(f"http://127.0.0.1:{port}/ready")
        except httpx.HTTPError:
            return False
    return answer.status_code == 503 and OWN_LAYOUT in answer.text
