"""How much of its memory a Redis uses."""

import logging

from redis.exceptions import NoPermissionError

from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.server import RedisServer

logger = logging.getLogger(__name__)


class RedisMemory:
    """Read INFO. Without the right to it, log that once, and do not watch the memory."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._may_ask = True

    async def share(self) -> float | None:
        """Return the used part of `maxmemory`; None if there is no such limit, or Redis does not say.

        Raises:
            BusUnavailable: not now.
        """
        if not self._may_ask:
            return None
        try:
            with as_bus_unavailable():
                info = await self._server.link.ask("INFO", "memory")
        except Exception as error:
            if not isinstance(error.__cause__, NoPermissionError):
                raise
            self._may_ask = False
            logger.warning(
                "this user of Redis may not call INFO: how full its memory is stays unknown, and clients can fill it;"
                " allow it with +info"
            )
            return None
        fields = dict(line.split(":", 1) for line in _text(info).splitlines() if ":" in line)
        most = int(fields.get("maxmemory", 0))
        return int(fields["used_memory"]) / most if most else None


def _text(info: bytes | str) -> str:
    return info.decode() if isinstance(info, bytes) else info
