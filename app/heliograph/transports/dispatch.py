"""The way of a client's messages to the router, and of the router's answers to the client."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.publish_result import PublishResult
from heliograph.errors import ErrorCode, HeliographError
from heliograph.protocol.client_info import ClientInfo, info_of
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.operations import Publish, Send
from heliograph.transports.answers import answer_message
from heliograph.transports.remote_client import RemoteClient

MOST_UNDER_WAY = 100  # messages of one client that the router has not answered yet


class Dispatch:
    """Pass the messages of one client to the router, in order, and answer each when the router has."""

    def __init__(self, client: RemoteClient, manager: ConnectionManager) -> None:
        self._client = client
        self._manager = manager
        self._under_way = 0  # messages that the router has not answered
        self._room: asyncio.Future[None] | None = None  # a caller that waits until there are fewer

    def message(self, operation: Send | Publish) -> Coroutine[Any, Any, None] | None:
        """Pass a message to the router. Others may follow before its answer, up to MOST_UNDER_WAY.

        Return what must be awaited before another may follow.
        """
        if self._under_way >= MOST_UNDER_WAY:
            return self._message_later(operation)
        self._under_way += 1
        user, connection = self._client.session.user, self._client.connection
        author = None
        if operation.names_client and user is not None:
            author = ClientInfo(connection.id, user, info_of(connection.info))
        self._manager.dispatch(operation, sender=user, author=author, done=partial(self._done, operation))
        return None

    async def _message_later(self, operation: Send | Publish) -> None:
        while self._under_way >= MOST_UNDER_WAY:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self.message(operation)

    def _done(self, operation: Send | Publish, result: PublishResult | HeliographError) -> None:
        """Send the router's answer to the client."""
        self._under_way -= 1
        if self._room is not None:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None
        self._client.answer(answer_message(operation, result))
        if isinstance(result, HeliographError) and result.code is ErrorCode.INTERNAL:
            self._client.connection.close(CloseCode.INTERNAL_ERROR, "internal error")
