"""One connection to a server of a cluster for the links of all virtual shards that are there."""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import repeat
from typing import Any

from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

from heliograph.backends.redis.link_errors import NotConnected
from heliograph.backends.redis.wire import Wire


class Trunk:
    """A connection that lanes share. What they send in one event-loop iteration is one write.

    Each lane keeps its own order. If one of them finds that the connection is dead, or that the server takes no
    writes any more, it ends for all of them. It ends with its last lane, too.
    """

    def __init__(self) -> None:
        self.is_open = True
        self._wire: Wire | None = None  # set by `open`
        self._lanes: dict[Lane, None] = {}  # in the order of their making
        self._due: deque[Lane] = deque()  # whose reply comes next
        self._unsent: list[bytes] = []
        self._flush_is_due = False

    @classmethod
    async def open(cls, pool: ConnectionPool) -> "Trunk":
        """Open a new connection like the pool's. Raises the errors of redis-py."""
        trunk = cls()
        trunk._wire = await Wire.open(pool, trunk._on_reply, trunk._on_lost, trunk._on_resume)
        return trunk

    def lane(
        self,
        receive: Callable[[Any], object],
        lost: Callable[[Exception], object],
        on_resume: Callable[[], object],
    ) -> "Lane":
        """Return a new part of the connection: see `Wire`.

        Raises:
            NotConnected: it has ended meanwhile.
        """
        if not self.is_open:
            raise NotConnected("the connection to Redis has ended meanwhile")
        lane = Lane(self, receive, lost, on_resume)
        self._lanes[lane] = None
        return lane

    @property
    def reads(self) -> int:
        """Return the number of reads so far."""
        return 0 if self._wire is None else self._wire.reads

    @property
    def is_paused(self) -> bool:
        """True if Redis reads more slowly than the lanes write."""
        return self._wire is not None and self._wire.is_paused

    def send(self, lane: "Lane", commands: list[bytes]) -> None:
        """Send commands, with those that other lanes send in this event-loop iteration."""
        self._due.extend(repeat(lane, len(commands)))
        self._unsent += commands
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def leave(self, lane: "Lane") -> None:
        """Remove a lane: replies to it are dropped."""
        self._lanes.pop(lane, None)
        if not self._lanes:
            self.fail(RedisConnectionError("nothing needs this connection any more"))

    def fail(self, reason: Exception) -> None:
        """End the connection, for all lanes."""
        self.is_open = False
        if self._wire is not None:
            self._wire.fail(reason)

    async def close(self) -> None:
        """End the connection at once, without writing the rest."""
        self.is_open = False
        if self._wire is not None:
            await self._wire.close()

    def _flush(self) -> None:
        self._flush_is_due = False
        unsent, self._unsent = self._unsent, []
        if self.is_open and self._wire is not None:
            self._wire.send(unsent)

    def _on_reply(self, reply: Any) -> None:
        lane = self._due.popleft()
        if lane.is_open:
            lane.receive(reply)

    def _on_resume(self) -> None:
        for lane in list(self._lanes):
            lane.on_resume()

    def _on_lost(self, reason: Exception) -> None:
        self.is_open = False
        lanes, self._lanes = self._lanes, {}
        for lane in lanes:
            lane.is_open = False
            lane.lost(reason)


class Lane:
    """The part of a trunk that one link has: what `Connected` promises."""

    def __init__(
        self,
        trunk: Trunk,
        receive: Callable[[Any], object],
        lost: Callable[[Exception], object],
        on_resume: Callable[[], object],
    ) -> None:
        self._trunk = trunk
        self.receive = receive
        self.lost = lost
        self.on_resume = on_resume
        self.is_open = True

    @property
    def reads(self) -> int:
        """Return the number of reads of the whole connection: who hears anything hears that it lives."""
        return self._trunk.reads

    @property
    def is_paused(self) -> bool:
        """See `Connected`."""
        return self._trunk.is_paused

    def send(self, commands: list[bytes]) -> None:
        """See `Connected`."""
        if self.is_open:
            self._trunk.send(self, commands)

    def leave(self) -> None:
        """End this part alone, at once: `lost` is not called, and the connection is as good as it was."""
        if self.is_open:
            self.is_open = False
            self._trunk.leave(self)

    def fail(self, reason: Exception) -> None:
        """See `Connected`. It ends the connection, for the other lanes too."""
        if self.is_open:
            self._trunk.fail(reason)

    async def close(self) -> None:
        """End this part alone."""
        self.leave()
