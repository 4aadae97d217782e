"""Routing where there are several shards: each has a router of its own, and this one picks it by the channel."""

from collections.abc import Sequence

import msgspec

from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.publish_result import OnPublished, PublishResult
from heliograph.hub.connection import Connection
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.identity import personal_channel
from heliograph.protocol.operations import Publish, Send
from heliograph.protocol.shard_map import ShardMap


class ShardedManager(ConnectionManager):
    """A `ConnectionManager` over those of all shards. What belongs to no shard it does as the first of them.

    A test holds it to override every method that takes a channel or a user.
    """

    def __init__(self, managers: Sequence[ConnectionManager], shard_map: ShardMap) -> None:
        first = managers[0]
        super().__init__(
            first._hub,
            first._bus,
            first._directory,
            first._log,
            first._following,
            first._remote,
            first._admission,
            first._writes,
            first._namespaces,
            first._stamp,
        )
        self._managers = list(managers)
        self._shard_map = shard_map

    async def connect(self, connection: Connection) -> None:
        await self._of(personal_channel(connection.user)).connect(connection)

    def disconnect(self, connection: Connection) -> None:
        self._of(personal_channel(connection.user)).disconnect(connection)

    def dispatch(
        self, operation: Send | Publish, *, sender: str | None, done: OnPublished, author: ClientInfo | None = None
    ) -> None:
        channel = personal_channel(operation.to) if isinstance(operation, Send) else operation.channel
        self._of(channel).dispatch(operation, sender=sender, done=done, author=author)

    def submit(
        self,
        channel: str,
        data: msgspec.Raw,
        done: OnPublished,
        *,
        sender: str | None = None,
        idempotency_key: str | None = None,
        ephemeral: bool = False,
        tags: dict[str, str] | None = None,
    ) -> None:
        self._of(channel).submit(
            channel,
            data,
            done,
            sender=sender,
            idempotency_key=idempotency_key,
            ephemeral=ephemeral,
            tags=tags,
        )

    async def remove_history(self, channel: str) -> None:
        await self._of(channel).remove_history(channel)

    async def send_message(
        self,
        user_id: str,
        message: object,
        via_pubsub: bool = False,
        *,
        sender: str | None = None,
    ) -> PublishResult:
        manager = self._of(personal_channel(user_id))
        return await manager.send_message(user_id, message, via_pubsub, sender=sender)

    def handle_pubsub_message(self, envelope: Envelope) -> int:
        return self._of(envelope.address).handle_pubsub_message(envelope)

    def _of(self, channel: str) -> ConnectionManager:
        return self._managers[self._shard_map.of(channel)]
