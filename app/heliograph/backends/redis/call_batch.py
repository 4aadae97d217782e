"""Calls of one script that go to Redis as one command.

A script that publishes takes any number of calls at once and answers with a list (`lua/_calls.lua`): calls in a row
cost Redis one command, and every replica one bus message. Common keys and arguments are sent once.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from time import monotonic
from typing import Any

from redis.exceptions import InvalidResponse

from heliograph.backends.redis.link import Command, OnReply, call_back
from heliograph.backends.redis.script_texts import BATCHED, Argument
from heliograph.telemetry import Histogram

MOST_CALLS = 64  # in one command, because Redis does nothing else meanwhile
MOST_BYTES = 65_536  # of long arguments; a batch with more of them accepts no more calls

Common = tuple[tuple[str, ...], tuple[Argument, ...]]  # keys and arguments that are the same in many calls
Call = tuple[Sequence[str], Sequence[Argument], Common]  # keys, arguments, and the common ones
NOTHING: Common = ((), ())


class CallBatch:
    """Calls with the same common part and the same numbers of keys and arguments, each with its callback."""

    __slots__ = (
        "_argument_count",
        "_arguments",
        "_began_at",
        "_bytes",
        "_common",
        "_dones",
        "_key_count",
        "_keys",
        "_long",
        "_sha",
        "_time",
        "name",
    )

    def __init__(self, name: str, sha: str, call: Call, done: OnReply, time: Histogram | None = None) -> None:
        keys, arguments, common = call
        self.name = name
        self._sha = sha  # of the script in Redis
        self._common = common
        self._key_count = len(keys)  # of each call
        self._argument_count = len(arguments)
        self._keys = [*common[0], *keys]
        self._arguments = [*common[1], *arguments]
        self._dones: list[OnReply] = [done]
        self._long = BATCHED[name]
        self._bytes = len(arguments[self._long])  # type: ignore[arg-type] # a number is short
        self._time = time  # how long Redis takes to answer each call
        self._began_at = monotonic()

    def add(self, call: Call, done: OnReply) -> bool:
        """Add one more call; False if it does not fit."""
        keys, arguments, common = call
        if (
            len(keys) != self._key_count
            or len(arguments) != self._argument_count
            or len(self._dones) >= MOST_CALLS
            or self._bytes >= MOST_BYTES
            or common != self._common
        ):
            return False
        self._keys += keys
        self._arguments += arguments
        self._dones.append(done)
        self._bytes += len(arguments[self._long])  # type: ignore[arg-type]
        return True

    def command(self) -> Command:
        """Return the command for Redis. Add nothing after this."""
        return "EVALSHA", self._sha, *self.parameters()

    def parameters(self) -> Command:
        """Return its parameters without the script: number of keys, keys, arguments."""
        counts = len(self._dones), self._key_count, self._argument_count
        return len(self._keys), *self._keys, *counts, *self._arguments

    def call_back(self, reply: Any) -> None:
        """Pass each answer, or the common error, to its callback, in order."""
        replies = reply
        if isinstance(reply, Exception):
            replies = repeat(reply)
        elif len(reply) != len(self._dones):
            replies = repeat(InvalidResponse(f"{len(reply)} answers to {len(self._dones)} calls of {self.name!r}"))
        if self._time is not None and replies is reply:
            self._time.observe(monotonic() - self._began_at, len(self._dones))
        for done, each in zip(self._dones, replies, strict=False):
            call_back(done, each)


def in_batches(name: str, calls: Iterable[Call]) -> list[Command]:
    """Return the parameters of as few commands as possible; join the lists of their answers."""
    batches: list[CallBatch] = []
    for call in calls:
        if not batches or not batches[-1].add(call, nobody):
            batches.append(CallBatch(name, "", call, nobody))
    return [batch.parameters() for batch in batches]


def parameters_of(call: Call) -> Command:
    """Return the parameters of a call of a script that takes one call at a time."""
    keys, arguments, _ = call
    return len(keys), *keys, *arguments


def nobody(reply: Any) -> None:
    """Ignore the reply."""
