"""Try a replica's real work on Redis, with a script on keys of its own, and what an acknowledgement relies on."""

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from heliograph.backends.redis.acknowledgement import Unconfirmed
from heliograph.backends.redis.call_batch import NOTHING, Call
from heliograph.backends.redis.client import bus_unavailable
from heliograph.backends.redis.link_errors import OtherLayout
from heliograph.backends.redis.script_loading import if_allowed, lines, pairs
from heliograph.backends.redis.server import RedisServer
from heliograph.ports import Fault, ProbeFailure

if TYPE_CHECKING:
    from heliograph.backends.redis.script_texts import Argument

logger = logging.getLogger(__name__)

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


class DiskProbe(RedisProbe):
    """That of a server whose configuration must keep what it acknowledges on disk: it may change at any time."""

    def __init__(self, server: RedisServer, name: str) -> None:
        super().__init__(server, name)
        self._server = server
        self._refusal: str | None = ""

    async def probe(self) -> ProbeFailure | None:
        failure = await super().probe()
        if failure is not None:
            return failure
        try:
            refusal = self._server.ack.refusal(await self._configuration())
        except (RedisError, OSError, TimeoutError) as error:
            return ProbeFailure(_fault(error), bus_unavailable(error).detail)
        if refusal != self._refusal:
            self._refusal = refusal
            self._scripts.forget()  # other ones refuse, or accept, what is to be kept
        return None if refusal is None else ProbeFailure(Fault.NOT_DURABLE, refusal)

    async def _configuration(self) -> dict[str, str]:
        """Return what the server tells of itself; nothing without the right to ask."""
        return await _told(self._server, pairs, "CONFIG", "GET", "appendonly", "appendfsync")


class ConfirmationProbe:
    """Whether enough replicas of Redis confirm what is kept; it notes what one of them must know if it is promoted.

    Other failures are the server's own, and its probe finds them.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    async def probe(self) -> ProbeFailure | None:
        server = self._server
        try:
            facts = await self._replication()
            replicas = [_address(value) for name, value in facts.items() if re.fullmatch(r"slave\d+", name)]
            arguments: list[Argument] = [facts.get("master_replid", ""), server.ack.replicas, *replicas]
            call: Call = [server.keys.server], arguments, NOTHING
            await server.keeping.run_many("promotion", [call])
        except Unconfirmed as error:
            return ProbeFailure(Fault.UNCONFIRMED, str(error))
        except (RedisError, OSError, TimeoutError) as error:
            logger.debug("whether replicas confirm cannot be found out now: %s", error)
        return None

    async def _replication(self) -> dict[str, str]:
        """Return what the server tells of its replicas; nothing without the right to ask."""
        return await _told(self._server, lines, "INFO", "replication")


async def _told(server: RedisServer, read: Callable[[Any], dict[str, str]], *command: str) -> dict[str, str]:
    """Return what the server tells of itself; nothing where the question is refused: see `if_allowed`."""
    try:
        answer = await server.link.ask(*command)
    except ResponseError as error:
        answer = error
    return if_allowed(answer, read)


def _address(replica: str) -> str:
    """Return the address in what INFO says of a replica: `ip=10.0.0.2,port=6379,state=online,…`."""
    facts = dict(each.partition("=")[::2] for each in replica.split(","))
    return f"{facts.get('ip')}:{facts.get('port')}"


def _fault(error: Exception) -> Fault:
    text = str(error)
    match error:
        case OtherLayout():
            return Fault.LAYOUT
        case OutOfMemoryError():
            return Fault.MEMORY_FULL
        case ReadOnlyError() | MasterDownError() | BusyLoadingError():
            return Fault.READ_ONLY
        case ResponseError() if "OOM" in text:
            return Fault.MEMORY_FULL
        case AuthenticationError() | AuthorizationError():
            return Fault.DENIED
        case ResponseError() if any(denial in text for denial in DENIALS):
            return Fault.DENIED
        case ResponseError():
            return Fault.REFUSED
        case _:
            return Fault.UNREACHABLE
