"""The link: one connection to Redis for all commands on the way of a message, and for those that come every second.

What one turn of the loop asks for goes out in one write, and replies are matched in order: a command costs about a
microsecond here, where redis-py's pool takes a hundred (and several hundred when its code has not run for a second;
every message of that time waits). A command is never sent twice: whether the answer or the command was lost cannot
be told.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from itertools import islice, takewhile
from typing import Any, Protocol

from hiredis import pack_command
from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.backends.redis.link_errors import DEMOTED, LinkFull, NotConnected, NotConnectedInTime, NotSent
from heliograph.backends.redis.wire import Wire
from heliograph.callbacks import await_callback
from heliograph.tasks import end

logger = logging.getLogger(__name__)

Command = tuple[str | bytes | int, ...]
OnReply = Callable[[Any], object]

MOST_OUTSTANDING = 50_000  # commands that wait for their answer
MOST_UNSENT_BYTES = 64 * 1024 * 1024  # what Redis has not read yet
TICKS = 8  # how often the link looks at its clock within a time-out
BACKOFF_FIRST_S = 0.05
BACKOFF_MOST_S = 1.0
DEMOTED_PAUSE_S = 0.5  # until the next try where a server has said that it takes no writes


class OpenBatch(Protocol):
    """A command that says at the last moment what it is, so that its owner may add to it until then."""

    def command(self) -> Command: ...


class Link:
    """Asks Redis, in order. It connects when it is used, as the pool's connections do, and again after a loss.

    `timeout_s`: until a command has failed. While Redis is away a command fails at once; one that comes after a
    pause, which grows, makes the next try.
    """

    def __init__(self, pool: ConnectionPool, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self.connections = 0  # made so far: the same number twice means that both times it was the same connection
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._retry_at = 0.0  # when the next try may be made; by the loop's clock
        self._failure: Exception = NotConnected("not connected")  # why the last one failed
        # The commands that wait for their answer. Those at the end are still in `_unsent`; of those at the front,
        # `_given_up` have failed already, and what comes for them is dropped.
        self._outstanding: deque[tuple[OnReply, int, Callable[[], object] | None]] = deque()
        self._unsent: list[bytes] = []
        self.open_batch: OpenBatch | None = (
            None  # the last of them, as long as it may be added to; not in `_unsent` yet
        )
        self._unsent_bytes = 0
        self._given_up = 0
        self._flush_is_due = False
        self._tick = 0  # one clock for all commands: what was sent at which tick
        self._timer: asyncio.TimerHandle | None = None
        self._heard: tuple[Wire | None, int] = (None, 0)  # how often the wire had been read ...
        self._heard_at = 0  # ... at the tick when that was last new

    # -- asking

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

        It may be called before this returns. If the command is the call of a script which Redis does not know,
        `unknown` is called instead. `connection`: which one it has to be (see `connections`). `is_rare`: it comes
        once in a while, however many messages there are, so it is asked for even if the link is full.
        """
        is_full = len(self._outstanding) >= MOST_OUTSTANDING or self._unsent_bytes > MOST_UNSENT_BYTES
        if is_full and not is_rare:
            done(LinkFull(f"{len(self._outstanding)} commands wait for their answer already"))
            return
        if connection is not None and (connection != self.connections or self._wire is None):
            done(NotConnected("the connection to Redis has ended meanwhile"))
            return
        if self._wire is None and not self._reach():
            done(self._failure)
            return
        self._stop_growing()
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
        """Send one command of those that are rare, and wait for its reply. Raises what redis-py raises."""
        return await await_callback(lambda done: self.call(command, done, is_rare=True))

    async def ping(self) -> None:
        """Make sure that there is a connection which answers, however the last tries went."""
        self._retry_at = 0.0
        await self.ask("PING")

    async def close(self) -> None:
        """End the connection; what waits for an answer fails. The link stays good: it connects when it is used."""
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

    def _reach(self) -> bool:
        """Have a connection made, unless that goes on already; False if it is too early for another try."""
        if self._connecting is None:
            loop = asyncio.get_running_loop()
            if loop.time() < self._retry_at:
                return False
            self._connecting = loop.create_task(self._connect(), name="redis-link")
        return True

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                wire = await Wire.open(self._pool, self._on_reply, self._on_lost, self._flush)
        except TimeoutError:
            self._failed(RedisTimeoutError(f"no connection within {self._timeout_s:g} s"))
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
            self._flush()

    def _failed(self, error: Exception) -> None:
        self._connecting = None
        longest_s = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 16))
        self._failures += 1
        self._wait(longest_s, _nothing_sent(error))
        self._fail_all(self._failure)

    def _wait(self, longest_s: float, failure: Exception) -> None:
        """Fail what is asked for before the next try may be made."""
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
        packed = pack_command(command)  # type: ignore[arg-type] # its stub has one word
        self._unsent.append(packed)
        self._unsent_bytes += len(packed)

    def _stop_growing(self) -> None:
        grown, self.open_batch = self.open_batch, None
        if grown is None:
            return
        try:
            self._pack(grown.command())
        except Exception as error:
            logger.exception("writing a command to Redis failed with an unexpected error")
            done, *_ = self._outstanding.pop()  # it is the last, as long as it grows
            call_back(done, NotSent(f"the command could not be written: {error!r}"))

    def _flush(self) -> None:
        """Write what this turn has asked for, in one go; if Redis does not read, it waits here."""
        self._flush_is_due = False
        self._stop_growing()
        if self._wire is None or self._wire.is_paused or not self._unsent:
            return
        unsent, self._unsent = self._unsent, []
        self._unsent_bytes = 0
        self._wire.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

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
            try:
                unknown()
            except Exception:
                logger.exception("reloading an unknown script failed with an unexpected error")
                call_back(done, error)
            return
        call_back(done, error)
        if isinstance(error, DEMOTED) and self._wire is not None:
            self._wait(DEMOTED_PAUSE_S, error)
            self._wire.fail(RedisConnectionError(f"this server takes no writes: {error}"))

    # -- time

    def _on_tick(self) -> None:
        """The clock's next tick; it is set again while anything waits, unless somebody who is told has done that."""
        self._timer = None
        self._fail_overdue()
        if self._outstanding:
            self._set_clock()

    def _set_clock(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._timeout_s / TICKS, self._on_tick)

    def _fail_overdue(self) -> None:
        """Fail what has waited too long. Ticks are counted, not seconds: if this process stood still, that is one."""
        self._tick += 1
        if self._wire is not None and (heard := (self._wire, self._wire.reads)) != self._heard:
            self._heard, self._heard_at = heard, self._tick
        waiting = islice(self._outstanding, self._given_up, None)
        overdue = [done for done, *_ in takewhile(lambda entry: self._tick - entry[1] > TICKS, waiting)]
        if overdue:
            self._give_up(len(overdue))
            error = RedisTimeoutError(f"no answer within {self._timeout_s:g} s")
            for done in overdue:
                call_back(done, error)
        if self._wire is not None and self._given_up and self._tick - self._heard_at > 2 * TICKS:
            self._wire.fail(RedisConnectionError(f"nothing heard for {2 * self._timeout_s:g} s"))

    def _give_up(self, count: int) -> None:
        """The oldest have failed. Those not sent yet never will be; what comes for the others is dropped."""
        self._stop_growing()
        sent = len(self._outstanding) - len(self._unsent) - self._given_up
        self._given_up += min(count, sent)
        if (unsent := count - sent) > 0:
            self._forget_unsent(unsent)
            waiting = self._outstanding
            self._outstanding = deque(islice(waiting, self._given_up))
            self._outstanding.extend(islice(waiting, self._given_up + unsent, None))


def _nothing_sent(error: Exception) -> RedisError:
    """Why there is no connection, as the answer to a command that was not sent for that."""
    if isinstance(error, RedisTimeoutError):
        return NotConnectedInTime(str(error))
    if isinstance(error, RedisError) and type(error) is not RedisConnectionError:
        return error  # it says more: a wrong password, a server that is still loading
    return NotConnected(str(error) or repr(error))


def call_back(done: OnReply, result: Any) -> None:
    """Call `done`; if that fails, nobody else has to suffer for it."""
    try:
        done(result)
    except Exception:
        logger.exception("the callback of a Redis reply failed with an unexpected error")
