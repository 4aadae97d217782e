"""One connection to a server of a cluster on which all virtual shards there listen to their bus."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError

from heliograph.backends.redis.bus_verbs import SHARDED
from heliograph.backends.redis.link_errors import NotConnected, SlotMoved
from heliograph.backends.redis.wire import Wire

MOST_HELD: Final = 10_000  # pushes that wait for a lane to be released
MOST_NAMES: Final = 500  # bus channels in one command


class BusTrunk:
    """A connection that lanes listen on, each with the bus channels of its own tag.

    A lane that has heard nothing for too long is closed, and opened over another connection: then this one gets no
    new lanes. If it is dead, the others find that out in the same second. It ends with its last lane.
    """

    def __init__(self) -> None:
        self.is_open = True
        self._wire: Wire | None = None  # set by `open`
        self._lanes: dict[bytes, BusLane] = {}  # by tag

    @classmethod
    async def open(cls, pool: ConnectionPool) -> "BusTrunk":
        """Open a new connection like the pool's. Raises the errors of redis-py."""
        trunk = cls()
        trunk._wire = await Wire.open(pool, trunk._on_push, trunk._on_lost)
        return trunk

    def lane(
        self, tag: str, slot: int, receive: Callable[[Any], object], lost: Callable[[Exception], object]
    ) -> "BusLane":
        """Return a new part of the connection: see `Wire`.

        Raises:
            NotConnected: it has ended meanwhile.
        """
        if not self.is_open:
            raise NotConnected("the connection to Redis has ended meanwhile")
        lane = self._lanes[tag.encode()] = BusLane(self, tag.encode(), slot, receive, lost)
        return lane

    def say(self, *command: str | bytes | int) -> None:
        """Send one command at once."""
        if self._wire is not None:
            self._wire.say(*command)

    def leave(self, lane: "BusLane", *, is_good: bool) -> None:
        """Remove a lane: pushes for it are dropped. `is_good`: the connection may have new lanes."""
        self.is_open = self.is_open and is_good
        if self._lanes.get(lane.tag) is lane:
            del self._lanes[lane.tag]
        if not self._lanes:
            self.is_open = False
            if self._wire is not None:
                self._wire.fail(RedisConnectionError("nothing needs this connection any more"))

    async def close(self) -> None:
        """End the connection at once."""
        self.is_open = False
        if self._wire is not None:
            await self._wire.close()

    def _on_push(self, push: Any) -> None:
        if isinstance(push, Exception):
            self._on_refusal(push)
            return
        channel: bytes = push[1] or b""
        lane = self._lanes.get(channel[1 : channel.find(b"}")])
        if lane is not None:
            lane.take(push)

    def _on_refusal(self, error: Exception) -> None:
        """Take an error. Only if a slot has moved it says of whom; otherwise it is everybody's."""
        for lane in list(self._lanes.values()):
            if not isinstance(error, MovedError) or lane.slot == error.slot_id:
                lane.refuse(error)

    def _on_lost(self, reason: Exception) -> None:
        self.is_open = False
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            lane.end(reason)


class BusLane:
    """The part of a trunk that the bus of one virtual shard has: what `BusWire` promises."""

    def __init__(
        self,
        trunk: BusTrunk,
        tag: bytes,
        slot: int,
        receive: Callable[[Any], object],
        lost: Callable[[Exception], object],
    ) -> None:
        self._trunk = trunk
        self.tag = tag
        self.slot = slot
        self._receive = receive
        self._lost = lost
        self._names: dict[str | bytes | int, None] = {}
        self._is_confirmed = False  # pushes before that are of an earlier lane of the same tag
        self._held: list[Any] | None = None
        self._is_open = True

    def say(self, *command: str | bytes | int) -> None:
        """See `BusWire`."""
        verb, *names = command
        if not self._is_open:
            return
        if verb == SHARDED.unsubscribe and not names:  # from all: others listen on this connection too
            self._unsubscribe()
            return
        if verb == SHARDED.subscribe:
            self._names.update(dict.fromkeys(names))
        elif verb == SHARDED.unsubscribe:
            for name in names:
                self._names.pop(name, None)
        self._trunk.say(*command)

    def hold(self) -> None:
        """Hold pushes back."""
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """Pass on held pushes, and later ones again."""
        held, self._held = self._held or [], None
        for push in held:
            self._pass_on(push)

    def take(self, push: Any) -> None:
        """Take a push."""
        self._is_confirmed = self._is_confirmed or push[0] == SHARDED.subscribed
        if self._is_confirmed:
            self._pass_on(push)

    def refuse(self, error: Exception) -> None:
        """Take an error of Redis."""
        self._pass_on(error)

    def fail(self, reason: Exception) -> None:
        """End this part for a reason. If only the slot has moved, the connection is as good as it was."""
        if self._is_open:
            self._leave(is_good=isinstance(reason, SlotMoved))
            asyncio.get_running_loop().call_soon(self._lost, reason)

    def end(self, reason: Exception) -> None:
        """Take notice that the connection has ended."""
        if self._is_open:
            self._is_open = False
            self._lost(reason)

    async def close(self) -> None:
        """End this part."""
        if self._is_open:
            self._leave(is_good=False)
            self._lost(RedisConnectionError("the bus connection was closed here"))

    def _pass_on(self, push: Any) -> None:
        if self._held is not None:
            self._held.append(push)
            if len(self._held) > MOST_HELD:
                self.fail(RedisConnectionError(f"{MOST_HELD} messages wait for somebody to read them"))
        elif self._is_open:
            try:
                self._receive(push)
            except Exception as error:  # noqa: BLE001 - `lost` gets it
                self.fail(error)

    def _leave(self, *, is_good: bool) -> None:
        self._unsubscribe()
        self._is_open = False
        self._trunk.leave(self, is_good=is_good)

    def _unsubscribe(self) -> None:
        names, self._names = list(self._names), {}
        for start in range(0, len(names), MOST_NAMES):
            self._trunk.say(SHARDED.unsubscribe, *names[start : start + MOST_NAMES])
