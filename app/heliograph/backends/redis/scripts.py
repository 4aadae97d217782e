"""The Lua scripts, loaded so that a script never runs on a server that has lost the data that it relies on.

Redis forgets its scripts when it restarts. Each script carries the name of the server process that it was loaded into
(`script_loading.py`). After a restart it is unknown (NOSCRIPT), is loaded again with the new name, and sees that a
log was written under another one. That costs no command on the path of a message.

A script is loaded when it is first called. With every fiftieth call Redis has Lua collect garbage, which is faster
with fewer scripts.
"""

import asyncio
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from heliograph.backends.redis.acknowledgement import IN_MEMORY, Acknowledgement
from heliograph.backends.redis.call_batch import NOTHING, Call, CallBatch, nobody, parameters_of
from heliograph.backends.redis.client import Client
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import Layout
from heliograph.backends.redis.link import MOST_OUTSTANDING, Command, Link, OnReply, call_back
from heliograph.backends.redis.link_errors import DEMOTED, LinkFull, NotSent
from heliograph.backends.redis.script_loading import CLAIM_MS, Claim, check_layout, load
from heliograph.backends.redis.script_texts import BATCHED, Argument, raise_first_error, read_all
from heliograph.callbacks import await_callback
from heliograph.telemetry import Histogram

__all__ = ["Argument", "Scripts"]

logger = logging.getLogger(__name__)

PROBE_TTL_MS = 86_400_000  # how long a replica's count is kept after its last probe
MOST_TIMES = 5  # attempts of a call whose script was unknown
# Sent before a call that publishes. Redis writes last to the client to which it owed an answer first, so it wakes the
# replicas that deliver the message before the caller, which would otherwise take the processor first.
MESSAGE_FIRST: Command = ("PING",)


class Mark:
    """The last number that Redis has returned for a probe, and the key that counts it ('': none yet)."""

    def __init__(self) -> None:
        self.key = ""
        self.number = 0


