"""The log in Redis: a stream for each channel, written by one script that also publishes."""

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec
from redis.exceptions import InvalidResponse

from heliograph.backends.redis.budget import amount, refused
from heliograph.backends.redis.call_batch import MOST_CALLS, NOTHING, Call, Common
from heliograph.backends.redis.client import as_bus_unavailable, bus_unavailable
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.server import RedisServer
from heliograph.errors import BusUnavailable, OverBudget
from heliograph.ports import (
    PAGE_BYTES,
    READ_TTL_S,
    AppendResult,
    BusSequences,
    Draft,
    OnAppended,
    ReadRequest,
    ReadResult,
)
from heliograph.protocol.budget import NO_BUDGET, Budget
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.envelope import Envelope, decode_envelope, encode_envelope, read_logged
from heliograph.protocol.events import Delivery
from heliograph.protocol.identity import user_of
from heliograph.protocol.kinds.registry import kind_of
from heliograph.protocol.position import Position
from heliograph.protocol.run import RunState, RunUpdate

if TYPE_CHECKING:
    from heliograph.backends.redis.scripts import Argument

logger = logging.getLogger(__name__)

_READ_NOTHING, _READ_ALL = -1, -2
LEAST_TTL_S = 10.0  # histories with at least this time to live may be kept a second longer
MOST_PLACES = 10_000  # channels whose keys are remembered
DELIVERIES: Final = {**{delivery.value: delivery for delivery in Delivery}, "here": Delivery.LOCAL}


