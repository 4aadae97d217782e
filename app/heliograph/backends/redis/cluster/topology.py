"""Which server of a cluster owns which slot, as the servers say. Pure, apart from `Topology`, which asks them."""

import asyncio
import logging
import random
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, NoReturn

from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from heliograph.backends.redis.cluster.tags import SLOTS
from heliograph.backends.redis.link_errors import NotConnected
from heliograph.tasks import end

logger = logging.getLogger(__name__)

Node = tuple[str, int]  # host and port

# The server has not carried the command out: another one owns the slot, or will in a moment, or nobody does.
NOT_EXECUTED: Final = (AskError, TryAgainError, ClusterDownError)  # MOVED is a kind of ASK in redis-py
HOLD_S: Final = 1.0  # how long a command is held that was not executed
PAUSE_S: Final = 0.02  # before it is sent again
LOOK_S: Final = 1.0  # how often to look for changes that no reply has told of
QUESTION: Final = ("CLUSTER", "SLOTS")


class NoOwner(NotConnected):
    """No server that answers knows who owns the slot."""


class SlotMap:
    """Owners by slot, from an answer to CLUSTER SLOTS. `asked`: the server that gave it."""

    def __init__(self, answer: Iterable[Any], asked: Node) -> None:
        ranges = sorted((first, last, _node(server, asked)) for first, last, server, *_ in answer)
        self._firsts = [first for first, _, _ in ranges]
        self._ranges = ranges

    def owner(self, slot: int) -> Node | None:
        """Return the slot's master; None if the slot has none."""
        place = bisect_right(self._firsts, slot) - 1
        if place < 0 or slot > self._ranges[place][1]:
            return None
        return self._ranges[place][2]

    @property
    def masters(self) -> list[Node]:
        """Return every master that owns slots."""
        return list(dict.fromkeys(node for _, _, node in self._ranges))


def _node(server: list[Any], asked: Node) -> Node:
    """Return an address from CLUSTER SLOTS; an empty host is the one that was asked."""
    host, port = server[0], server[1]
    name = host.decode() if isinstance(host, bytes) else host
    return (name if name not in (None, "", "?") else asked[0]), int(port)


def moved_to(error: Exception, asked: Node | None = None) -> Node | None:
    """Return the owner that an error names; None if it names none."""
    if not isinstance(error, MovedError):
        return None
    host, port = error.node_addr
    if not host and asked is None:
        return None
    return host or asked[0], port  # type: ignore[index]


class Owners:
    """What a program knows of the owners of slots. `seeds`: servers to ask first."""

    def __init__(self, seeds: Iterable[Node]) -> None:
        self._seeds = list(seeds)
        self._map = SlotMap((), self._seeds[0])
        self._said: dict[int, Node] = {}  # owners that MOVED has named since the map was read
        self._doubted: Node | None = None
        self._is_due = True  # the map must be read again before it is believed
        self._failure: NoOwner | None = None  # of the last attempt to read it
        self._failed_at = 0.0  # monotonic seconds

    def of(self, slot: int) -> Node | None:
        """Return the slot's owner as it was read last; None if it is unknown."""
        return self._said.get(slot) or self._map.owner(slot)

    def must_be_read(self, slot: int) -> bool:
        """Return whether a server must be asked before the owner of this slot is believed."""
        return self._is_due or self.of(slot) is None

    def refused(self, slot: int, error: Exception, asked: Node | None = None) -> bool:
        """Take an error that says that the slot is elsewhere, or in doubt. Return whether it names an owner."""
        owner = moved_to(error, asked)
        if owner is not None:
            self._said[slot] = owner
        elif not isinstance(error, AskError | TryAgainError):
            self._is_due = True
        return owner is not None

    def doubt(self, node: Node) -> None:
        """Note that the server does not answer: perhaps it owns nothing any more."""
        self._doubted = node
        self._is_due = True

    def to_ask(self) -> list[Node]:
        """Return the servers that may know the owners, in the order in which to ask them."""
        known = [node for node in self._map.masters if node != self._doubted]
        random.shuffle(known)
        return list(dict.fromkeys([*known, *self._seeds, *self._map.masters]))

    def read(self, answer: Iterable[Any], asked: Node) -> bool:
        """Take an answer to CLUSTER SLOTS. Return whether it tells anything."""
        found = SlotMap(answer, asked)
        if not found.masters:
            return False
        self._map = found
        self._said.clear()
        self._is_due = False
        self._doubted = None
        return True

    def failed(self, errors: Iterable[tuple[Node, Exception | str]]) -> "NoOwner":
        """Return the error if no server tells the owners; `errors`: what each has said."""
        reasons = [f"{host}:{port}: {error or type(error).__name__}" for (host, port), error in errors]
        self._failure = NoOwner(f"no server of the cluster answers: {'; '.join(reasons)}")
        self._failed_at = monotonic()
        return self._failure

    def check_not_failed_since(self, began: float) -> None:
        """Let those who wait for one attempt end with it: each attempt may take seconds. `began`: monotonic seconds.

        Raises:
            NoOwner: no server has told the owners since then.
        """
        if self._failure is not None and self._failed_at >= began:
            raise NoOwner(str(self._failure))

    def missing(self, slot: int) -> "NoOwner":
        """Return the error for a slot without an owner, for which servers are asked again."""
        self._is_due = True
        return NoOwner(f"no server of the cluster owns slot {slot} of {SLOTS}")


