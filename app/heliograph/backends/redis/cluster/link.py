"""The link of a virtual shard: to the server that owns its slot, wherever that moves."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.asyncio import ConnectionPool
from redis.exceptions import NoScriptError

from heliograph.backends.redis.cluster.nodes import Nodes
from heliograph.backends.redis.cluster.topology import HOLD_S, NOT_EXECUTED, PAUSE_S, Node
from heliograph.backends.redis.link import MOST_OUTSTANDING, Command, Link, OnReply, OpenBatch, call_back
from heliograph.backends.redis.link_errors import Held, LinkFull, NotConnected
from heliograph.backends.redis.wire import Connected

if TYPE_CHECKING:
    from heliograph.backends.redis.cluster.trunk import Lane


class HeldCall:
    """A command that was not executed, or has come after one: it is sent in its turn."""

    def __init__(
        self,
        command: Command | OpenBatch,
        done: OnReply,
        unknown: Any,
        connection: int,
        until: float,
        is_rare: bool,
    ) -> None:
        self.command = command
        self.done = done
        self.unknown = unknown
        self.connection = connection  # the one for which it was made
        self.until = until  # when it fails, by the loop's clock
        self.is_rare = is_rare


class ClusterLink(Link):
    """A `Link` that follows its slot.

    Commands that the server has not executed (MOVED, ASK, TRYAGAIN, CLUSTERDOWN) are held, with all that come after
    them, and sent again in order, for `HOLD_S` at most. When the slot has moved, what is on its way to the old owner
    is answered first; only then is there a connection to the new one.

    Links of one `kind` share a connection to each server (`Trunk`).

    A script call (with `unknown`) is sent again over the same connection only. Over another one the scripts must be
    loaded first, so its `unknown` is called, as if Redis did not know the script.
    """

    def __init__(self, nodes: Nodes, kind: str, slot: int, pool: ConnectionPool, timeout_s: float) -> None:
        super().__init__(pool, timeout_s)
        self._kind = kind
        self.nodes = nodes
        self._slot = slot
        self._is_leaving = False  # the slot has moved, and not everything is answered
        self._held: list[HeldCall] = []
        self._refusal: Exception | None = None  # why the command was refused whose callback is called
        self._pausing: asyncio.TimerHandle | None = None
        self._generation = 0  # of the connection whose end counts
        self._watches = False
        self.node: Node | None = None  # that the connection goes to
        self._lane: Lane | None = None  # the part of the connection that this link has

    @property
    def is_steady(self) -> bool:
        """True if there is a connection, and the slot is not known to have moved."""
        return self._wire is not None and not self._is_leaving

    def leave(self) -> None:
        """Leave the present connection, if another server owns the slot, as soon as everything on it is answered."""
        if self._wire is not None and self.nodes.topology.known_owner(self._slot) != self.node:
            self._is_leaving = True
            self._move_on()

    def call(
        self,
        command: Command | OpenBatch,
        done: OnReply,
        unknown: Any = None,
        *,
        connection: int | None = None,
        is_rare: bool = False,
    ) -> None:
        if connection is not None:  # a step of a sequence that fails as a whole
            if self._is_leaving:
                done(NotConnected("the slot is moving to another server"))
            else:
                super().call(command, done, connection=connection, is_rare=is_rare)
            return
        until = asyncio.get_running_loop().time() + HOLD_S
        held = HeldCall(command, done, unknown, self.connections, until, is_rare)
        if not (self._is_leaving or self._held):
            self._send(held)
        elif len(self._held) >= MOST_OUTSTANDING and not is_rare:
            done(LinkFull(f"{len(self._held)} commands wait until their slot has moved"))
        else:
            self._held.append(held)
            self._pause()

    async def close(self) -> None:
        self.nodes.topology.unwatch(self._slot, self.leave)
        self._watches = False
        self._generation += 1
        lane, self._lane, self._wire = self._lane, None, None
        if lane is not None:
            lane.leave()
        await super().close()
        held, self._held = self._held, []
        for each in held:
            call_back(each.done, NotConnected("the connection to Redis was closed here"))
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None

    # -- the connection

    async def _open_wire(self) -> Connected:
        self._generation += 1
        lost = partial(self._on_lost_of, self._generation)
        lane, self.node = await self.nodes.open_lane(self._kind, self._slot, self._on_reply, lost, self._flush)
        if not self._watches:
            self._watches = True
            self.nodes.topology.watch(self._slot, self.leave)
        self._lane = lane
        return lane

    def _on_lost_of(self, generation: int, reason: Exception) -> None:
        if generation == self._generation:
            self._on_lost(reason)

    def _on_lost(self, reason: Exception) -> None:
        self._is_leaving = False
        super()._on_lost(reason)
        if self._held:
            self._pause()

    def _move_on(self) -> None:
        """Leave the connection if everything on it is answered, or was given up."""
        if not self._is_leaving or len(self._outstanding) > self._given_up:
            return
        self._is_leaving = False
        self._generation += 1
        self._outstanding.clear()
        self._given_up = 0
        lane, self._lane, self._wire = self._lane, None, None
        if lane is not None:
            lane.leave()
        self._resume()

    # -- out

    def _send(self, held: HeldCall) -> None:
        super().call(held.command, held.done, partial(self._refused, held), is_rare=held.is_rare)

    def _pause(self) -> None:
        """Send what is held in a moment."""
        if self._pausing is None and not self._is_leaving:
            self._pausing = asyncio.get_running_loop().call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        """Send what is held, in order, unless it was held too long."""
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        if self._is_leaving:
            return
        now = asyncio.get_running_loop().time()
        held, self._held = self._held, []
        for each in held:
            if each.until <= now:
                call_back(each.done, Held(f"slot {self._slot} was moving for more than {HOLD_S:g} s"))
            elif each.unknown is not None and (self._wire is None or each.connection != self.connections):
                each.unknown()
            elif self._is_leaving or self._held:
                self._held.append(each)
            else:
                self._send(each)

    # -- in

    def _on_reply(self, reply: Any) -> None:
        super()._on_reply(reply)
        if self._is_leaving:
            self._move_on()

    def _on_error(self, error: Exception, done: OnReply, unknown: Any) -> None:
        if not isinstance(error, NOT_EXECUTED):
            super()._on_error(error, done, unknown)
            return
        self.nodes.topology.refused(self._slot, error, self.node)
        if self._wire is not None and self.nodes.topology.known_owner(self._slot) != self.node:
            self._is_leaving = True
        if unknown is None:
            call_back(done, error)
        else:
            self._refusal = error
            self._give_back(error, done, unknown)

    def _refused(self, held: HeldCall) -> None:
        error, self._refusal = self._refusal, None
        if error is None:  # Redis does not know the script
            if held.unknown is None:
                call_back(held.done, NoScriptError("the script is unknown"))
            else:
                held.unknown()
        elif held.unknown is not None and self._is_leaving:
            held.unknown()
        else:
            self._held.append(held)
            self._pause()

    def _fail_overdue(self) -> None:
        super()._fail_overdue()
        if self._is_leaving:
            self._move_on()
