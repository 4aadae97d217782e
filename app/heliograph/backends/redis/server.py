"""One Redis as one failure domain: everything that fails together is in one object.

A replica has one for the bus and the directory, and a second one if kept messages have a server of their own.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError, ResponseError

from heliograph.backends.redis.acknowledgement import CONFIRM_PART, IN_MEMORY, NOT_DURABLE, Acknowledgement
from heliograph.backends.redis.bus_verbs import PLAIN, BusVerbs
from heliograph.backends.redis.client import Client, as_bus_unavailable
from heliograph.backends.redis.confirming import Confirming, Keeping
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import ONE, Layout
from heliograph.backends.redis.script_texts import raise_first_error
from heliograph.backends.redis.scripts import Scripts, answers_of
from heliograph.backends.redis.wire import BusWire, Wire
from heliograph.telemetry import Histogram

if TYPE_CHECKING:
    from heliograph.backends.redis.call_batch import Call
    from heliograph.backends.redis.link import Link


class RedisServer:
    """The client, the links, the scripts (with the fence of the server's process) and the names of one Redis.

    `node_id`: of the calling replica; empty for another program. `replica`: its name, which its scripts carry; None
    for a program without scripts of its own. `layout`: which shard it is taken for. `directed`: see `script_text`.
    `publish_time` records how long Redis needs for calls that publish; servers may share one. `ack`: when something
    that is kept counts as acknowledged.

    `verbs`: the commands of its bus. Nothing is opened before the first command. After `close` it may be used again.
    """

    verbs: BusVerbs = PLAIN

    def __init__(
        self,
        client: Client,
        keys: Keys,
        *,
        node_id: str = "",
        replica: str | None = None,
        layout: Layout | None = None,
        directed: bool = False,
        publish_time: Histogram | None = None,
        ack: Acknowledgement = IN_MEMORY,
    ) -> None:
        self.client = client  # for rare calls
        self.link: Link = client.link  # for the calls of a message or of a second
        self.bulk: Link = client.bulk  # for reads with large answers
        self.keys = keys
        self.node_id = node_id
        self.layout = layout or Layout()
        # Two clusters on one Redis may both have a replica-1.
        owner = "" if replica is None else f"{keys.bus_channel} {replica}"
        self.publish_time = publish_time or Histogram()
        self.ack = ack
        self.scripts, self.bulk_scripts, confirmed = self._make_scripts(owner, directed=directed)
        self.keeping: Keeping = self.scripts  # for what is kept
        if ack.confirms:
            patience_s = CONFIRM_PART * client.timeout_s
            self.keeping = Confirming(confirmed, client.kept, keys, ack, patience_s, self.publish_time)

    def _make_scripts(self, owner: str, *, directed: bool) -> tuple[Scripts, Scripts, Scripts]:
        """Return the scripts over the link, and the same over those for large answers and for confirmed calls."""
        made = Scripts(
            self.client,
            self.keys,
            owner,
            layout=self.layout,
            directed=directed,
            publish_time=self.publish_time,
            ack=self.ack,
        )
        return made, made.over(self.bulk), made.over(self.client.kept)

    async def open_bus(self, receive: Callable[[Any], object], lost: Callable[[Exception], object]) -> BusWire:
        """Open a connection to listen on: see `Wire.open`."""
        return await Wire.open(self.client.connection_pool, receive, lost)

    async def keep(self, name: str, calls: "Sequence[Call]") -> list[Any]:
        """Run a script that keeps something, many times: see `Keeping.run_many`."""
        return raise_first_error(await self.kept(name, calls))

    async def kept(self, name: str, calls: "Sequence[Call]") -> list[Any]:
        """Run a script likewise, and return the answer to each call, which may be an error."""
        answers = await answers_of(self.keeping.call, [(name, call) for call in calls])
        if any(isinstance(each, ResponseError) and str(each).startswith(NOT_DURABLE) for each in answers):
            self.scripts.forget()  # the server may be configured in another way by the next attempt
        return answers

    async def ping(self) -> None:
        """Make sure that the links for messages and for large answers work, and lead to the right shard.

        Raises the errors of redis-py.
        """
        await self.link.ping()
        await self.bulk.ping()
        if self.layout.text != ONE:
            await self.scripts.check_layout()  # one Redis is looked at when the first script is loaded

    async def now_ms(self) -> int:
        """Return the time by the server's own clock, in ms since the epoch.

        Raises:
            BusUnavailable: it does not answer.
        """
        with as_bus_unavailable():
            seconds, microseconds = await self.link.ask("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def close(self) -> None:
        """Give the claim to the replica's name back, and close every connection. May be called twice."""
        await self.scripts.release()
        if isinstance(self.keeping, Confirming):
            self.keeping.close()
        with suppress(RedisError, OSError, TimeoutError):
            await self.client.aclose()
