"""The bus over Redis pub/sub.

Pub/sub is a hint, not a record: messages that are published while this replica is not subscribed are lost, and
nothing says so. One connection listens, and passes each message on in the event-loop iteration in which it arrives.
One task watches for the confirmation of each new subscription, and for the canary, a token that the replica sends to
itself. The canary shows whether publications still arrive.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from heliograph.backends.memory.bus import LocalBus
from heliograph.backends.redis.acknowledgement import IN_MEMORY, Acknowledgement
from heliograph.backends.redis.client import as_bus_unavailable, bus_unavailable
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.link_errors import SlotMoved
from heliograph.backends.redis.opening import layouts_of, open_servers
from heliograph.backends.redis.server import RedisServer
from heliograph.backends.redis.wire import BusWire
from heliograph.callbacks import await_callback
from heliograph.clock import Clock, SystemClock
from heliograph.cluster.sharded_bus import ShardedBus
from heliograph.errors import BadEnvelope, BadSetting, BusUnavailable
from heliograph.ports import BusState, Handler, OnPosted, OnRelayed, new_node_id
from heliograph.protocol.envelope import KEPT, Envelope, decode_envelopes, encode_envelope, ending_of
from heliograph.protocol.events import Delivery
from heliograph.settings import BusSettings, RedisSettings, Settings, bus_channel
from heliograph.tasks import end
from heliograph.telemetry import BusStats

if TYPE_CHECKING:
    from heliograph.backends.redis.call_batch import Common

logger = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 1.0  # so that a replica is ready within 2 s after Redis is back
MOVED_AGAIN_S = 0.01  # a first pause, if the bus has moved again before the canary came back
CONFIRM_TIMEOUT_S = 2.0  # how long Redis may take to confirm a subscription
SUBSCRIBE_BATCH = 500  # channels in one SUBSCRIBE
EXCERPT_BYTES = 100  # how much of a bad payload is logged

_DELIVERIES: Final = {delivery.encode(): delivery for delivery in Delivery}


class BusSilentError(BusUnavailable):
    """The connection looks alive, but the canary has not come back: it is deaf, and is opened again."""


class PubSubManager:
    """The `Bus` over Redis' publish and subscribe. `heliograph.ports` has its promises.

    `server`: the Redis of the bus; its owner closes it. Without it the manager makes its own from `redis` and `bus`
    (whose defaults name no Redis), and closes it too. With `enabled=False`, or settings without a URL, there is one
    replica without Redis, and the call returns a `LocalBus`.

    Nothing is opened before `initialize`; after `close` it may be initialised again.
    """

    enabled = True

    def __new__(  # type: ignore[misc] # a LocalBus is none of these
        cls,
        server: RedisServer | None = None,
        *,
        redis: RedisSettings | None = None,
        bus: BusSettings | None = None,
        enabled: bool = True,
        clock: Clock | None = None,
    ) -> "PubSubManager | LocalBus":
        has_server = server is not None or bool((redis or RedisSettings()).urls)
        return super().__new__(cls) if enabled and has_server else LocalBus()

    def __init__(
        self,
        server: RedisServer | None = None,
        *,
        redis: RedisSettings | None = None,
        bus: BusSettings | None = None,
        enabled: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self._settings = bus or BusSettings()
        self._owns_server = server is None
        self.server = server or only_server(redis or RedisSettings(), self._settings)
        self._link, self._scripts, self._keys = self.server.link, self.server.scripts, self.server.keys
        self._verbs = self.server.verbs
        self.stats = BusStats(publish_time=self.server.publish_time)
        keys, node_id = self._keys, self.server.node_id
        self.channel = keys.bus_channel  # every replica listens on it
        self.own_channel = keys.own_bus_channel(node_id)
        self.inbox = keys.inbox(node_id)
        self.node_id = node_id
        self._handler: Handler | None = None
        self._on_resubscribed: Callable[[], object] | None = None
        self._on_died: Callable[[str], object] | None = None
        self._relay_common: Common | None = None  # of all calls of `relay` with the present lease
        self._clock = clock or SystemClock()
        self._state = BusState.NEW
        self._wire: BusWire | None = None  # the listening connection; it reads while the listen loop runs
        self._lost: asyncio.Future[Exception]  # why that connection has ended
        self._own = self.own_channel.encode()
        self._own_ending = ending_of(node_id)
        self._subscribing = asyncio.Lock()  # held while the listening connection is opened or closed
        self._listen_task: asyncio.Task[None] | None = None
        self._canary_task: asyncio.Task[None] | None = None
        self._canary_due = asyncio.Event()  # a new subscription is to be tested
        self._heard_at = -math.inf  # when the canary last came back, in monotonic seconds ...
        self._canary_heard_at = -math.inf  # ... and when over the present connection
        self._canary_lag_s = 0.0
        self._wanted: dict[str, None] = {}  # bus channels of the followed public channels
        self._confirmed_channels: set[str] = set()  # those of them that the present connection listens on
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}  # callers that wait for a confirmation
        self._confirmations = 0  # of the subscription to the shared bus channel, over all connections

    # -- state

    @property
    def state(self) -> BusState:
        return self._state

    @property
    def unheard_s(self) -> float:
        return self._clock.monotonic() - self._heard_at

    @property
    def canary_age_s(self) -> float:
        return self._clock.monotonic() - self._canary_heard_at

    @property
    def lag_s(self) -> float:
        """The round trip of the last canary, or the seconds since one has been missing."""
        return max(self._canary_lag_s, self.canary_age_s - self._settings.canary_interval_s)

    @property
    def ready(self) -> bool:
        return self._state is BusState.RUNNING and self.canary_age_s < self._settings.canary_timeout_s

    # -- lifecycle

    async def initialize(self) -> None:
        """Connect, ping and subscribe. Do nothing if that is done, or if the listener is doing it.

        Raises:
            BusUnavailable: Redis cannot be reached; the listen loop may be started all the same, and retries.
        """
        if self._listen_task is not None or self._state not in (BusState.NEW, BusState.LOST):
            return
        await self._subscribe()
        if self._listen_task is None:
            self._state = BusState.INITIALIZED

    def start_listening(
        self,
        handler: Handler | None = None,
        *,
        on_resubscribed: Callable[[], object] | None = None,
        on_died: Callable[[str], object] | None = None,
    ) -> None:
        if self._listen_task is not None:
            return
        self._handler = handler or self._handler
        self._on_resubscribed = on_resubscribed or self._on_resubscribed
        self._on_died = on_died or self._on_died
        self._listen_task = asyncio.create_task(self._listen_loop(), name="bus-listen")
        self._listen_task.add_done_callback(self._say_how_it_ended)
        self._canary_task = asyncio.create_task(self._canary_loop(), name="bus-canary")

    async def stop_listening(self) -> None:
        """Cancel the reader and wait until it has ended. Subscriptions stay, and reading may start again."""
        tasks = [task for task in (self._canary_task, self._listen_task) if task is not None]
        self._canary_task = self._listen_task = None
        await end(tasks)
        if self._state is BusState.RUNNING:
            self._state = BusState.INITIALIZED

    async def close(self) -> None:
        """Stop listening, unsubscribe, and close its own connections."""
        await self.stop_listening()
        async with self._subscribing:
            if self._wire is not None and self._state is BusState.INITIALIZED:
                self._wire.say(self._verbs.unsubscribe)
            await self._drop_subscription()
            if self._owns_server:
                await self.server.close()  # the next `initialize` may use it again
        self._state = BusState.NEW

    # -- out

    def relay(self, envelope: Envelope, lease: str, done: OnRelayed) -> None:
        if self._state is BusState.NEW:
            self.stats.publish_errors += 1
            logger.error(
                "message %s is lost to other replicas: the bus is not initialised; call initialize() first",
                envelope.message_id,
            )
            done(BusUnavailable("the bus is not initialised; the message is lost"))
            return
        common = self._relay_common
        if common is None or common[1][0] != lease:
            common = self._relay_common = ((self._keys.settled_at,), (lease, self.channel))
        keys = (self._keys.holders(envelope.target_user_id or ""),)
        call = keys, (encode_envelope(envelope),), common
        self._scripts.call("relay", call, partial(self._relayed, done))

    def relay_on(self, envelope: Envelope, done: OnRelayed) -> None:
        command = (self._verbs.publish, self._keys.bus_channel_of(envelope.address), encode_envelope(envelope))
        self._link.call(command, partial(self._announced, monotonic(), done))

    def post(self, node_id: str, envelope: Envelope, done: OnPosted) -> None:
        def posted(reply: Any) -> None:
            done(bus_unavailable(reply) if isinstance(reply, Exception) else reply)

        self._link.call((self._verbs.publish, self._keys.inbox(node_id), encode_envelope(envelope)), posted)

    def _announced(self, began_at: float, done: OnRelayed, reply: Any) -> None:
        if not isinstance(reply, Exception):
            self.stats.publish_time.observe(monotonic() - began_at)
        self._relayed(done, reply)

    def _relayed(self, done: OnRelayed, reply: Any) -> None:
        if isinstance(reply, Exception):
            self.stats.publish_errors += 1
            done(bus_unavailable(reply))
            return
        self.stats.published += 1
        done(_DELIVERIES.get(reply, Delivery.REMOTE))  # PUBLISH answers with a number

    async def publish(self, envelope: Envelope, *, lease: str) -> Delivery | None:
        return await await_callback(lambda done: self.relay(envelope, lease, done))

    # -- followed channels

    async def follow(self, channel: str) -> None:
        name = self._keys.bus_channel_of(channel)
        self._wanted[name] = None
        if name in self._confirmed_channels:
            return
        if self._state is not BusState.RUNNING:
            raise BusUnavailable("the bus is not connected")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(name, [])
        waiting.append(waiter)
        try:
            with as_bus_unavailable():
                if len(waiting) == 1 and not self._is_moving:
                    self._say(self._verbs.subscribe, name)
                async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                    await waiter
        except BaseException:
            waiting.remove(waiter)  # the next caller subscribes again
            if not waiting and self._waiting.get(name) is waiting:
                del self._waiting[name]
            raise

    async def unfollow(self, channel: str) -> None:
        name = self._keys.bus_channel_of(channel)
        self._wanted.pop(name, None)
        if name in self._confirmed_channels:
            self._confirmed_channels.discard(name)
            with suppress(RedisError):  # the connection is lost; the next one does not subscribe to this channel
                self._say(self._verbs.unsubscribe, name)

    @property
    def _is_moving(self) -> bool:
        """True if the bus is at another server: the next connection subscribes to everything that is wanted."""
        return self._wire is not None and self._lost.done() and isinstance(self._lost.result(), SlotMoved)

    def _say(self, command: str, name: str) -> None:
        if self._wire is None or self._lost.done():
            raise RedisConnectionError("the bus connection is lost")
        self._wire.say(command, name)

    # -- in

    async def _listen_loop(self) -> None:
        """Outlive every connection: each iteration is the life of one."""
        failures = moves = 0
        while True:
            try:
                began_at = self._clock.monotonic()
                wire = await self._subscribe()
                self._state = BusState.RUNNING
                await self._read(wire)
            except SlotMoved as moved:
                logger.info("subscribing to the bus at another server: %s", moved)
                moves = 1 if self._canary_heard_at > began_at else moves + 1
                if moves > 1:  # the servers do not agree yet
                    await asyncio.sleep(min(BACKOFF_MOST_S, MOVED_AGAIN_S * 2 ** min(moves, 16)))
            except (BusUnavailable, RedisError, OSError, TimeoutError) as error:
                # A connection on which the canary came back resets the back-off.
                failures = 0 if self._canary_heard_at > began_at else failures + 1
                self._state = BusState.LOST
                self.stats.connection_losses += 1
                delay_s = _backoff_s(failures, self._settings.canary_timeout_s)
                logger.warning("bus connection lost (%s); reconnecting in %.1f s", error, delay_s)
                await self._drop_subscription()
                await asyncio.sleep(delay_s)

    async def _read(self, wire: BusWire) -> NoReturn:
        """Let the connection read until it breaks or is silent."""
        interval_s, timeout_s = self._settings.canary_interval_s, self._settings.canary_timeout_s
        looked_at = self._clock.monotonic()
        due_at = looked_at + timeout_s  # when the next canary is due
        wire.release()
        try:
            while True:
                await asyncio.wait([self._lost], timeout=interval_s)
                if self._lost.done():
                    raise self._lost.result()
                now = self._clock.monotonic()
                due_at = max(due_at, self._canary_heard_at + timeout_s)
                if now - looked_at > 2 * interval_s:
                    # This process stood still: the canary may be among the messages that were not read yet.
                    due_at = now + timeout_s
                elif now > due_at:
                    raise BusSilentError(f"nothing heard for {timeout_s:g} s")
                looked_at = now
        finally:
            wire.hold()

    def _handle_message(self, message: Any) -> None:
        """Handle a confirmation, the canary, or an envelope. Never raise because of other programs' data."""
        if isinstance(message, Exception):
            raise message  # Redis refuses a command
        kind, channel, payload = message
        if kind == self._verbs.message:
            if channel != self._own:
                self._handle_payload(payload)
            else:
                self._heard_canary(payload)
        elif kind == self._verbs.subscribed:
            self._confirmed(channel.decode())
        elif kind == self._verbs.unsubscribed and channel == self._own:
            raise SlotMoved("the server has ended the subscriptions")  # nobody has asked for that

    def _heard_canary(self, payload: bytes) -> None:
        """Handle the canary, which carries its time of sending by this replica's clock."""
        self._heard_at = self._canary_heard_at = self._clock.monotonic()
        with suppress(ValueError):  # another program's
            self._canary_lag_s = max(0.0, self._canary_heard_at - float(payload))
            self.stats.lag.observe(self._canary_lag_s)

    def _handle_payload(self, payload: bytes) -> None:
        if payload.endswith(self._own_ending) and not payload.startswith(KEPT):
            # This replica's own envelope. RemoteDelivery would drop it; this saves decoding it.
            self.stats.received += 1
            return
        try:
            envelopes = decode_envelopes(payload)
        except BadEnvelope as error:
            self._skip(payload, error)
            return
        for envelope in envelopes:
            try:
                if self._handler is not None:
                    self._handler(envelope)
                self.stats.received += 1
            except BadEnvelope as error:
                self._skip(encode_envelope(envelope), error)
            except Exception:
                self.stats.received += 1
                self.stats.handler_errors += 1
                if envelope.node_id is None:  # from another program; data of clients is never logged
                    logger.exception(
                        "delivering a message from the bus failed with an unexpected error; skipped: %r",
                        payload[:EXCERPT_BYTES],
                    )
                else:
                    about = {"channel": envelope.address}
                    logger.exception(
                        "delivering message %s from the bus failed with an unexpected error; skipped",
                        envelope.message_id,
                        extra=about,
                    )

    def _skip(self, payload: bytes, error: BadEnvelope) -> None:
        self.stats.malformed += 1
        logger.warning("skipped a bus message that is not an envelope (%s): %r", error, payload[:EXCERPT_BYTES])

    def _confirmed(self, name: str) -> None:
        if name != self.channel:
            self._confirmed_channels.add(name)
            for waiter in self._waiting.pop(name, []):
                if not waiter.done():
                    waiter.set_result(None)
            return
        self._canary_due.set()
        self._confirmations += 1
        if self._confirmations > 1:
            self.stats.resubscriptions += 1
            logger.info("subscribed to the bus again; messages published meanwhile are read from the log")
        # Also the first time: the log may have been read before there was a subscription.
        if self._on_resubscribed is not None:
            try:
                self._on_resubscribed()
            except Exception:
                logger.exception("the callback for a new bus subscription failed with an unexpected error")

    async def _subscribe(self) -> BusWire:
        """Return the listening connection, opened and subscribed to all wanted channels unless there is one.

        It holds messages back until the listen loop runs.

        Raises:
            BusUnavailable: nothing stays open.
        """
        async with self._subscribing:
            if self._wire is not None and not self._lost.done():
                return self._wire
            if self._is_moving:
                self._confirmed_channels.clear()  # who waits for a confirmation gets it over the new connection
            else:
                await self._drop_subscription()
                self._canary_heard_at = -math.inf  # the canary of the last connection says nothing about this one
            lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
            with as_bus_unavailable():
                await self.server.ping()
                wire = await self.server.open_bus(self._handle_message, lost.set_result)
            wire.hold()
            self._wire, self._lost = wire, lost
            wanted = [self.own_channel, self.inbox, *self._wanted]
            for i in range(0, len(wanted), SUBSCRIBE_BATCH):
                wire.say(self._verbs.subscribe, *wanted[i : i + SUBSCRIBE_BATCH])
            wire.say(self._verbs.subscribe, self.channel)  # last, so that its confirmation implies all others
            return wire

    async def _drop_subscription(self) -> None:
        self._confirmed_channels.clear()
        waiting, self._waiting = self._waiting, {}
        for waiter in (waiter for waiters in waiting.values() for waiter in waiters):
            if not waiter.done():
                waiter.set_exception(BusUnavailable("the bus connection is lost"))
        if self._wire is not None:
            wire, self._wire = self._wire, None
            await wire.close()

    def _say_how_it_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            logger.critical("the bus listener died; this replica is no longer ready", exc_info=task.exception())
            if self._on_died is not None:
                self._on_died("the bus listener died")

    async def _canary_loop(self) -> None:
        while True:
            self._canary_due.clear()
            try:
                with as_bus_unavailable():
                    await self._link.ask(self._verbs.publish, self.own_channel, repr(self._clock.monotonic()))
            except BusUnavailable as error:
                logger.debug("publishing the canary failed: %s", error)  # the reader notices and logs it
            except Exception:
                logger.exception("publishing the canary failed with an unexpected error")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.canary_interval_s):
                    await self._canary_due.wait()


