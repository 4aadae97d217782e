"""Redis for programs without an event loop: the same scripts with the same fence (see `scripts.py`), thread-safe."""

import threading
from collections.abc import Callable, Generator, Sequence
from itertools import chain
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from heliograph.backends.redis.acknowledgement import CONFIRM_PART, IN_MEMORY, NOT_DURABLE, Acknowledgement, unsure
from heliograph.backends.redis.call_batch import Call, in_batches, parameters_of
from heliograph.backends.redis.client import TIMEOUT_S, unusable
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import Layout
from heliograph.backends.redis.link import Command
from heliograph.backends.redis.link_errors import DEMOTED
from heliograph.backends.redis.script_loading import check_layout, load
from heliograph.backends.redis.script_texts import BATCHED, KEEPING, raise_first_error, read_all
from heliograph.backends.redis.sentinels import SyncMasterFinder, tls_options, to_master_sync
from heliograph.backends.redis.sync_pool import open_pool_sync
from heliograph.redis_url import check_redis_url, read_cluster_address, read_sentinel_address


def connect_sync(url: str, *, max_connections: int = 10) -> Redis:
    """Return a client with its own pool, for any number of threads; nothing is opened before the first command.

    Not for a cluster.

    No retries, as in `client.connect`. A caller waits for a free connection, as long as a command may take.
    """
    try:
        sentinels = read_sentinel_address(check_redis_url(url))
    except ValueError as error:
        raise unusable(str(error)) from None
    if read_cluster_address(url) is not None:
        raise unusable("names a cluster, where there is no one server to connect to")
    pool = open_pool_sync(url if sentinels is None else sentinels.server_url, max_connections=max_connections)
    if sentinels is not None:
        finder = SyncMasterFinder(sentinels, tls_options(pool))
        pool.connection_class = to_master_sync(pool.connection_class, finder)
    return Redis.from_pool(pool)


_T = TypeVar("_T")
Send = Callable[[Sequence[Command]], list[Any]]  # it returns the answers, each of which may be an error of Redis


class SyncScripts:
    """The scripts of one Redis server, each loaded when it is first called. The client's owner closes it.

    `layout`: what the program takes the server for. `ack`: when a call that keeps something counts as acknowledged.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        *,
        layout: Layout | None = None,
        directed: bool = False,
        ack: Acknowledgement = IN_MEMORY,
    ) -> None:
        read_all()
        self._ack = ack
        self._confirmation = ack.confirmation(keys, CONFIRM_PART * TIMEOUT_S)
        self._redis = client
        self._keys = keys
        self._layout = layout or Layout()
        self._is_checked = False  # the layout
        self._directed = directed
        self._shas: dict[str, str] = {}
        self._loading = threading.RLock()  # a signal handler may publish while its own thread loads scripts

    def run_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Run one script many times, in one round trip. Raises the errors of redis-py."""
        return raise_first_error(self.answers(name, calls))

    def answers(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Run one script many times likewise, and return the answers, each of which may be an error.

        Calls that failed together have one error for all. Raises the errors of redis-py if no call has an answer.
        """
        is_batched = name in BATCHED
        commands = in_batches(name, calls) if is_batched else [parameters_of(call) for call in calls]
        results: dict[int, Any] = {}
        try:
            self._evaluate(name, commands, results)
        except (RedisError, OSError) as error:
            if not results:
                raise
            results[len(commands)] = error  # of all that have no answer
        answers = [results[number] for number in sorted(results)]
        if not is_batched:
            return answers
        return list(chain.from_iterable([each] if isinstance(each, Exception) else each for each in answers))

    def _evaluate(self, name: str, calls: Sequence[Command], results: dict[int, Any]) -> None:
        """Make the calls, and put the answer to each, which may be an error, under its number into `results`.

        Raises the errors of redis-py. What was answered before that is in `results`.
        """
        for _ in range(3):  # the second may use a script that another thread loaded before Redis forgot it
            shas = self._shas
            if name not in shas:
                self._load(name, stale=shas)
                shas = self._shas
            left = [number for number in range(len(calls)) if number not in results]
            answers = self._keep(name, [("EVALSHA", shas[name], *calls[number]) for number in left], self._send)
            results |= {
                number: answer
                for number, answer in zip(left, answers, strict=True)
                if not isinstance(answer, NoScriptError)
            }
            if any(isinstance(result, DEMOTED) for result in results.values()):
                self._redis.connection_pool.disconnect(inuse_connections=False)  # the address may lead elsewhere
            if any(map(is_not_durable, results.values())):
                self._shas = {}  # the server may be configured in another way by the next attempt
            if len(results) == len(calls):
                return
            self._load(name, stale=shas)
        raise NoScriptError(
            "Redis lost its scripts again and again while they were loaded; does something run SCRIPT FLUSH?"
        )

    def _keep(self, name: str, commands: Sequence[Command], send: Send) -> list[Any]:
        """Send calls. If they keep something that replicas must confirm, they are followed by one WAIT for all.

        Raises:
            Unconfirmed: they were carried out, but too few replicas have confirmed it.
        """
        if not self._ack.confirms or name not in KEEPING:
            return send(commands)
        *answers, written, confirmed = send([*commands, *self._confirmation])
        if all(isinstance(answer, Exception) for answer in answers):
            return answers
        for answer in (written, confirmed):  # WAIT counts every replica if nothing was written
            if isinstance(answer, Exception):
                raise unsure(answer)
        if (error := self._ack.check(confirmed)) is not None:
            raise error
        return answers

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers to the commands, in one round trip. An error of Redis is the answer to its command."""
        if len(commands) == 1:
            return [_answer(self._redis, commands[0])]  # what a pipeline does beyond it takes a fifth of the time
        with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipeline.execute(raise_on_error=False)

    def _load(self, name: str, stale: dict[str, str]) -> None:
        with self._loading:
            if self._shas is not stale and name in self._shas:
                return  # another thread has loaded it meanwhile
            names = list(dict.fromkeys((*self._shas, name)))
            steps = load(names, self._keys, layout=self._layout, directed=self._directed, ack=self._ack)
            self._shas = self._follow_alone(steps)
            self._is_checked = True

    def check_layout(self) -> None:
        """Make sure that the server is the shard that it is taken for, unless that was seen written down.

        Raises the errors of redis-py, OtherLayout among them.
        """
        if not (self._is_checked and self._layout.is_settled):
            self._follow_alone(check_layout(self._keys, self._layout))
            self._is_checked = True
        self._layout.check()  # another shard may have answered since

    def _follow_alone(self, steps: Generator[list[Command], list[Any], _T]) -> _T:
        """Follow the steps over one connection: if the server restarts in between, the next step fails."""
        with self._redis.client() as connection:  # type: ignore[no-untyped-call]
            connection.response_callbacks.clear()  # answers as they are, errors too
            return follow(steps, lambda commands: [_answer(connection, command) for command in commands])


def follow(steps: Generator[list[Command], list[Any], _T], send: Send) -> _T:
    """Send what the steps yield, and return what they do."""
    commands = next(steps)
    while True:
        try:
            commands = steps.send(send(commands))
        except StopIteration as done:
            found: _T = done.value
            return found


def is_not_durable(answer: Any) -> bool:
    """Return whether the server does not keep the promise of the acknowledgement mode."""
    return isinstance(answer, ResponseError) and str(answer).startswith(NOT_DURABLE)


def _answer(connection: Redis, command: Command) -> Any:
    try:
        return connection.execute_command(*command)  # type: ignore[no-untyped-call]
    except ResponseError as error:
        return error
