"""Connections of redis-py that leave a server which is of no use any more, with errors of redis-py."""

from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from heliograph.backends.redis.link_errors import DEMOTED


def leaving(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return a class of connections that leave a server which accepts no writes any more, or has hung up."""

    class Leaving(connection_class):  # type: ignore[valid-type, misc]
        async def send_packed_command(self, *args: Any, **options: Any) -> None:
            try:
                await super().send_packed_command(*args, **options)
            except RuntimeError as error:  # uvloop's, for a write to a connection that has just ended
                raise RedisConnectionError(f"the connection has ended: {error}") from error

        async def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*args, **options)
            except DEMOTED:
                self.mark_for_reconnect()  # after its command
                raise

    return Leaving