def _backoff_s(failures: int, timeout_s: float) -> float:
    """Return the seconds until the next attempt: exponential, with full jitter, so that replicas spread out.

    At most half of the canary's time-out: after the whole of it, a replica whose Redis answers again counts as deaf.
    """
    doublings = min(failures, 16)  # far beyond the maximum, and small enough for a float
    longest_s = min(BACKOFF_MOST_S, timeout_s / 2, BACKOFF_FIRST_S * 2**doublings)
    return random.uniform(0, longest_s)  # noqa: S311 - not a secret


def redis_servers(redis: RedisSettings, bus: BusSettings, replica: str = "") -> list[RedisServer]:
    """Return the server with the bus of each shard, from the settings. `replica`: the name of the calling replica.

    It has the same `node_id` in all of them. Empty if the settings name no Redis.
    """
    layouts, servers = iter(layouts_of(redis.urls)), list[RedisServer]()
    node_id = new_node_id()
    ack = Acknowledgement(redis.ack, redis.ack_replicas) if redis.durable_url is None else IN_MEMORY
    for url in redis.urls:
        servers += open_servers(
            url,
            Keys(redis.prefix, bus_channel(bus, redis, url)),
            layouts=layouts,
            max_connections=redis.max_connections,
            node_id=node_id,
            replica=replica,
            directed=bus.routing == "directed",
            ack=ack,
        )
    return servers


