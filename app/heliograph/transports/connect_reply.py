"""The reply to a `connect`, in wire formats in which it holds the subscriptions that the server has made."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from heliograph.protocol.actions import JoinChannel
from heliograph.protocol.events import Subscribed


class ConnectReply:
    """Subscribe a client to channels, and reply once each subscription has begun, or cannot begin now.

    What the channels bring waits in the client's outbox until the reply. `reply` sends it: the channels with their
    `Subscribed`, or None where the log cannot be read now; `later` sends a `Subscribed` that comes after the reply.
    `wants`: returns False for a channel that the client has been taken off meanwhile.
    """

    def __init__(
        self,
        reply: Callable[[Mapping[str, Subscribed | None]], object],
        later: Callable[[Subscribed], object],
        wants: Callable[[str], bool],
    ) -> None:
        self._reply = reply
        self._later = later
        self._wants = wants
        self._waiting: set[str] = set()
        self._begun: dict[str, Subscribed | None] = {}

    async def join_all(
        self,
        joins: Sequence[JoinChannel],
        join: Callable[[JoinChannel, Callable[[Subscribed], object]], Awaitable[None]],
    ) -> None:
        """Join the channels. All at once: a client that has missed much reads nothing before the reply."""
        self._waiting = {each.channel for each in joins}
        if len(joins) == 1:
            await self._join(joins[0], join)
            return
        async with asyncio.TaskGroup() as tasks:
            for each in joins:
                tasks.create_task(self._join(each, join), name="connect-join")

    async def _join(
        self,
        action: JoinChannel,
        join: Callable[[JoinChannel, Callable[[Subscribed], object]], Awaitable[None]],
    ) -> None:
        channel = action.channel
        await join(action, partial(self._has_begun, channel))
        if channel in self._waiting:
            if self._wants(channel):
                self._begun[channel] = None
            self._settle(channel)

    def _has_begun(self, channel: str, subscribed: Subscribed) -> None:
        if channel in self._waiting:
            self._begun[channel] = subscribed
            self._settle(channel)
        else:
            self._later(subscribed)

    def _settle(self, channel: str) -> None:
        self._waiting.discard(channel)
        if not self._waiting:
            self._reply(self._begun)
