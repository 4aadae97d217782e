"""The end of a connection at a time that was given, unless the user's backend lets it stay."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from heliograph.errors import ErrorCode, HookUnavailable
from heliograph.hooks.user_backend import Renewal, UserBackend
from heliograph.hub.connection import Connection
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.decision import Deny, Hook
from heliograph.protocol.peer import Caller

AGAIN_S: Final = 60.0  # for which a connection stays if the backend cannot say
LEAST_S: Final = 1.0  # between two calls of the refresh hook


class Expiry:
    """Close a connection at its time. A client that the connect hook let in may stay if the refresh hook says so.

    `on_renewed`: called with what the backend then says of the client.
    """

    __slots__ = ("_asking", "_caller", "_connection", "_on_renewed", "_timer", "_user_backend")

    def __init__(
        self, connection: Connection, user_backend: UserBackend, on_renewed: Callable[[Renewal], object]
    ) -> None:
        self._connection = connection
        self._on_renewed = on_renewed
        self._user_backend = user_backend
        self._caller: Caller | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    def ask_about(self, caller: Caller) -> None:
        """Have the refresh hook asked about this client at its time, if there is such a hook."""
        self._caller = caller if self._user_backend.has(Hook.REFRESH) else None

    def set(self, when: float | None) -> None:
        """Set the time (seconds since the epoch; None: never)."""
        self.cancel()
        if when is not None:
            self._timer = asyncio.get_running_loop().call_later(when - time.time(), self._end)

    def cancel(self) -> None:
        """Forget the time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None and self._asking is not asyncio.current_task():
            self._asking.cancel()
        self._asking = None

    def _end(self) -> None:
        self._timer = None
        if self._caller is None:
            self._connection.close(CloseCode.EXPIRED, "the token has expired")
        else:
            self._asking = asyncio.create_task(self._ask(self._caller), name="expiry-refresh")

    async def _ask(self, caller: Caller) -> None:
        try:
            answer = await self._user_backend.refresh(caller)
        except HookUnavailable:
            self.set(time.time() + AGAIN_S)
            return
        if not isinstance(answer, Deny):
            when = answer.expires_at
            if when is not None:
                when = max(when, time.time() + LEAST_S)
            self._caller = msgspec.structs.replace(caller, meta=answer.meta)
            self.set(when)
            self._on_renewed(answer)
        elif answer.code is ErrorCode.UNAVAILABLE:
            self.set(time.time() + AGAIN_S)
        else:
            self._connection.close(answer.close or CloseCode.EXPIRED, answer.reason)