NO_CLUSTER: Final = "it is in no cluster"  # an answer that tells no owner


class Topology:
    """The owners of slots, for connections of an event loop.

    `seeds`: servers to ask first. `ask` sends one command to a server and returns its answer.

    `watch`: its callback is called when another server has become the owner of the slot.
    """

    def __init__(self, seeds: Iterable[Node], ask: Callable[..., Awaitable[Any]]) -> None:
        self._owners = Owners(seeds)
        self._ask = ask
        self._reading = asyncio.Lock()
        self._watched: dict[int, list[Callable[[], object]]] = {}
        self._seen: dict[int, Node | None] = {}  # owners of watched slots, as their watchers know
        self._looking: asyncio.Task[None] | None = None

    async def owner(self, slot: int) -> Node:
        """Return the server that owns the slot, as far as is known.

        Raises:
            NoOwner: no server that answers knows one.
        """
        if self._owners.must_be_read(slot):
            began = monotonic()
            async with self._reading:
                if self._owners.must_be_read(slot):
                    self._owners.check_not_failed_since(began)
                    await self._read()
        owner = self._owners.of(slot)
        if owner is None:
            raise self._owners.missing(slot)
        return owner

    def known_owner(self, slot: int) -> Node | None:
        """Return the slot's owner as it was read last; None if it is unknown."""
        return self._owners.of(slot)

    def refused(self, slot: int, error: Exception, asked: Node | None = None) -> None:
        """Take an error that says that the slot is elsewhere, or in doubt. `asked`: the server that gave it."""
        if self._owners.refused(slot, error, asked):
            asyncio.get_running_loop().call_soon(self._tell_watchers)

    def doubt(self, node: Node) -> None:
        """Note that the server does not answer: perhaps it owns nothing any more."""
        self._owners.doubt(node)

    def watch(self, slot: int, changed: Callable[[], object]) -> None:
        """Call `changed` whenever the owner of the slot is another one. Looking begins with the first watcher."""
        if self._seen.get(slot) is None:  # earlier watchers may not have been told of the last change yet
            self._seen[slot] = self.known_owner(slot)
        self._watched.setdefault(slot, []).append(changed)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="redis-topology")

    def unwatch(self, slot: int, changed: Callable[[], object]) -> None:
        """End what `watch` began."""
        with suppress(KeyError, ValueError):
            self._watched[slot].remove(changed)

    async def close(self) -> None:
        """Stop looking. It may be used again."""
        looking, self._looking = self._looking, None
        self._watched.clear()
        self._seen.clear()
        if looking is not None:
            await end([looking])

    async def _look(self) -> NoReturn:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                async with self._reading:
                    await self._read()
            except RedisError as error:
                logger.debug("the topology of the cluster cannot be read: %s", error)
            except Exception:
                logger.exception("reading the topology of the cluster failed with an unexpected error; retrying")

    async def _read(self) -> None:
        errors: list[tuple[Node, Exception | str]] = []
        for node in self._owners.to_ask():
            try:
                answer = await self._ask(node, *QUESTION)
            except (RedisError, OSError, TimeoutError) as error:
                errors.append((node, error))
                continue
            if self._owners.read(answer, node):
                self._tell_watchers()
                return
            errors.append((node, NO_CLUSTER))
        raise self._owners.failed(errors)

    def _tell_watchers(self) -> None:
        for slot, watchers in self._watched.items():
            owner, before = self.known_owner(slot), self._seen.get(slot)
            if owner is None or owner == before:
                continue
            self._seen[slot] = owner
            if before is not None:
                logger.info("slot %d has moved from %s:%d to %s:%d", slot, *before, *owner)
                for changed in list(watchers):
                    changed()
