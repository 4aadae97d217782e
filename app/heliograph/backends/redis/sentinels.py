"""Connections to the master that Sentinels name.

Every new connection asks the Sentinels first, and checks the role of the server that it reaches: while a failover is
under way, both may be out of date. Programs with an event loop also listen to the Sentinels, so that they leave a
master that was replaced but still answers, such as one on the other side of a network that is cut in two.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NoReturn
from weakref import WeakSet

import redis
import redis.asyncio
from redis.asyncio import ConnectionPool as AsyncPool
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection as SyncConnection
from redis.connection import ConnectionPool as SyncPool
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from heliograph.backends.redis.leaving import leaving
from heliograph.backends.redis.link_errors import NotConnected
from heliograph.redis_url import SentinelAddress
from heliograph.tasks import end

logger = logging.getLogger(__name__)

Master = tuple[str, int]  # host and port
Knowledge = tuple[int, Master]  # a Sentinel's: the epoch of its configuration, and the master
ASK_TIMEOUT_S: Final = 0.5  # of one Sentinel
LISTEN_AGAIN_S: Final = 1.0  # pause before a lost Sentinel is tried again
SILENCE_S: Final = 5.0  # a Sentinel that says nothing for so long is pinged; after as long again it is lost
_SWITCHED: Final = "+switch-master"
# What a Sentinel is asked, in this order. The one that leads a failover counts up the epoch when the next master is
# promoted, but MASTER tells the old address until all replicas follow the new one, which may take minutes.
QUESTIONS: Final = (("SENTINEL", "MASTER"), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME"))


class NoMaster(NotConnected):
    """The Sentinels that answer name no master, or what they name is none."""


class MasterFinder:
    """Asks the Sentinels for the master, for connections of an event loop, and leaves a master that was replaced.

    `options`: of the connections to the Sentinels, for TLS. Nothing is opened before the first `find`.
    """

    def __init__(self, address: SentinelAddress, options: dict[str, Any]) -> None:
        self._address = address
        common = _connection_options(address, options) | {"retry": AsyncRetry(NoBackoff(), 0)}
        self._sentinels = [redis.asyncio.Redis(host=host, port=port, **common) for host, port in address.sentinels]
        for sentinel in self._sentinels:
            sentinel.response_callbacks.clear()  # answers as they are, in every version of redis-py
            pool = sentinel.connection_pool
            pool.connection_class = leaving(pool.connection_class)
        self._listeners: list[asyncio.Task[None]] = []
        self._open: WeakSet[asyncio.Transport] = WeakSet()  # connections to the master
        self._attempts: set[asyncio.Timeout] = set()  # to open one
        self._on_replaced: list[Callable[[], object]] = []
        self._master: Master | None = None

    async def find(self) -> Master:
        """Return the master's address, as the Sentinel with the newest knowledge says.

        It waits for the answers of more than half of the Sentinels, or until the others have had their time. If most
        of them are away, those that answer are believed: then there can be no failover.

        Raises:
            NoMaster: no Sentinel that answers knows it.
        """
        if not self._listeners:
            self._listeners = [
                asyncio.create_task(self._listen(sentinel), name="redis-sentinel") for sentinel in self._sentinels
            ]
        return self._moved_to(await self._ask_all())

    async def _ask_all(self) -> Master:
        asking = [asyncio.create_task(_ask(sentinel, self._address.master)) for sentinel in self._sentinels]
        answers: list[Knowledge | Exception] = []
        try:
            for answer in asyncio.as_completed(asking):
                answers.append(await answer)
                if sum(isinstance(each, tuple) for each in answers) == self._address.majority:
                    break
        finally:
            await end(asking)
        return newest(self._address, answers)

    def _moved_to(self, master: Master) -> Master:
        """End the connections to another master than this one."""
        known, self._master = self._master, master
        if known not in (None, master):
            logger.warning("the Sentinels have made %s:%d the master %r", *master, self._address.master)
            for transport in list(self._open):
                transport.abort()
            for attempt in self._attempts:
                attempt.reschedule(0)
            for callback in self._on_replaced:
                callback()
        return master

    def on_replaced(self, callback: Callable[[], object]) -> None:
        """Have `callback` called whenever another server has become the master."""
        self._on_replaced.append(callback)

    @asynccontextmanager
    async def connecting(self) -> AsyncIterator[None]:
        """Open a connection to the master in this block. It is given up when another server becomes the master.

        Otherwise a master that hangs, and so is replaced, would hold the connection up for as long as it may take.

        Raises:
            NoMaster: another server has become the master.
        """
        try:
            async with asyncio.timeout(None) as attempt:
                self._attempts.add(attempt)
                try:
                    yield
                finally:
                    self._attempts.discard(attempt)
        except TimeoutError:
            if attempt.expired():
                raise NoMaster("the master was replaced before it had answered") from None
            raise

    def opened(self, transport: asyncio.Transport) -> None:
        """Remember a connection to the master, which ends when another server becomes the master."""
        self._open.add(transport)

    async def _listen(self, sentinel: "redis.asyncio.Redis") -> None:
        """Listen to one Sentinel until cancelled. What was missed while it was away is asked for."""
        while True:
            pubsub = sentinel.pubsub(ignore_subscribe_messages=True)
            try:
                await pubsub.subscribe(_SWITCHED)
                self._moved_to(await self._ask_all())
                await self._hear(pubsub)
            except (RedisError, OSError, TimeoutError) as error:
                logger.debug("a Sentinel is away: %s", error)
            except Exception:
                logger.exception("listening to a Sentinel failed with an unexpected error; retrying")
            finally:
                with suppress(RedisError, OSError, TimeoutError):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(LISTEN_AGAIN_S)

    async def _hear(self, pubsub: "redis.asyncio.client.PubSub") -> NoReturn:
        """Hear what a Sentinel says, until the connection breaks or the Sentinel does not answer a ping."""
        is_pinged = False
        while True:
            message = await pubsub.get_message(timeout=SILENCE_S)
            if message is not None:
                is_pinged = False
                self._on_message(message["data"])
            elif is_pinged:
                raise TimeoutError(f"it has not answered a ping for {SILENCE_S:g} s")
            else:
                is_pinged = True
                await pubsub.ping()

    def _on_message(self, data: bytes | str) -> None:
        words = (data.decode() if isinstance(data, bytes) else data).split()
        if len(words) == 5 and words[0] == self._address.master:
            self._moved_to((words[3], int(words[4])))

    async def close(self) -> None:
        """Stop listening, and close the connections to the Sentinels. It may be used again."""
        listeners, self._listeners = self._listeners, []
        await end(listeners)
        for sentinel in self._sentinels:
            with suppress(RedisError, OSError, TimeoutError):
                await sentinel.aclose()


async def _ask(sentinel: "redis.asyncio.Redis", master: str) -> Knowledge | Exception:
    """Return what the Sentinel knows, or the error."""
    try:
        answers = [await sentinel.execute_command(*question, master) for question in QUESTIONS]  # type: ignore[no-untyped-call]
        return knowledge(*answers)
    except (RedisError, OSError, TimeoutError) as error:
        return error


class SyncMasterFinder:
    """Like `MasterFinder`, for programs without an event loop. It does not listen: a caller asks anew."""

    def __init__(self, address: SentinelAddress, options: dict[str, Any]) -> None:
        self._address = address
        self._sentinels = address.sentinels  # in the order in which they are asked
        self._options = _connection_options(address, options) | {"retry": Retry(NoBackoff(), 0)}

    def find(self) -> Master:
        """See `MasterFinder.find`. The Sentinels are asked in turn; one that is away is the last from then on."""
        answers: list[Knowledge | Exception] = []
        for host, port in self._sentinels:
            with redis.Redis(host=host, port=port, **self._options) as sentinel:
                sentinel.response_callbacks.clear()
                try:
                    said = [sentinel.execute_command(*question, self._address.master) for question in QUESTIONS]
                    answers.append(knowledge(*said))
                except (RedisError, OSError) as error:
                    answers.append(error)
                    others = (each for each in self._sentinels if each != (host, port))
                    self._sentinels = (*others, (host, port))
            if sum(isinstance(each, tuple) for each in answers) == self._address.majority:
                break
        return newest(self._address, answers)


def _connection_options(address: SentinelAddress, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of connections to the Sentinels."""
    return {
        "protocol": 2,  # answers have the same form from every version
        "username": address.user,
        "password": address.password,
        "socket_timeout": ASK_TIMEOUT_S,
        "socket_connect_timeout": ASK_TIMEOUT_S,
        **options,
    }


