"""Tries a replica's real work on Redis: with a script, on keys of its own."""

from typing import Final

from redis.exceptions import (
    BusyLoadingError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from heliograph.backends.redis.client import bus_unavailable
from heliograph.backends.redis.server import RedisServer
from heliograph.ports import Fault, ProbeFailure

# Texts of a missing right: to a command, to a command in a script, to a key, to a bus channel.
DENIALS: Final = ("NOPERM", "no permissions", "can't run this command", "can't access", "permission")


class RedisProbe:
    """A `Probe` of one Redis server. `name`: this replica's."""

    def __init__(self, server: RedisServer, name: str) -> None:
        self._scripts = server.scripts
        self._name = name

    async def probe(self) -> ProbeFailure | None:
        try:
            await self._scripts.probe(self._name)
        except (RedisError, OSError, TimeoutError) as error:
            return ProbeFailure(_fault(error), bus_unavailable(error).detail)
        return None


def _fault(error: Exception) -> Fault:
    text = str(error)
    match error:
        case OutOfMemoryError():
            return Fault.MEMORY_FULL
        case ReadOnlyError() | MasterDownError() | BusyLoadingError():
            return Fault.READ_ONLY
        case ResponseError() if "OOM" in text:
            return Fault.MEMORY_FULL
        case ResponseError() if any(denial in text for denial in DENIALS):
            return Fault.DENIED
        case ResponseError():
            return Fault.REFUSED
        case _:
            return Fault.UNREACHABLE
