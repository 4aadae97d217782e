"""The link: one connection to Redis for all commands on the path of a message, and for those of every second.

The commands of one event-loop iteration go out in one write, and replies are matched in order. A command costs about
a microsecond here. redis-py's pool takes a hundred, and several hundred if its code has not run for a second, while
messages wait. A command is never sent twice: the link cannot know whether the command or its answer was lost.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from itertools import islice, takewhile
from typing import Any, Protocol

from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.backends.redis.link_errors import DEMOTED, LinkFull, NotConnected, NotConnectedInTime, NotSent
from heliograph.backends.redis.packing import packed
from heliograph.backends.redis.wire import Connected, Wire
from heliograph.callbacks import await_callback
from heliograph.tasks import end

logger = logging.getLogger(__name__)

Command = tuple[str | bytes | int, ...]
OnReply = Callable[[Any], object]

MOST_OUTSTANDING = 50_000  # commands that wait for their answer
MOST_UNSENT_BYTES = 64 * 1024 * 1024  # that Redis has not read yet
TICKS = 8  # clock ticks of the link within a time-out
CONNECT_TIMES = 5  # time-outs that connecting may take: TCP, TLS, AUTH and SELECT need several round trips
BACKOFF_FIRST_S = 0.05
BACKOFF_MOST_S = 1.0
DEMOTED_PAUSE_S = 0.5  # until the next attempt after a server refused writes


class OpenBatch(Protocol):
    """A command that is built at the last moment, so that its owner may add to it until then."""

    def command(self) -> Command: ...


class Link:
    """Send commands to Redis, in order. Connect at the first use, and again after a loss.

    `timeout_s`: the time-out of a command that was sent. While Redis is unreachable commands fail at once; the first
    command after a growing pause makes the next attempt, and waits for it.
    """

    def __init__(self, pool: ConnectionPool, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self.connections = 0  # opened so far: the same number twice means the same connection
        self._wire: Connected | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._retry_at = 0.0  # earliest time of the next attempt, by the loop's clock
        self._failure: Exception = NotConnected("not connected")  # why the last attempt failed
        # The commands that wait for their answer. The last ones are still in `_unsent`. The first `_given_up` have
        # failed already, and their answers are dropped.
        self._outstanding: deque[tuple[OnReply, int, Callable[[], object] | None]] = deque()
        self._unsent: list[bytes] = []
        self.open_batch: OpenBatch | None = None  # the last command, while calls may be added; not in `_unsent` yet
        self._unsent_bytes = 0
        self._given_up = 0
        self._flush_is_due = False
        self._tick = 0  # one clock for all commands
        self._timer: asyncio.TimerHandle | None = None
        self._heard: tuple[Connected | None, int] = (None, 0)  # the wire's number of reads ...
        self._heard_at = 0  # ... and the tick at which it last changed

    # -- commands

    def call(
        self,
        command: Command | OpenBatch,
        done: OnReply,
        unknown: Callable[[], object] | None = None,
        *,
        connection: int | None = None,
        is_rare: bool = False,
    ) -> None:
        """Send a command; `done` is called with the reply, or with the error (a RedisError), in the order of calls.

        It may be called before this returns. If the command calls a script that Redis does not know, `unknown` is
        called instead. `connection`: the connection that it must use (see `connections`). `is_rare`: its number does
        not grow with messages, so it is sent even if the link is full.
        """
        is_full = len(self._outstanding) >= MOST_OUTSTANDING or self._unsent_bytes > MOST_UNSENT_BYTES
        if is_full and not is_rare:
            done(LinkFull(f"{len(self._outstanding)} commands wait for their answer already"))
            return
        if connection is not None and (connection != self.connections or self._wire is None):
            done(NotConnected("the connection to Redis has ended meanwhile"))
            return
        if self._wire is None and not self._is_connecting():
            done(self._failure)
            return
        self._close_batch()
        if isinstance(command, tuple):
            self._pack(command)
        else:
            self.open_batch = command
        self._outstanding.append((done, self._tick, unknown))
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)
            if self._timer is None:
                self._heard_at = self._tick
                self._set_clock()

    async def ask(self, *command: str | bytes | int) -> Any:
        """Send a rare command, and wait for its reply. Raises the errors of redis-py."""
        return await await_callback(lambda done: self.call(command, done, is_rare=True))

    async def ping(self) -> None:
        """Make sure that there is a connection that answers, whatever the last attempts were."""
        self._retry_at = 0.0
        await self.ask("PING")

    def try_again(self) -> None:
        """Let the next command make the next attempt to connect: what made the last ones fail may be over."""
        self._retry_at = 0.0
        self._failures = 0

    async def close(self) -> None:
        """End the connection; waiting commands fail. The link may be used again, and then connects."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            await end([connecting])
        closed = RedisConnectionError("the connection to Redis was closed here")
        if self._wire is not None:
            self._wire.fail(closed)
            await self._wire.close()
        self._fail_all(closed)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- the connection

    def _is_connecting(self) -> bool:
        """Begin to connect, unless that is under way; False if it is too early for another attempt."""
        if self._connecting is None:
            loop = asyncio.get_running_loop()
            if loop.time() < self._retry_at:
                return False
            self._connecting = loop.create_task(self._connect(), name="redis-link")
        return True

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMES * self._timeout_s):
                wire = await self._open_wire()
        except TimeoutError:
            self._failed(RedisTimeoutError(f"no connection within {CONNECT_TIMES * self._timeout_s:g} s"))
        except (RedisError, OSError) as error:
            self._failed(error)
        except Exception as error:
            logger.exception("connecting to Redis failed with an unexpected error; retrying")
            self._failed(error)
        else:
            self._connecting = None
            self._failures = 0
            self.connections += 1
            self._wire = wire
            # Nothing was sent before: the time of what has waited for the connection begins now.
            self._outstanding = deque((done, self._tick, unknown) for done, _, unknown in self._outstanding)
            self._flush()

    async def _open_wire(self) -> Connected:
        return await Wire.open(self._pool, self._on_reply, self._on_lost, self._flush)

    def _failed(self, error: Exception) -> None:
        self._connecting = None
        longest_s = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 16))
        self._failures += 1
        self._wait(longest_s, _nothing_sent(error))
        self._fail_all(self._failure)

    def _wait(self, longest_s: float, failure: Exception) -> None:
        """Let commands fail until the next attempt may be made."""
        self._retry_at = asyncio.get_running_loop().time() + longest_s * random.uniform(0.5, 1)  # noqa: S311
        self._failure = failure

    def _on_lost(self, reason: Exception) -> None:
        self._wire = None
        self._fail_all(reason if isinstance(reason, RedisError) else RedisConnectionError(str(reason)))

    def _fail_all(self, error: Exception) -> None:
        outstanding, self._outstanding = self._outstanding, deque()
        given_up, self._given_up = self._given_up, 0
        self.open_batch = None
        self._forget_unsent(len(self._unsent))
        for done, *_ in islice(outstanding, given_up, None):
            call_back(done, error)

    def _forget_unsent(self, count: int) -> None:
        self._unsent_bytes -= sum(map(len, self._unsent[:count]))
        del self._unsent[:count]

    # -- out and in

    def _pack(self, command: Command) -> None:
        data = packed(command)
        self._unsent.append(data)
        self._unsent_bytes += len(data)

    def _close_batch(self) -> None:
        batch, self.open_batch = self.open_batch, None
        if batch is None:
            return
        try:
            self._pack(batch.command())
        except Exception as error:
            logger.exception("writing a command to Redis failed with an unexpected error")
            done, *_ = self._outstanding.pop()  # an open batch is always the last
            call_back(done, NotSent(f"the command could not be written: {error!r}"))

    def _flush(self) -> None:
        """Write the commands of this iteration in one go; if Redis does not read, they wait here."""
        self._flush_is_due = False
        self._close_batch()
        if self._wire is None or self._wire.is_paused or not self._unsent:
            return
        unsent, self._unsent = self._unsent, []
        self._unsent_bytes = 0
        self._wire.send(unsent)

    def _on_reply(self, reply: Any) -> None:
        done, _, unknown = self._outstanding.popleft()
        if self._given_up:
            self._given_up -= 1
        elif isinstance(reply, Exception):
            self._on_error(reply, done, unknown)
        else:
            call_back(done, reply)

    def _on_error(self, error: Exception, done: OnReply, unknown: Callable[[], object] | None) -> None:
        if unknown is not None and isinstance(error, NoScriptError):
            self._give_back(error, done, unknown)
            return
        call_back(done, error)
        if isinstance(error, DEMOTED) and self._wire is not None:
            self._wait(DEMOTED_PAUSE_S, error)
            self._wire.fail(RedisConnectionError(f"this server takes no writes: {error}"))

    def _give_back(self, error: Exception, done: OnReply, unknown: Callable[[], object]) -> None:
        """Give a command that was not executed back to its caller."""
        try:
            unknown()
        except Exception:
            logger.exception("repeating a command that was not executed failed with an unexpected error")
            call_back(done, error)

    # -- time

    def _on_tick(self) -> None:
        """Handle the clock's next tick. Set the next one while commands wait, unless a callback has done that."""
        self._timer = None
        self._fail_overdue()
        if self._outstanding:
            self._set_clock()

    def _set_clock(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._timeout_s / TICKS, self._on_tick)

    def _fail_overdue(self) -> None:
        """Fail commands that have waited too long. It counts ticks, not seconds: a frozen process loses one tick."""
        self._tick += 1
        wire = self._wire
        if wire is None:
            return  # commands that wait for a connection fail with the attempt
        if (heard := (wire, wire.reads)) != self._heard:
            self._heard, self._heard_at = heard, self._tick
        waiting = islice(self._outstanding, self._given_up, None)
        overdue = [done for done, *_ in takewhile(lambda entry: self._tick - entry[1] > TICKS, waiting)]
        if overdue:
            self._give_up(len(overdue))
            error = RedisTimeoutError(f"no answer within {self._timeout_s:g} s")
            for done in overdue:
                call_back(done, error)
        if self._given_up and self._tick - self._heard_at > 2 * TICKS:
            wire.fail(RedisConnectionError(f"nothing heard for {2 * self._timeout_s:g} s"))

    def _give_up(self, count: int) -> None:
        """Fail the oldest commands. Unsent ones are never sent; answers to the others are dropped."""
        self._close_batch()
        sent = len(self._outstanding) - len(self._unsent) - self._given_up
        self._given_up += min(count, sent)
        if (unsent := count - sent) > 0:
            self._forget_unsent(unsent)
            waiting = self._outstanding
            self._outstanding = deque(islice(waiting, self._given_up))
            self._outstanding.extend(islice(waiting, self._given_up + unsent, None))


def _nothing_sent(error: Exception) -> RedisError:
    """Return why there is no connection, as the answer to a command that was not sent."""
    if isinstance(error, RedisTimeoutError):
        return NotConnectedInTime(str(error))
    if isinstance(error, RedisError) and type(error) is not RedisConnectionError:
        return error  # it says more: a wrong password, a server that is still loading
    return NotConnected(str(error) or repr(error))


def call_back(done: OnReply, result: Any) -> None:
    """Call `done`; its error must not affect other callbacks."""
    try:
        done(result)
    except Exception:
        logger.exception("the callback of a Redis reply failed with an unexpected error")
