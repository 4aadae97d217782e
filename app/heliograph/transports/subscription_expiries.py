"""The ends of subscriptions whose right to a channel has one."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from heliograph.errors import ErrorCode, HookUnavailable
from heliograph.hooks.user_backend import Renewal
from heliograph.protocol.decision import Deny
from heliograph.transports.expiry import AGAIN_S, LEAST_S


class SubscriptionExpiries:
    """When the subscriptions of one connection end. `expired` is called with the channel of each that has.

    `grace_s`: how long a client has to show its next token once the present one has expired. `ask`: asks the user's
    backend whether the client may stay on a channel that the backend has let it on, in the place of a token.
    `disconnect`: called with a close code and a reason if the backend closes the connection instead.
    """

    __slots__ = ("_ask", "_asking", "_disconnect", "_expired", "_grace_s", "_timers")

    def __init__(
        self,
        expired: Callable[[str], object],
        grace_s: float,
        ask: Callable[[str], Awaitable[Renewal | Deny]] | None = None,
        *,
        disconnect: Callable[[int, str], object],
    ) -> None:
        self._expired = expired
        self._disconnect = disconnect
        self._grace_s = grace_s
        self._ask = ask
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of the few channels that have an end
        self._asking: dict[str, asyncio.Task[None]] = {}

    def set(self, channel: str, expires_at: float | None, *, is_from_hook: bool = False) -> None:
        """Let the subscription end at `expires_at` (seconds since the epoch; None: never), or a grace time later."""
        self.forget(channel)
        if expires_at is None:
            return
        in_s, loop = expires_at - time.time(), asyncio.get_running_loop()
        if not is_from_hook:
            self._timers[channel] = loop.call_later(in_s + self._grace_s, self._end, channel)
        elif self._ask is None:
            self._timers[channel] = loop.call_later(in_s, self._end, channel)
        else:
            self._timers[channel] = loop.call_later(in_s, self._begin_to_ask, channel, self._ask)

    def forget(self, channel: str) -> None:
        """Note that the client has left the channel."""
        if (timer := self._timers.pop(channel, None)) is not None:
            timer.cancel()
        task = self._asking.pop(channel, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def forget_all(self) -> None:
        for channel in [*self._timers, *self._asking]:
            self.forget(channel)

    def _end(self, channel: str) -> None:
        del self._timers[channel]
        self._expired(channel)

    def _begin_to_ask(self, channel: str, ask: Callable[[str], Awaitable[Renewal | Deny]]) -> None:
        del self._timers[channel]
        self._asking[channel] = asyncio.create_task(self._renew(channel, ask), name="subscription-refresh")

    async def _renew(self, channel: str, ask: Callable[[str], Awaitable[Renewal | Deny]]) -> None:
        again_at = time.time() + AGAIN_S
        try:
            answer = await ask(channel)
        except HookUnavailable:
            self.set(channel, again_at, is_from_hook=True)  # nobody has said that it must go
            return
        if not isinstance(answer, Deny):
            when = answer.expires_at
            self.set(channel, None if when is None else max(when, time.time() + LEAST_S), is_from_hook=True)
        elif answer.close is not None:
            self._disconnect(answer.close, answer.reason)
        elif answer.code is ErrorCode.UNAVAILABLE:
            self.set(channel, again_at, is_from_hook=True)
        else:
            self.forget(channel)
            self._expired(channel)
