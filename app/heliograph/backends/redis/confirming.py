"""Calls that count only when replicas of Redis have confirmed them: mode `replica` of `HELIOGRAPH_REDIS__ACK`.

They have a link of their own, because WAIT holds up everything behind it on its connection. One WAIT follows the
calls of an event-loop iteration, in the same write. While it is under way, further calls gather here and go out
together with the next one: so the slower the replicas are, the more calls share a WAIT.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError

from heliograph.backends.redis.acknowledgement import Acknowledgement, Command, Unconfirmed
from heliograph.backends.redis.call_batch import Call, nobody
from heliograph.backends.redis.link import MOST_OUTSTANDING, Link, OnReply, call_back
from heliograph.backends.redis.link_errors import LinkFull
from heliograph.backends.redis.scripts import Scripts, call_all
from heliograph.telemetry import Histogram


class Keeping(Protocol):
    """Calls of scripts that keep something. The answer to each is an acknowledgement."""

    def call(self, name: str, call: Call, done: OnReply) -> None:
        """Run one script; `done` is called with its reply or with the error, in the order of calls."""
        ...

    async def run_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Run one script many times, in one round trip. Raises the errors of redis-py."""
        ...


class Confirming:
    """`Keeping` with confirmation.

    `scripts` call over `link`, which nothing else uses. `commands`: see `Acknowledgement.confirmation`.
    `publish_time` records how long each call took with its confirmation.

    The error Unconfirmed is the answer to a call that was carried out, if too few replicas have confirmed it.
    """

    def __init__(
        self,
        scripts: Scripts,
        link: Link,
        ack: Acknowledgement,
        commands: tuple[Command, Command],
        publish_time: Histogram,
    ) -> None:
        self._scripts = scripts
        self._link = link
        self._ack = ack
        self._write, self._wait = commands
        self._publish_time = publish_time
        self._sent: list[_Sent] = []  # not confirmed yet, in order
        self._held: list[tuple[str, Call, OnReply]] = []  # for the next round
        self._is_due = False  # WAIT will be sent at the end of this iteration
        self._is_waiting = False  # WAIT is under way

    def call(self, name: str, call: Call, done: OnReply) -> None:
        """See `Keeping.call`."""
        if not self._is_waiting:
            self._send(name, call, done)
        elif len(self._held) >= MOST_OUTSTANDING:
            done(LinkFull(f"{len(self._held)} calls wait for replicas of Redis to confirm earlier ones"))
        else:
            self._held.append((name, call, done))

    async def run_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """See `Keeping.run_many`."""
        return await call_all(self.call, name, calls)

    def _send(self, name: str, call: Call, done: OnReply) -> None:
        self._confirm_soon()  # before the link's own end of the iteration, so that WAIT is part of the same write
        sent = _Sent(done, self)
        self._sent.append(sent)
        self._scripts.call(name, call, sent.answered)

    def _confirm_soon(self) -> None:
        if not self._is_due and not self._is_waiting:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._confirm)

    def on_answer(self) -> int:
        """Note that a call was answered; return the connection. One that waited for its script needs a WAIT yet."""
        self._confirm_soon()
        return self._link.connections

    def _confirm(self) -> None:
        self._is_due = False
        self._is_waiting = True
        self._link.call(self._write, nobody, is_rare=True)
        self._link.call(self._wait, self._confirmed, is_rare=True)

    def _confirmed(self, reply: Any) -> None:
        """Answer the calls that were answered before WAIT on its connection. The others have not been carried out."""
        self._is_waiting = False
        error = reply if isinstance(reply, Exception) else self._ack.check(reply)
        connection, now = self._link.connections, monotonic()
        count = 0
        for sent in self._sent:
            if not sent.is_answered:
                break  # its script is being loaded; later ones wait behind it
            count += 1
        answered = self._sent[:count]
        del self._sent[:count]
        held, self._held = self._held, []
        for name, call, done in held:  # before callbacks, which may make further calls
            self._send(name, call, done)
        for sent in answered:
            answer = sent.answer
            if not isinstance(answer, Exception):
                if error is not None:
                    answer = _unsure(error)
                elif sent.connection != connection:
                    answer = _unsure(RedisConnectionError("the connection has ended meanwhile"))
                else:
                    self._publish_time.observe(now - sent.began_at)
            call_back(sent.done, answer)


class _Sent:
    """One call, and its answer when it has come."""

    __slots__ = ("_owner", "answer", "began_at", "connection", "done", "is_answered")

    def __init__(self, done: OnReply, owner: Confirming) -> None:
        self.done = done
        self._owner = owner
        self.began_at = monotonic()
        self.is_answered = False
        self.answer: Any = None
        self.connection = 0  # over which the answer came

    def answered(self, reply: Any) -> None:
        self.is_answered = True
        self.answer = reply
        self.connection = self._owner.on_answer()


def _unsure(error: Exception) -> Unconfirmed:
    """Return the error of a call that was carried out, whatever became of the confirmation."""
    return error if isinstance(error, Unconfirmed) else Unconfirmed(f"kept, but not confirmed: {error}")