def knowledge(facts: list[Any], master: list[Any] | None) -> Knowledge:
    """Return what a Sentinel knows, from its answers to `QUESTIONS`.

    Raises:
        NoMaster: it has forgotten the master between the two.
    """
    if master is None:
        raise NoMaster("it does not know the master any more")
    named = {_text(name): _text(value) for name, value in zip(facts[::2], facts[1::2], strict=True)}
    return int(named["config-epoch"]), (_text(master[0]), int(master[1]))


def newest(address: SentinelAddress, answers: Sequence[Knowledge | Exception]) -> Master:
    """Return the master by what the Sentinels know, of which some may be errors.

    A failover needs a majority of the Sentinels and counts up the configuration's epoch, so the highest epoch is the
    latest decision, even if only one of them knows it yet.

    Raises:
        NoMaster: says what the Sentinels have answered.
    """
    found = [answer for answer in answers if isinstance(answer, tuple)]
    if found:
        return max(found)[1]
    reasons = {_reason(error) for error in answers if isinstance(error, Exception)}
    raise NoMaster(f"no Sentinel names the master {address.master!r}: {'; '.join(sorted(reasons))}")


def _reason(error: Exception) -> str:
    if isinstance(error, ResponseError) and "No such master" in str(error):
        return "none that answers knows a master of this name"
    return str(error) or type(error).__name__


