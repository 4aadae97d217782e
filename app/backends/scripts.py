"""The Lua scripts, loaded so that a script never runs under a server that has lost what the script relies on.

Redis forgets its scripts when it restarts. Each script carries the run id of the server it was loaded into, so after
a restart it is unknown (NOSCRIPT), is loaded anew with the new run id, and sees that a log was written under another.
No command is needed for that on the way of a message.

A script is loaded when it is first called: with every fiftieth call Redis has Lua collect garbage, and the fewer
scripts there are to look through, the less that call has to wait.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from app.answers import answer
from app.backends.call_batch import NOTHING, Call, CallBatch, nobody, parameters_of
from app.backends.link import MOST_OUTSTANDING, Command, Done, LinkFull, tell
from app.backends.redis_client import Client
from app.backends.script_texts import BATCHED, Argument, is_certain, raise_first_error, script_text
from app.telemetry import Histogram

__all__ = ["Argument", "Scripts"]

MOST_TIMES = 5  # that a call is begun anew because its script was unknown
# Goes before what publishes. Redis writes last to whom it owed an answer first, so the replicas that deliver the
# message are woken before the one that asked; else that one may have the processor while they wait for it.
MESSAGE_FIRST: Command = ("PING",)


class Scripts:
    """The scripts of one Redis server, called over the client's link. The client stays its owner's to close.

    `owner` stands in each script. If Redis forgets its scripts while calls are on their way, a call fails until the
    scripts have been loaded again; had somebody else loaded the same, a later call might be carried out before an
    earlier one is repeated. Who needs that order has a name of its own. `directed`: see `script_text`. `publish_time`
    takes how long Redis needs for what publishes.
    """

    def __init__(
        self, client: Client, owner: str = "", *, directed: bool = False, publish_time: Histogram | None = None
    ) -> None:
        self._link = client.link
        self._owner = owner
        self._directed = directed
        self._publish_time = publish_time
        self._shas: dict[str, str] = {}
        self._is_loading = False
        self._batch: CallBatch | None = None  # the last
        # What Redis did not know, and which try the next one is: to be repeated before ...
        self._again: list[tuple[str, Command, Done, int]] = []
        self._waiting: list[tuple[str, Call, Done]] = []  # ... what was called while the scripts are being loaded

    def call(self, name: str, call: Call, done: Done) -> None:
        """Run one script; `done` is called with its reply or with the error, in the order of calls."""
        batch = self._batch
        if batch is not None and batch is self._link.growing and batch.name == name and batch.add(call, done):
            return  # it goes with the last one: that has not been sent yet, and nothing was asked for since
        if name in self._shas and not self._is_loading:
            self._send(name, call, done)
        elif len(self._waiting) >= MOST_OUTSTANDING:
            done(LinkFull(f"{len(self._waiting)} calls wait for the scripts to be loaded"))
        else:
            self._waiting.append((name, call, done))
            self._load()

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run one script and wait for its reply. Raises what redis-py raises."""
        return await answer(lambda done: self.call(name, (keys, arguments, NOTHING), done))

    async def run_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Run one script many times, in one round trip."""
        if not calls:
            return []

        def ask(done: Done) -> None:
            collected = _collect(len(calls), done)
            for call in calls:
                self.call(name, call, collected)

        return raise_first_error(await answer(ask))

    def _send(self, name: str, call: Call, done: Done) -> None:
        if name in BATCHED:
            self._link.call(MESSAGE_FIRST, nobody)
            batch = self._batch = CallBatch(name, self._shas[name], call, done, self._publish_time)
            self._link.call(batch, batch.tell, partial(self._unknown_batch, batch))
        else:
            self._evaluate(name, parameters_of(call), done)

    def _evaluate(self, name: str, parameters: Command, done: Done, times: int = 1) -> None:
        unknown = partial(self._unknown, name, parameters, done, times)
        self._link.call(("EVALSHA", self._shas[name], *parameters), done, unknown)

    # -- loading

    def _unknown_batch(self, batch: CallBatch) -> None:
        self._unknown(batch.name, batch.parameters(), batch.tell, 1)

    def _unknown(self, name: str, parameters: Command, done: Done, times: int) -> None:
        """Redis has forgotten its scripts, so it has not run this one: have them loaded, and call it again."""
        if times > MOST_TIMES:
            done(NoScriptError("Redis forgets its scripts as fast as they are loaded"))
            return
        self._again.append((name, parameters, done, times + 1))
        self._load()

    def _load(self) -> None:
        if self._is_loading:
            return
        self._is_loading = True
        look = [("INFO", "server"), ("CONFIG", "GET", "appendonly", "appendfsync"), ("INFO", "replication")]
        collected = _collect(len(look), self._looked)
        for command in look:
            self._link.call(command, collected)

    def _looked(self, replies: list[Any]) -> None:
        """Load what belongs to this server, over the same connection: a restart of the server ends that."""
        server, config, replication = replies
        if isinstance(config, ResponseError):
            config = {}  # managed servers do not tell
        error = _first_error([server, config, replication])
        if error is None and "run_id" not in _lines(server):
            error = ResponseError("INFO does not say which server this is (run_id)")
        if error is not None:
            self._loaded({}, error)
            return
        run_id, certain = _lines(server)["run_id"], is_certain(_pairs(config), _lines(replication))
        wanted = {*self._shas, *(call[0] for call in self._again), *(call[0] for call in self._waiting)}
        texts = {
            name: script_text(name, run_id, certain=certain, directed=self._directed, owner=self._owner)
            for name in wanted
        }

        def loaded(shas: list[Any]) -> None:
            self._loaded(dict(zip(texts, shas, strict=True)), _first_error(shas))

        collected = _collect(len(texts), loaded)
        connection = self._link.connections
        for text in texts.values():
            self._link.call(("SCRIPT", "LOAD", text), collected, connection=connection)

    def _loaded(self, shas: dict[str, bytes], error: Exception | None) -> None:
        """Repeat what Redis did not know, all of which has come back by now, then call what has waited."""
        self._is_loading = False
        again, self._again = self._again, []
        waiting, self._waiting = self._waiting, []
        self._shas = {name: sha.decode() for name, sha in shas.items()} if error is None else {}
        for name, parameters, done, times in again:
            if error is None:
                self._evaluate(name, parameters, done, times)
            else:
                tell(done, error)
        for name, call, done in waiting:
            if error is None:
                self.call(name, call, done)
            else:
                tell(done, error)


def _collect(count: int, done: Callable[[list[Any]], object]) -> Done:
    """A callback for so many replies; `done` is called with all of them, in order."""
    results: list[Any] = []

    def collect(result: Any) -> None:
        results.append(result)
        if len(results) == count:
            done(results)

    return collect


def _first_error(results: Sequence[Any]) -> Exception | None:
    return next((result for result in results if isinstance(result, Exception)), None)


def _lines(info: bytes | str) -> dict[str, str]:
    """What INFO has answered: `name:value` lines."""
    text = info.decode() if isinstance(info, bytes) else info
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _pairs(config: Any) -> dict[str, str]:
    """What CONFIG GET has answered, in either version of the protocol."""
    pairs = config.items() if isinstance(config, dict) else zip(config[::2], config[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}
