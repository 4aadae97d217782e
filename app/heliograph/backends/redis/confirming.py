"""Calls that count only when replicas of Redis have confirmed them: mode `replica` of `HELIOGRAPH_REDIS__ACK`.

They have a link of their own, because WAIT holds up everything behind it on its connection. One WAIT follows the
calls of an event-loop iteration, in the same write. While it is under way, further calls gather here and go out
together with the next one: so the slower the replicas are, the more calls share a WAIT.

A WAIT is short, and is repeated for as long as the calls may take. Redis asks its replicas for what they have when a
WAIT begins. One that joins during a WAIT, as an old master does after a failover, says so only once a second.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError

from heliograph.backends.redis.acknowledgement import Acknowledgement, Unconfirmed, unsure
from heliograph.backends.redis.call_batch import Call
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.link import MOST_OUTSTANDING, Link, OnReply, call_back
from heliograph.backends.redis.link_errors import LinkFull, NotConnected
from heliograph.backends.redis.scripts import Scripts, call_all
from heliograph.telemetry import Histogram

ONE_WAIT_S: Final = 0.1


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

    `scripts` call over `link`, which nothing else uses. `patience_s`: how long replicas may take to confirm.
    `publish_time` records how long each call took with its confirmation.

    The error Unconfirmed is the answer to a call that was carried out, if too few replicas have confirmed it.
    """

    def __init__(
        self,
        scripts: Scripts,
        link: Link,
        keys: Keys,
        ack: Acknowledgement,
        patience_s: float,
        publish_time: Histogram,
    ) -> None:
        self._scripts = scripts
        self._link = link
        self._ack = ack
        self._write, self._wait = ack.confirmation(keys, min(ONE_WAIT_S, patience_s))
        self._patience_s = patience_s
        self._publish_time = publish_time
        self._sent: list[_Sent] = []  # not confirmed yet, in order
        self._held: list[tuple[str, Call, OnReply]] = []  # for the next round
        self._is_due = False  # WAIT will be sent at the end of this iteration
        self._is_waiting = False  # WAIT is under way ...
        self._until = 0.0  # ... and may be repeated until then, by the monotonic clock
        self._rounds = 0
        self._unwritten: Exception | None = None  # why the write before the WAIT of this round does not count

    def call(self, name: str, call: Call, done: OnReply) -> None:
        """See `Keeping.call`."""
        if not self._is_waiting:
            self._send(name, call, done)
        elif len(self._held) >= MOST_OUTSTANDING:
            done(LinkFull(f"{len(self._held)} calls wait for replicas of Redis to confirm earlier ones"))
        else:
            self._held.append((name, call, done))

    def close(self) -> None:
        """Fail the calls that were not sent yet, because the link is about to be closed."""
        held, self._held = self._held, []
        for _, _, done in held:
            call_back(done, NotConnected("the connection to Redis was closed here"))

    async def run_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """See `Keeping.run_many`."""
        return await call_all(self.call, [(name, call) for call in calls])

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
        if self._scripts.is_loading:
            return  # which WAIT would hold up; the answers to what waits for that are confirmed
        if all(sent.is_answered and isinstance(sent.answer, Exception) for sent in self._sent):
            self._confirmed(None)  # nothing was carried out
            return
        self._is_waiting = True
        self._until = monotonic() + self._patience_s
        self._rounds += 1
        self._unwritten = RedisConnectionError("the slot has moved meanwhile")  # so it is written elsewhere, later
        self._link.call(self._write, partial(self._wrote, self._rounds), is_rare=True)
        self._link.call(self._wait, self._waited, is_rare=True)

    def _wrote(self, number: int, reply: Any) -> None:
        """Note whether WAIT has a write to speak of: it counts every replica as having none."""
        if number == self._rounds:
            self._unwritten = reply if isinstance(reply, Exception) else None

    def _waited(self, reply: Any) -> None:
        """Wait once more if replicas lack something and there is time. WAIT speaks of its own connection only.

        Calls whose script was unknown have not been carried out yet: nothing waits for them.
        """
        error = reply if isinstance(reply, Exception) else self._unwritten or self._ack.check(reply)
        connection, first = self._link.connections, self._sent[0] if self._sent else None
        is_worth_it = first is not None and first.is_answered and first.connection == connection
        if isinstance(error, Unconfirmed) and is_worth_it and monotonic() < self._until:
            self._link.call(self._wait, self._waited, connection=connection, is_rare=True)
        else:
            self._confirmed(error)

    def _confirmed(self, error: Exception | None) -> None:
        """Answer the calls that were answered before WAIT on its connection. The others have not been carried out."""
        self._is_waiting = False
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
                    answer = unsure(error)
                elif sent.connection != connection:
                    answer = unsure(RedisConnectionError("the connection has ended meanwhile"))
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