def only_server(redis: RedisSettings, bus: BusSettings) -> RedisServer:
    """Return the one server that the settings name.

    Raises:
        BadSetting: there is none, or there are several.
    """
    servers = redis_servers(redis, bus)
    if not servers:
        raise BadSetting("a bus over Redis needs an address of Redis; set HELIOGRAPH_REDIS__URL")
    if len(servers) > 1:
        raise BadSetting("a PubSubManager has one Redis; get_pubsub_manager() returns the bus over all shards")
    return servers[0]


_manager: PubSubManager | None = None


def get_pubsub_manager(
    settings: Settings | None = None, servers: Sequence[RedisServer] = ()
) -> PubSubManager:  # in every case a `Bus`
    """Return this process's manager. The first call creates it from its arguments; later calls need none.

    Where the settings name several shards it is a `ShardedBus` over the manager of each; without Redis a `LocalBus`.
    `servers`: those of the shards, which their owner closes; by default it makes them from the settings.
    """
    global _manager
    if _manager is None:
        _manager = make_bus(settings or Settings.load(), servers)
    return _manager


def make_bus(settings: Settings, servers: Sequence[RedisServer] = ()) -> PubSubManager:
    """Return a new manager: see `get_pubsub_manager`."""
    if len(layouts_of(settings.redis.urls)) < 2:
        return PubSubManager(servers[0] if servers else None, redis=settings.redis, bus=settings.bus)
    owned = [] if servers else redis_servers(settings.redis, settings.bus)
    shards = [PubSubManager(server, bus=settings.bus) for server in servers or owned]
    return cast("PubSubManager", ShardedBus(shards, owned))


async def reset_pubsub_manager() -> None:
    """Close this process's manager and forget it: the next `get_pubsub_manager` creates a new one.

    A replica closes its bus itself. This name is a requirement, for programs and tests that use the manager alone.
    """
    global _manager
    if _manager is not None:
        manager, _manager = _manager, None
        await manager.close()
