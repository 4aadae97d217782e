"""The scripts of a virtual shard for programs without an event loop: see `scripts.py`."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, sleep
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from redis.connection import AbstractConnection
from redis.exceptions import NoScriptError

from heliograph.backends.redis.bus_verbs import SHARDED
from heliograph.backends.redis.cluster import succession
from heliograph.backends.redis.cluster.scripts import MOST_PAUSE_S, VERIFIED_S
from heliograph.backends.redis.cluster.succession import Known, Replication, Wait
from heliograph.backends.redis.cluster.sync import SyncShardClient, exchange
from heliograph.backends.redis.cluster.topology import HOLD_S, NOT_EXECUTED, PAUSE_S, Node
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.link import Command
from heliograph.backends.redis.link_errors import DEMOTED, Held
from heliograph.backends.redis.script_loading import load
from heliograph.backends.redis.script_texts import raise_first_error
from heliograph.backends.redis.sync import SyncScripts, follow, is_not_durable

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Scripts in the memory of one process, under the name that it had then."""

    known: Known = field(default_factory=Known)
    shas: dict[str, str] = field(default_factory=dict)


class SyncShardScripts(SyncScripts):
    """`SyncScripts` of one virtual shard.

    A script is called over a connection only if the process behind it was the owner under the same name a moment
    ago. Calls that were not executed, because the slot is elsewhere or between two servers, are made again at its
    owner, for `HOLD_S` at most. A server that was the owner before may know scripts under an old name, so a
    connection that was not used for a while is asked first.
    """

    def __init__(self, client: SyncShardClient, keys: Keys, **options: Any) -> None:
        super().__init__(client, keys, **options)
        self._nodes, self._slot = client.nodes, client.slot
        self._hold = client.hold
        self._loaded = _Loaded()
        # connection -> its socket, what was loaded over it or found there, and when it was last used
        self._used: WeakKeyDictionary[AbstractConnection, tuple[object, _Loaded, float]] = WeakKeyDictionary()

    def check_layout(self) -> None:
        """See `SyncScripts.check_layout`."""
        self._hold(super().check_layout)

    def _evaluate(self, name: str, calls: Sequence[Command], results: dict[int, Any]) -> None:
        until, pause_s = monotonic() + HOLD_S, PAUSE_S
        while True:
            try:
                reason = self._attempt(name, calls, results)
            except NOT_EXECUTED as error:  # to a command before the calls
                self._nodes.refused(self._slot, error)
                reason = error
            if reason is None:
                return
            if monotonic() > until:
                raise Held(f"slot {self._slot} was moving, or lost its scripts, for more than {HOLD_S:g} s: {reason}")
            sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)

    def _attempt(self, name: str, calls: Sequence[Command], results: dict[int, Any]) -> Exception | None:
        """Make the calls without a result. Return why some were not executed; None if all were."""
        node = self._nodes.owner(self._slot)
        left = [number for number in range(len(calls)) if number not in results]
        reason: Exception | None = None
        with self._nodes.lent(node) as connection:
            shas = self._shas_over(connection, node, name)
            commands: list[Command] = [("EVALSHA", shas[name], *calls[number]) for number in left]
            answers = self._keep(name, commands, partial(exchange, connection))
            for number, answer in zip(left, answers, strict=True):
                if isinstance(answer, NoScriptError):
                    self._loaded = _Loaded(self._loaded.known)
                    reason = answer
                elif isinstance(answer, NOT_EXECUTED):
                    self._nodes.refused(self._slot, answer, node)
                    reason = answer
                else:
                    results[number] = answer
            if any(isinstance(answer, DEMOTED) for answer in answers):
                self._nodes.doubt(node)
            if any(map(is_not_durable, answers)):
                self._loaded = _Loaded(self._loaded.known)  # the server may be configured in another way by then
        return reason

    def _shas_over(self, connection: AbstractConnection, node: Node, name: str) -> dict[str, str]:
        """Return the names in Redis of scripts that may be called over this connection, `name` among them."""
        loaded, now = self._loaded, monotonic()
        socket, before, used_at = self._used.get(connection, (None, None, 0.0))
        is_fresh = socket is connection._sock and before is loaded and now - used_at < VERIFIED_S
        if name not in loaded.shas or not (is_fresh or self._is_there(connection, loaded)):
            with self._loading:
                if self._loaded is not loaded and name in self._loaded.shas:
                    loaded = self._loaded  # another thread has loaded it meanwhile
                if name not in loaded.shas or not self._is_there(connection, loaded):
                    loaded = self._loaded = self._load_over(connection, node, [*loaded.shas, name])
        self._used[connection] = connection._sock, loaded, monotonic()
        return loaded.shas

    def _is_there(self, connection: AbstractConnection, loaded: _Loaded) -> bool:
        """Return whether the process behind the connection is the one with these scripts, and the last owner."""
        if not loaded.known.name:
            return False
        about, found = exchange(connection, [succession.LOOK[0], ("HMGET", self._keys.server, "name", "line")])
        [(name, line)] = raise_first_error([found])
        last = succession.last_process(line)
        run_id = Replication.read(succession.facts_of([about])).run_id
        return (
            last is not None
            and run_id == last.run_id
            and str(last) == loaded.known.process
            and name == loaded.known.name.encode()
        )

    def _load_over(self, connection: AbstractConnection, node: Node, names: Sequence[str]) -> _Loaded:
        send = partial(exchange, connection)
        known = self._decide(connection, node)
        steps = load(
            list(dict.fromkeys(names)),
            self._keys,
            layout=self._layout,
            directed=self._directed,
            name=known.name,
            publish=SHARDED.publish,
            ack=self._ack,
        )
        shas = follow(steps, send)
        self._is_checked = True
        return _Loaded(known, shas)

    def _decide(self, connection: AbstractConnection, node: Node) -> Known:
        """Return the name under which the scripts run at the present owner: see `succession.decide`."""
        steps = succession.decide(self._keys.server, node, self._loaded.known)
        answers: Sequence[Any] = ()
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                sleep(step.seconds)
            elif step.node in (None, node):  # the pool may be empty: other threads wait for this decision
                answers = exchange(connection, step.commands)
            else:
                answers = self._nodes.answers(step.node, step.commands)
            try:
                step = steps.send(answers)
            except StopIteration as done:
                found: Known = done.value
                return found

    def _follow_alone(self, steps: Generator[list[Command], list[Any], _T]) -> _T:
        with self._nodes.lent(self._nodes.owner(self._slot)) as connection:
            return follow(steps, partial(exchange, connection))