class Scripts:
    """The scripts of one Redis server, called over the client's link. The client's owner closes it.

    `owner` is part of each script's text. If Redis forgets its scripts while calls are on their way, calls fail until
    the scripts are loaded again. If another program had loaded the same text, a later call could run before an
    earlier one is repeated. So a program that needs the order has a name of its own, with a number if two have the
    same. `layout`: what the program takes the server for. `directed`: see `script_text`. `publish_time` records how
    long Redis needs for calls that publish. `ack`: see `load`.

    `link`, `mark`, `claim`, `family`: see `over`; by default the client's link, and others of its own.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        owner: str = "",
        *,
        layout: Layout | None = None,
        directed: bool = False,
        publish_time: Histogram | None = None,
        ack: Acknowledgement = IN_MEMORY,
        link: Link | None = None,
        mark: Mark | None = None,
        claim: Claim | None = None,
        family: "list[Scripts] | None" = None,
    ) -> None:
        read_all()
        self._client = client
        self._link: Link = link or client.link
        self._keys = keys
        self._owner = owner
        self._layout = layout or Layout()
        self._is_checked = False  # the layout
        self._directed = directed
        self._publish_time = publish_time
        self._ack = ack
        self._shas: dict[str, str] = {}
        self._loading: asyncio.Task[None] | None = None
        self._mark = mark or Mark()
        self._claim = claim or Claim()
        self._family: list[Scripts] = [] if family is None else family  # all with this claim, over any link
        self._family.append(self)
        self._batch: CallBatch | None = None  # the last
        # Calls whose script was unknown, with the number of the next attempt. They are repeated before ...
        self._again: list[tuple[str, Command, OnReply, int]] = []
        self._waiting: list[tuple[str, Call, OnReply]] = []  # ... calls that arrive while the scripts are loaded

    def over(self, link: Link) -> "Scripts":
        """Return the same scripts, called over another link of the same client. They share the mark and the claim."""
        return Scripts(
            self._client,
            self._keys,
            self._owner,
            layout=self._layout,
            directed=self._directed,
            ack=self._ack,
            link=link,
            mark=self._mark,
            claim=self._claim,
            family=self._family,
        )

    def call(self, name: str, call: Call, done: OnReply) -> None:
        """Run one script; `done` is called with its reply or with the error, in the order of calls."""
        batch = self._batch
        if batch is not None and batch is self._link.open_batch and batch.name == name and batch.add(call, done):
            return  # it joins the last batch, which is not sent yet and is still the last command
        if self._is_loaded(name):
            self._send(name, call, done)
        elif len(self._waiting) >= MOST_OUTSTANDING:
            done(LinkFull(f"{len(self._waiting)} calls wait for the scripts to be loaded"))
        else:
            self._waiting.append((name, call, done))
            self._load()

    @property
    def is_loading(self) -> bool:
        """True while calls wait for scripts, which are loaded over the same link."""
        return self._loading is not None

    def _is_loaded(self, name: str) -> bool:
        """Return whether the script can be called at once."""
        return name in self._shas and self._loading is None

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run one script and wait for its reply. Raises the errors of redis-py."""
        return await await_callback(lambda done: self.call(name, (keys, arguments, NOTHING), done))

    async def run_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Run one script many times, in one round trip."""
        return await call_all(self.call, [(name, call) for call in calls])

    async def run_all(self, calls: Sequence[tuple[str, Call]]) -> list[Any]:
        """Run scripts, each by its name, in one round trip."""
        return await call_all(self.call, calls)

    def _send(self, name: str, call: Call, done: OnReply) -> None:
        if name in BATCHED:
            self._link.call(MESSAGE_FIRST, nobody)
            batch = self._batch = CallBatch(name, self._shas[name], call, done, self._publish_time)
            self._link.call(batch, batch.call_back, partial(self._unknown_batch, batch))
        else:
            self._evaluate(name, parameters_of(call), done)

    def _evaluate(self, name: str, parameters: Command, done: OnReply, times: int = 1) -> None:
        unknown = partial(self._unknown, name, parameters, done, times)
        self._link.call(("EVALSHA", self._shas[name], *parameters), done, unknown)

    # -- loading

    def _unknown_batch(self, batch: CallBatch) -> None:
        self._unknown(batch.name, batch.parameters(), batch.call_back, 1)

    def _unknown(self, name: str, parameters: Command, done: OnReply, times: int) -> None:
        """Load the scripts, which Redis has forgotten, and repeat this call, which was not run."""
        if times > MOST_TIMES:
            done(
                NoScriptError(
                    "Redis lost its scripts again and again while they were loaded; does something run SCRIPT FLUSH?"
                )
            )
            return
        self._again.append((name, parameters, done, times + 1))
        self._load()

    def _load(self) -> None:
        if self._loading is None:
            self._loading = asyncio.create_task(self._load_all(), name="redis-scripts")

    async def _load_all(self) -> None:
        """Load the scripts, and pass the result, or the error, to the waiting calls."""
        shas: dict[str, str] = {}
        error: Exception | None = RedisConnectionError("the scripts are not loaded any more: this program is ending")
        try:
            shas, error = await self._follow_steps(), None
            self._is_checked = True
        except RedisError as refusal:
            error = refusal
        except Exception as failure:
            logger.exception("loading the Lua scripts failed with an unexpected error")
            error = NotSent(f"the scripts could not be loaded: {failure!r}")
        finally:
            self._loading = None
            self._loaded(shas, error)

    async def _follow_steps(self) -> dict[str, str]:
        """Load the scripts for this server over one connection, which a restart of the server would end."""
        await self._link.ping()
        return await self._load_over(self._link.connections)

    async def _load_over(self, connection: int, server: str = "", publish: str = "PUBLISH") -> dict[str, str]:
        """Load the scripts over this connection. `server`, `publish`: the `name` and the `publish` of `load`."""
        # A set has no order, and two loads must not differ in that.
        wanted = dict.fromkeys(
            [*self._shas, *(call[0] for call in self._again), *(call[0] for call in self._waiting)]
        )
        steps = load(
            list(wanted),
            self._keys,
            layout=self._layout,
            directed=self._directed,
            owner=self._owner,
            claim=self._claim if self._owner else None,
            mark_key=self._mark.key,
            mark=self._mark.number,
            name=server,
            publish=publish,
            ack=self._ack,
        )
        shas: dict[str, str] = await self._send_steps(connection, steps)
        return shas

    async def _send_steps(self, connection: int, steps: Generator[list[Command], list[Any], Any]) -> Any:
        """Send what the steps yield over this connection, which a restart of the server ends. Return their result.

        Raises the errors of redis-py that are not an answer to one command.
        """
        commands = next(steps)
        while True:
            replies = await await_callback(partial(self._ask_all, commands, connection))
            for reply in replies:
                if isinstance(reply, Exception) and (
                    not isinstance(reply, ResponseError) or isinstance(reply, DEMOTED)
                ):
                    raise reply
            try:
                commands = steps.send(replies)
            except StopIteration as done:
                return done.value

    def _ask_all(self, commands: list[Command], connection: int, done: OnReply) -> None:
        collected = collect(len(commands), done)
        for command in commands:
            self._link.call(command, collected, connection=connection, is_rare=True)

    def _loaded(self, shas: dict[str, str], error: Exception | None) -> None:
        """Repeat the calls whose script was unknown (all have returned by now), then make the waiting ones."""
        again, self._again = self._again, []
        waiting, self._waiting = self._waiting, []
        self._shas = shas
        for name, parameters, done, times in again:
            if error is not None:
                call_back(done, error)
            elif name in shas:
                self._evaluate(name, parameters, done, times)
            else:  # it came after the load had begun
                self._again.append((name, parameters, done, times))
                self._load()
        for name, call, done in waiting:
            if error is None:
                self.call(name, call, done)
            else:
                call_back(done, error)

    async def check_layout(self) -> None:
        """Make sure that the server is the shard that it is taken for, unless that was seen written down.

        Raises the errors of redis-py, OtherLayout among them.
        """
        if not (self._is_checked and self._layout.is_settled):
            await self._link.ping()
            await self._send_steps(self._link.connections, check_layout(self._keys, self._layout))
            self._is_checked = True
        self._layout.check()  # another shard may have answered since

    def forget(self) -> None:
        """Load the scripts again before the next call, over each link: the shard and its settings may be others."""
        for each in self._family:
            each._shas = {}
            each._is_checked = False

    async def release(self) -> None:
        """Give the claim to this replica's name back, so that the next one with that name need not wait."""
        key, self._claim.key = self._claim.key, ""
        self.forget()  # the scripts belong to the claim
        if not key:
            return
        with suppress(RedisError, OSError, TimeoutError):
            if await self._client.get(key) == self._claim.holder.encode():
                await self._client.delete(key)

    # -- write probe

    async def probe(self, name: str) -> None:
        """Try a replica's real work on Redis, under this replica's name. Raises the errors of redis-py.

        Redis counts the probes. When scripts are loaded the next time, it must know the last number.
        """
        names, claim = self._keys, self._claim
        keys = [names.probe(name), names.probe_log(name), names.probe_scratch(name)]
        if claim.key:
            keys.append(claim.key)
        mark, is_held = await self.run("probe", keys, [PROBE_TTL_MS, CLAIM_MS, claim.holder])
        self._mark.key, self._mark.number = keys[0], mark
        if not is_held:
            # This process stood still, and another one with the same name has the scripts now.
            claim.key = ""
            self.forget()


async def call_all(call: Callable[[str, Call, OnReply], object], calls: Sequence[tuple[str, Call]]) -> list[Any]:
    """Make the calls of scripts, and return all replies. Raises the first error among them."""
    return raise_first_error(await answers_of(call, calls))


async def answers_of(call: Callable[[str, Call, OnReply], object], calls: Sequence[tuple[str, Call]]) -> list[Any]:
    """Make the calls of scripts, and return the reply to each, which may be an error."""
    if not calls:
        return []

    def ask(done: OnReply) -> None:
        collected = collect(len(calls), done)
        for name, each in calls:
            call(name, each, collected)

    replies: list[Any] = await await_callback(ask)
    return replies


def collect(count: int, done: Callable[[list[Any]], object]) -> OnReply:
    """Return a callback for `count` replies; it calls `done` with all of them, in order."""
    results: list[Any] = []

    def collect(result: Any) -> None:
        results.append(result)
        if len(results) == count:
            done(results)

    return collect