def tls_options(pool: AsyncPool | SyncPool) -> dict[str, Any]:
    """Return the options with which the Sentinels are reached like the servers of the pool: with TLS or without."""
    options = {name: value for name, value in pool.connection_kwargs.items() if name.startswith("ssl_")}
    uses_tls = issubclass(pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection))
    return options | {"ssl": True} if uses_tls else options


def to_master(connection_class: type[AsyncConnection], finder: MasterFinder) -> type[AsyncConnection]:
    """Return a class of connections that go to the master."""

    class ToMaster(connection_class):  # type: ignore[valid-type, misc]
        async def connect(self) -> None:
            if self.is_connected:
                return
            self.host, self.port = await finder.find()
            try:
                async with finder.connecting():
                    await super().connect()
                    await self.send_command("ROLE", check_health=False)
                    with suppress(ResponseError):  # it is not allowed: a replica refuses the first write
                        check_role(await self.read_response(), self.host, self.port)
            except BaseException:
                await self.disconnect(nowait=True)
                raise
            finder.opened(self._writer.transport)

    return ToMaster


def to_master_sync(connection_class: type[SyncConnection], finder: SyncMasterFinder) -> type[SyncConnection]:
    """See `to_master`."""

    class ToMaster(connection_class):  # type: ignore[valid-type, misc]
        def connect(self) -> None:
            if self._sock is not None:
                return
            self.host, self.port = finder.find()
            super().connect()
            try:
                self.send_command("ROLE", check_health=False)
                with suppress(ResponseError):
                    check_role(self.read_response(), self.host, self.port)
            except BaseException:
                self.disconnect()
                raise

    return ToMaster


def check_role(answer: list[Any], host: str, port: int) -> None:
    """Check the answer to ROLE.

    Raises:
        NoMaster: the server is a replica.
    """
    if _text(answer[0]) != "master":
        raise NoMaster(f"{host}:{port} is not the master yet, or not any more; its role is {_text(answer[0])!r}")


def _text(value: bytes | str | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
