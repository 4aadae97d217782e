"""The scripts of a virtual shard: loaded anew whenever its slot has come to another server, or may have."""

import asyncio
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Any

from redis.exceptions import RedisError

from heliograph.backends.redis.acknowledgement import IN_MEMORY, Acknowledgement
from heliograph.backends.redis.bus_verbs import SHARDED
from heliograph.backends.redis.client import Client
from heliograph.backends.redis.cluster import succession
from heliograph.backends.redis.cluster.link import ClusterLink
from heliograph.backends.redis.cluster.nodes import Nodes
from heliograph.backends.redis.cluster.succession import Known, Wait
from heliograph.backends.redis.cluster.topology import HOLD_S, NOT_EXECUTED, PAUSE_S, Node
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import Layout
from heliograph.backends.redis.link import Command, OnReply
from heliograph.backends.redis.link_errors import Held, NotSent
from heliograph.backends.redis.script_loading import Claim
from heliograph.backends.redis.scripts import Mark, Scripts
from heliograph.callbacks import await_callback
from heliograph.telemetry import Histogram

# After so long without a call the server may have been replaced and be back: it would still know its old scripts.
VERIFIED_S = 2.0
MOST_PAUSE_S = 0.1  # between two attempts to load them


class ClusterScripts(Scripts):
    """`Scripts` of one virtual shard. They are loaded for one connection, and for no other.

    When the slot is at another server, calls wait until it is known whether something was lost (`succession.py`), and
    fail after `HOLD_S`.
    """

    def __init__(
        self,
        client: Client,
        nodes: Nodes,
        slot: int,
        keys: Keys,
        link: ClusterLink,
        owner: str = "",
        *,
        layout: Layout | None = None,
        directed: bool = False,
        publish_time: Histogram | None = None,
        ack: Acknowledgement = IN_MEMORY,
        mark: Mark | None = None,
        claim: Claim | None = None,
        family: list[Scripts] | None = None,
    ) -> None:
        super().__init__(
            client,
            keys,
            owner,
            layout=layout,
            directed=directed,
            publish_time=publish_time,
            ack=ack,
            link=link,
            mark=mark,
            claim=claim,
            family=family,
        )
        self._nodes = nodes
        self._slot = slot
        self._steady_link = link
        self._known = Known()
        self._loaded_over = 0  # the connection for which the scripts are loaded
        self._called_at = 0.0  # monotonic seconds

    def on(self, link: ClusterLink) -> "ClusterScripts":
        """Return the same scripts over another link: see `Scripts.over`."""
        return ClusterScripts(
            self._client,
            self._nodes,
            self._slot,
            self._keys,
            link,
            self._owner,
            layout=self._layout,
            directed=self._directed,
            ack=self._ack,
            mark=self._mark,
            claim=self._claim,
            family=self._family,
        )

    def _is_loaded(self, name: str) -> bool:
        now, before = monotonic(), self._called_at
        self._called_at = now
        return super()._is_loaded(name) and self._is_over_the_same() and now - before < VERIFIED_S

    def _is_over_the_same(self) -> bool:
        """Return whether the connection is the one for which the scripts are loaded."""
        link = self._steady_link
        return link.is_steady and link.connections == self._loaded_over

    def _evaluate(self, name: str, parameters: Command, done: OnReply, times: int = 1) -> None:
        if self._is_over_the_same():
            super()._evaluate(name, parameters, done, times)
        else:  # it was lost since they were loaded: the server behind the next one may know them from an earlier time
            self._unknown(name, parameters, done, times)

    def _unknown(self, name: str, parameters: Command, done: OnReply, times: int) -> None:
        """Load the scripts, and repeat this call, which was not run. `times`: 1, or the end of that, monotonic ms."""
        now_ms = int(monotonic() * 1000)
        until_ms = times if times > 1 else now_ms + int(HOLD_S * 1000)
        if now_ms > until_ms:
            done(Held(f"slot {self._slot} was moving, or lost its scripts, for more than {HOLD_S:g} s"))
            return
        self._again.append((name, parameters, done, until_ms))
        self._load()

    async def _follow_steps(self) -> dict[str, str]:
        until, pause_s = monotonic() + HOLD_S, PAUSE_S
        while True:
            try:
                return await self._load_here()
            except RedisError as error:
                if monotonic() > until or not isinstance(error, (*NOT_EXECUTED, NotSent)):
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)

    async def _load_here(self) -> dict[str, str]:
        """Load the scripts at the present owner of the slot, under the right name."""
        link = self._steady_link
        await link.ping()
        connection, node = link.connections, link.node
        if node is None:
            raise NotSent("the connection to Redis has ended meanwhile")
        self._known = await self._follow(succession.decide(self._keys.server, node, self._known), connection, node)
        shas = await self._load_over(connection, self._known.name, SHARDED.publish)
        self._loaded_over, self._called_at = connection, monotonic()
        return shas

    async def _follow(self, steps: succession.Steps, connection: int, node: Node) -> Known:
        """Ask what the steps yield, and return what they do."""
        answers: Sequence[Any] = ()
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
            elif step.node is None or step.node == node:  # all virtual shards that move ask at the same time
                answers = await self._ask(connection, *step.commands)
            else:
                answers = await self._nodes.answers(step.node, step.commands)
            try:
                step = steps.send(answers)
            except StopIteration as done:
                found: Known = done.value
                return found

    async def _ask(self, connection: int, *commands: Command) -> Sequence[Any]:
        """Return the replies, errors too, to commands over this connection."""
        replies: Sequence[Any] = await await_callback(partial(self._ask_all, list(commands), connection))
        return replies
