"""The Lua scripts, loaded so that a script never runs under a server that has lost what the script relies on.

Redis forgets its scripts when it restarts. Each script carries the run id of the server it was loaded into, so after
a restart it is unknown (NOSCRIPT), is loaded anew with the new run id, and sees that a log was written under another.
No command is needed for that on the way of a message.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from app.backends.script_texts import PARTS, Argument, are_unknown, is_certain, raise_first_error, script_text

__all__ = ["Argument", "Scripts"]


class Scripts:
    """The scripts of one Redis server. The client stays its owner's to close."""

    def __init__(self, client: Redis) -> None:
        self._redis = client
        self._shas: dict[str, str] = {}
        self._loading = asyncio.Lock()

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run one script. Raises what redis-py raises."""
        [result] = await self.run_many(name, [(keys, arguments)])
        return result

    async def run_many(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Run one script many times, in one round trip."""
        for _ in range(2):
            shas = self._shas
            if not shas:
                await self._load(stale=shas)
                shas = self._shas
            async with self._redis.pipeline(transaction=False) as pipeline:
                for keys, arguments in calls:
                    pipeline.evalsha(shas[name], len(keys), *keys, *arguments)
                results = await pipeline.execute(raise_on_error=False)
            if not are_unknown(results):
                return raise_first_error(results)
            await self._load(stale=shas)
        raise NoScriptError("Redis forgets its scripts as fast as they are loaded")

    async def _load(self, stale: dict[str, str]) -> None:
        async with self._loading:
            if self._shas is not stale:
                return  # somebody else has loaded them meanwhile
            # One connection for both steps: if the server restarts between them, the second step fails.
            async with self._redis.client() as connection:
                server = await connection.info("server")
                try:
                    config = await connection.config_get("appendonly", "appendfsync")
                except ResponseError:
                    config = {}  # managed servers do not tell
                certain = is_certain(config, await connection.info("replication"))
                self._shas = {
                    name: await connection.script_load(script_text(name, server["run_id"], certain=certain))
                    for name in PARTS
                }