class RedisLog:
    """A `Log` in Redis. The inbox of the server's `node_id` counts in `bus_sequences`.

    `budget`: how much each user's clients may write. Large reads use a connection of their own, so that no message
    waits behind them: at most `page_bytes` of each channel at once.
    """

    def __init__(
        self,
        server: RedisServer,
        *,
        budget: Budget = NO_BUDGET,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        self._link = server.link
        self._scripts = server.scripts
        self._reading = server.bulk_scripts
        self._page_bytes = page_bytes
        self._keys = server.keys
        self._node_id = server.node_id
        self._budget = budget
        self._calls = AppendCalls(server.keys, budget)
        self._second = -1
        self._due_now = ""

    def submit(self, draft: Draft, options: Namespace, lease: str, done: OnAppended) -> None:
        call = self._calls.of(draft, options, lease, self._due())
        self._scripts.call("append", call, partial(self._appended, draft, done))

    def _appended(self, draft: Draft, done: OnAppended, reply: Any) -> None:
        done(self._failure(reply) if isinstance(reply, Exception) else _read_answer(draft, reply))

    def _failure(self, error: Exception) -> BusUnavailable | OverBudget:
        """Return the error for callers."""
        return refused(error, self._budget) or bus_unavailable(error)

    def _due(self) -> str:
        """Return this replica's name for the present second, by its own clock only."""
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._due_now = f"{self._node_id}.{second}" if self._node_id else ""
        return self._due_now

    async def read(self, requests: Sequence[ReadRequest]) -> list[ReadResult]:
        bare = [each.channel for each in requests if _is_bare(each)]
        calls = [
            ("positions", self._positions_call(bare[start : start + MOST_CALLS]))
            for start in range(0, len(bare), MOST_CALLS)
        ]
        batches = len(calls)
        calls += [("read", self._read_call(each)) for each in requests if not _is_bare(each)]
        with as_bus_unavailable():
            answers = await self._reading.run_all(calls)
        positions = chain.from_iterable(answers[:batches])
        results = iter(answers[batches:])
        return [
            ReadResult(Position(next(positions).decode(), next(positions)), complete=True, publications=[])
            if _is_bare(each)
            else _read_result(next(results))
            for each in requests
        ]

    async def remove(self, channel: str) -> None:
        with as_bus_unavailable():
            await self._scripts.run("remove", self._keys_of(channel), ())

    async def tops(self, channels: Sequence[str]) -> list[Position | None]:
        with as_bus_unavailable():
            flat = await self._scripts.run("tops", list(map(self._keys.meta, channels)), ())
        return [
            Position(epoch.decode(), top) if epoch else None for epoch, top in zip(flat[::2], flat[1::2], strict=True)
        ]

    async def listen(self, channels: Mapping[str, float]) -> None:
        times = [int(seconds * 1000) for seconds in channels.values()]
        with as_bus_unavailable():
            await self._reading.run("listen", list(map(self._keys.meta, channels)), times)

    async def bus_sequences(self) -> BusSequences:
        with as_bus_unavailable():
            counts = await self._link.ask("HMGET", self._keys.bus_sequences, "shared", self._node_id)
        shared, own = (int(count or 0) for count in counts)
        return BusSequences(shared, own)

    def _positions_call(self, channels: Sequence[str]) -> Call:
        keys = self._keys
        names: list[str] = []
        for channel in channels:
            names += keys.meta(channel), keys.stream(channel), keys.client_stream(channel)
        return names, [READ_TTL_S * 1000], NOTHING

    def _read_call(self, request: ReadRequest) -> Call:
        if request.after is not None:
            epoch, offset = request.after.epoch, request.after.offset
        else:
            epoch, offset = "", _READ_ALL if request.replay else _READ_NOTHING
        with_state = "1" if request.with_state else ""
        arguments: list[Argument] = [READ_TTL_S * 1000, epoch, offset, request.limit, with_state, self._page_bytes]
        return self._keys_of(request.channel), [*arguments, "1" if request.is_own else ""], NOTHING

    def _keys_of(self, channel: str) -> list[str]:
        """Return the keys of a channel's log: meta, the two streams, and a run's state and tail."""
        keys = self._keys
        streams = [keys.stream(channel), keys.client_stream(channel)]
        return [keys.meta(channel), *streams, keys.state(channel), keys.tail(channel)]


class ConfirmedLog(RedisLog):
    """A `Log` whose appends replicas of Redis must confirm: see `confirming.py`.

    The bus brings a publication to subscribers before it is confirmed, because the script that keeps it publishes it.
    """

    def __init__(self, server: RedisServer, *, budget: Budget = NO_BUDGET, page_bytes: int = PAGE_BYTES) -> None:
        super().__init__(server, budget=budget, page_bytes=page_bytes)
        self._keeping = server.keeping

    def submit(self, draft: Draft, options: Namespace, lease: str, done: OnAppended) -> None:
        call = self._calls.of(draft, options, lease, self._due())
        self._keeping.call("append", call, partial(self._appended, draft, done))


class TwoServerLog(RedisLog):
    """A `Log` on a durable server, announced on the live one, where the bus and the directory are.

    No script spans two servers, so there are two steps. First the durable server keeps the publication and counts it.
    (It also has the bus sequence, so the heartbeat notices a publication that was kept and never announced.) Then the
    live server announces it to every replica. If the second step fails, the publication is kept: this replica
    delivers it at once, the others read it from the log with their next heartbeat. If the first step fails, nothing
    has happened. The durable server has no directory, so publications are announced on the shared bus channel,
    whatever `BusSettings.routing` says.
    """

    def __init__(
        self,
        durable: RedisServer,
        live: RedisServer,
        *,
        budget: Budget = NO_BUDGET,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        super().__init__(durable, budget=budget, page_bytes=page_bytes)
        self._keeping = durable.keeping
        self._live = live.link
        self._live_scripts = live.scripts
        self._publish = live.verbs.publish

    def submit(self, draft: Draft, options: Namespace, lease: str, done: OnAppended) -> None:
        def stored(reply: Any) -> None:
            if isinstance(reply, Exception):
                done(self._failure(reply))
                return
            result = _read_answer(draft, reply[0])
            if isinstance(result, BusUnavailable) or len(reply) == 1:
                done(result)  # a repetition
            else:
                self._announce(draft.channel, reply[1], lease, result, done)

        self._keeping.call("store", self._calls.of(draft, options, lease), stored)

    def _announce(self, channel: str, envelope: bytes, lease: str, result: AppendResult, done: OnAppended) -> None:
        user_id = user_of(channel)

        def announced(reply: Any) -> None:
            if isinstance(reply, Exception):
                offset, error = result.position.offset, bus_unavailable(reply)
                logger.warning(
                    "offset %d is kept but was not published to other replicas; they find it with a heartbeat: %s",
                    offset,
                    error,
                    extra={"channel": channel},
                )
                done(msgspec.structs.replace(result, published=False, data=decode_envelope(envelope).message))
            elif user_id is None:
                done(msgspec.structs.replace(result, delivery=Delivery.REMOTE))
            else:
                delivery = DELIVERIES.get(reply.decode(), Delivery.REMOTE)
                done(
                    msgspec.structs.replace(
                        result, delivery=Delivery.STORED if delivery is Delivery.OFFLINE else delivery
                    )
                )

        if user_id is None:
            self._live.call((self._publish, self._keys.bus_channel_of(channel), envelope), announced)
        else:
            common = (self._keys.settled_at,), (lease, self._keys.bus_channel)
            self._live_scripts.call("announce", ([self._keys.holders(user_id)], [envelope], common), announced)


class _Place:
    """The part that all calls for one channel share; `common`: that of calls with the same lease and `due`."""

    __slots__ = (
        "bus_channel",
        "by_client",
        "common",
        "common_keys",
        "due",
        "is_users",
        "keeps_state",
        "keys",
        "lease",
        "options",
    )

    def __init__(
        self,
        options: Namespace,
        keys: tuple[str, ...],
        common_keys: tuple[str, ...],
        bus_channel: str,
        *,
        is_users: bool,
        by_client: bool,
    ) -> None:
        self.options = options
        self.keeps_state = kind_of(options).keeps_state
        self.keys = keys
        self.common_keys = common_keys
        self.bus_channel = bus_channel
        self.is_users = is_users
        self.by_client = by_client
        self.lease = ""
        self.due = ""
        self.common: Common | None = None


class AppendCalls:
    """Calls of the append script (and of the store script): see `lua/_keep.lua`.

    The shared part of a channel's calls is computed once.
    """

    def __init__(self, keys: Keys, budget: Budget = NO_BUDGET) -> None:
        self._keys = keys
        self._budget = budget
        self._places: dict[str, _Place] = {}  # by channel, for publications of servers ...
        self._client_places: dict[str, _Place] = {}  # ... and of clients

    def of(self, draft: Draft, options: Namespace, lease: str, due: str = "") -> Call:
        """Return the call. `lease`: of the calling replica, '' for a program; `due`: see `lua/_keep.lua`."""
        places = self._client_places if draft.client is not None else self._places
        place = places.get(draft.channel)
        if place is None or place.options is not options:
            place = self._place(draft, options)
        if (common := place.common) is None or place.due != due or place.lease != lease:
            common = self._renew(place, lease, due)
        arguments: list[Argument] = [place.bus_channel, _fields(draft)]
        charge = draft.charge
        keys, key = place.keys, draft.idempotency_key
        if key:
            keys = (*keys, self._keys.idempotency(draft.channel, key, draft.client))
        if key or place.keeps_state or charge is not None:
            arguments.append(draft.message_id if key else "")
        if place.keeps_state:
            update = draft.update or RunUpdate()
            arguments += map(_json_or_nothing, (update.state, update.progress, update.message))
        if charge is not None and draft.client is not None:
            arguments.append(amount(charge))
            keys = (*keys, self._keys.budget(draft.client))
        return keys, arguments, common

    def _place(self, draft: Draft, options: Namespace) -> _Place:
        keys, channel, user_id = self._keys, draft.channel, user_of(draft.channel)
        streams = keys.stream(channel), keys.client_stream(channel)
        names: tuple[str, ...] = (keys.meta(channel), *(streams[::-1] if draft.client is not None else streams))
        common_keys: tuple[str, ...] = ()
        bus_channel = keys.bus_channel_of(channel)
        if user_id is not None:
            names += (keys.holders(user_id),)
            common_keys = keys.settled_at, keys.bus_sequences
            if options.undelivered_after_s > 0:
                common_keys += (keys.untaken,)
            bus_channel = keys.bus_channel
        elif kind_of(options).keeps_state:
            names += (keys.state(channel), keys.tail(channel))
        places = self._client_places if draft.client is not None else self._places
        if len(places) >= MOST_PLACES:
            places.clear()
        place = places[channel] = _Place(
            options, names, common_keys, bus_channel, is_users=user_id is not None, by_client=draft.client is not None
        )
        return place

    def _renew(self, place: _Place, lease: str, due: str) -> Common:
        options = place.options
        may_wait = options.history_ttl_s >= LEAST_TTL_S and not place.keeps_state
        place.lease, place.due = lease, due
        if place.by_client and due:
            due += "c"  # a name of its own: the stream of the other kind may not exist yet
        arguments: list[Argument] = [
            options.history_size,
            int(options.history_ttl_s * 1000),
            due if may_wait else "",
            (lease or "-") if place.is_users else "",
        ]
        if place.keeps_state or place.by_client:
            arguments.append(int(options.final_ttl_s * 1000) if place.keeps_state else "")
        if place.by_client:
            budget = self._budget
            arguments += [budget.messages, budget.size, budget.to_one if place.is_users else 0]
        if place.is_users and options.undelivered_after_s > 0:
            arguments.append(int(options.undelivered_after_s * 1000))
        common = place.common = (place.common_keys, tuple(arguments))
        return common


def _read_answer(draft: Draft, answer: Any) -> AppendResult | BusUnavailable:
    """Like `read_append_answer`, but return an error for an answer that cannot be read: perhaps it is kept."""
    try:
        return read_append_answer(answer, draft)
    except Exception as error:
        logger.exception("the reply of Redis to an append cannot be read")
        return bus_unavailable(InvalidResponse(f"its answer cannot be read: {error!r}"))


def read_append_answer(answer: bytes, draft: Draft) -> AppendResult:
    """Read the answer of the append script."""
    epoch, offset, delivery, *repeated = answer.decode().split(".", 3)
    return AppendResult(
        position=Position(epoch, int(offset)),
        delivery=DELIVERIES[delivery],
        published=delivery != "here",
        message_id=repeated[0] if repeated else draft.message_id,
        data=draft.data,
    )


def _fields(draft: Draft) -> bytes:
    """Return the envelope's fields in the form that the script takes."""
    user_id = user_of(draft.channel)
    envelope = Envelope(
        message=draft.data if draft.update is None else msgspec.Raw(b""),
        target_user_id=user_id,
        channel=None if user_id is not None else draft.channel,
        message_id=draft.message_id,
        sent_at=draft.sent_at,
        sender=draft.sender,
        origin=draft.origin,
        tags=draft.tags,
        author=draft.author,
        node_id=draft.node_id,
    )
    return encode_envelope(envelope)[1 if draft.update is None else len(b'{"message":') :]


def _json_or_nothing(value: str | float | None) -> bytes:
    return b"" if value is None else msgspec.json.encode(value)


def _is_bare(request: ReadRequest) -> bool:
    """Return whether only the channel's position is asked for."""
    return request.after is None and not request.replay and not request.with_state


def _read_result(answer: list[Any]) -> ReadResult:
    epoch, top, complete, found, state, tail = answer
    position = Position(epoch.decode(), top)
    entries = zip(found[::2], found[1::2], strict=True)
    publications = [read_logged(body, Position(position.epoch, offset)) for offset, body in entries]
    kept = None
    if state and state[0] is not None and state[1] is not None:
        kept = RunState(
            state=msgspec.json.decode(state[0]),
            progress=msgspec.json.decode(state[1]),
            logs=[msgspec.json.decode(line) for line in tail],
        )
    return ReadResult(position, bool(complete), publications, kept)
