"""The log in Redis: a stream for each channel, written by one script that also publishes."""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from app.backends.keys import Keys
from app.backends.protocols import IDEMPOTENCY_TTL_S, META_TTL_S, Appended, Draft, Opened, Opening
from app.backends.redis_client import as_bus_unavailable
from app.backends.scripts import Argument, Scripts
from app.errors import BusUnavailable
from app.protocol.envelope import decode_envelope, read_logged
from app.protocol.events import Delivery
from app.protocol.identity import user_of
from app.protocol.position import Position
from app.protocol.run import TAIL_SIZE, RunState, RunUpdate
from app.settings import Namespace

logger = logging.getLogger("heliograph.log")

_READ_NOTHING, _READ_ALL = -1, -2
TOPS_BATCH = 500  # channels in one command: short enough not to hold up Redis


class RedisLog:
    """A `Log` in Redis. `bus_channel` is the shared one, on which publications for users go out."""

    def __init__(self, client: Redis, scripts: Scripts, keys: Keys, bus_channel: str) -> None:
        self._redis = client
        self._scripts = scripts
        self._keys = keys
        self._bus_channel = bus_channel

    async def append(self, draft: Draft, options: Namespace, lease: str) -> Appended:
        with as_bus_unavailable():
            answer = await self._scripts.run(
                "append", *append_call(self._keys, self._bus_channel, draft, options, lease)
            )
        return read_appended(answer, draft)

    async def open(self, openings: Sequence[Opening]) -> list[Opened]:
        calls = [self._open_call(opening) for opening in openings]
        with as_bus_unavailable():
            answers = await self._scripts.run_many("open", calls)
        return [_opened(opening, answer) for opening, answer in zip(openings, answers, strict=True)]

    async def tops(self, channels: Sequence[str]) -> list[Position | None]:
        batches = [channels[i : i + TOPS_BATCH] for i in range(0, len(channels), TOPS_BATCH)]
        with as_bus_unavailable():
            answers = await self._scripts.run_many(
                "tops", [(list(map(self._keys.meta, batch)), ()) for batch in batches]
            )
        flat = [part for answer in answers for part in answer]
        return [
            Position(epoch.decode(), top) if epoch else None for epoch, top in zip(flat[::2], flat[1::2], strict=True)
        ]

    async def bus_sequence(self) -> int:
        with as_bus_unavailable():
            return int(await self._redis.get(self._keys.bus_sequence) or 0)

    def _open_call(self, opening: Opening) -> tuple[list[str], list[Argument]]:
        channel, keys = opening.channel, self._keys
        if opening.after is not None:
            epoch, offset = opening.after
        else:
            epoch, offset = "", _READ_ALL if opening.replay else _READ_NOTHING
        return [keys.meta(channel), keys.stream(channel), keys.state(channel), keys.tail(channel)], [
            new_epoch(),
            META_TTL_S * 1000,
            epoch,
            offset,
            opening.limit,
            "1" if opening.with_run else "",
        ]


class TwoServerLog(RedisLog):
    """A `Log` on a durable server, announced on the live one, where the bus and the directory are.

    No script spans two servers, so there are two steps. First the durable server keeps the publication and counts it
    (the bus sequence lives there too: what was kept and never announced is missing from the count, and the heartbeat
    finds that). Then the live server announces it to every replica. If the second step fails, the publication stands:
    this replica delivers it at once, the others read it from the log with their next heartbeat. If the first step
    fails, nothing has happened anywhere.

    Concurrent publications may be announced out of order; replicas then read the log once more.
    """

    def __init__(self, durable: Redis, keys: Keys, bus_channel: str, *, live: Redis, live_scripts: Scripts) -> None:
        super().__init__(durable, Scripts(durable), keys, bus_channel)
        self._live = live
        self._live_scripts = live_scripts

    async def append(self, draft: Draft, options: Namespace, lease: str) -> Appended:
        with as_bus_unavailable():
            answer = await self._scripts.run(
                "store", *append_call(self._keys, self._bus_channel, draft, options, lease)
            )
        appended = read_appended(answer[:5], draft)
        if len(answer) == 5:
            return appended  # a repetition
        envelope: bytes = answer[5]
        try:
            delivery = await self._announce(draft.channel, envelope, lease)
        except BusUnavailable as error:
            about = {"channel": draft.channel}
            logger.warning("%d is kept but not announced: %s", appended.position.offset, error, extra=about)
            return replace(appended, published=False, data=decode_envelope(envelope).message)
        return replace(appended, delivery=delivery)

    async def _announce(self, channel: str, envelope: bytes, lease: str) -> Delivery:
        user_id = user_of(channel)
        with as_bus_unavailable():
            if user_id is None:
                await self._live.publish(f"{self._bus_channel}:{channel}", envelope)
                return Delivery.REMOTE
            keys = [self._keys.holders(user_id), self._keys.settled_at]
            reach = await self._live_scripts.run("announce", keys, [lease, self._bus_channel, envelope])
        delivery = Delivery(_text(reach))
        return Delivery.STORED if delivery is Delivery.OFFLINE else delivery


def append_call(
    keys: Keys, bus_channel: str, draft: Draft, options: Namespace, lease: str
) -> tuple[list[str], list[Argument]]:
    """Keys and arguments of the append script; publishers outside of the cluster call it too."""
    channel = draft.channel
    user_id = user_of(channel)
    update = draft.update or RunUpdate()
    return [
        keys.meta(channel),
        keys.stream(channel),
        keys.idempotency(channel, draft.idempotency_key or ""),
        keys.holders(user_id or ""),
        keys.settled_at,
        keys.bus_sequence,
        keys.state(channel),
        keys.tail(channel),
    ], [
        new_epoch(),
        options.history_size,
        int(options.history_ttl_s * 1000),
        META_TTL_S * 1000,
        IDEMPOTENCY_TTL_S * 1000 if draft.idempotency_key else 0,
        bus_channel if user_id is not None else f"{bus_channel}:{channel}",
        lease,
        "1" if user_id is not None else "",
        draft.message_id,
        _head(draft),
        b"" if draft.update is not None else bytes(draft.data),
        _json_or_nothing(update.state),
        _json_or_nothing(update.progress),
        _json_or_nothing(update.message),
        TAIL_SIZE,
        int(options.final_ttl_s * 1000),
    ]


def read_appended(answer: list[Any], draft: Draft) -> Appended:
    """What the append script has answered."""
    epoch, offset, delivery, published, message_id = answer
    position = Position(_text(epoch), int(offset))
    return Appended(position, Delivery(_text(delivery)), bool(published), _text(message_id), draft.data)


def new_epoch() -> str:
    """A name for a log that begins, unlike any before it."""
    return secrets.token_hex(4)


def _head(draft: Draft) -> bytes:
    """The envelope's fields but for the message, as JSON without braces: the script puts the rest around it."""
    user_id = user_of(draft.channel)
    fields = {
        "target_user_id": user_id,
        "channel": None if user_id is not None else draft.channel,
        "message_id": draft.message_id,
        "sent_at": draft.sent_at,
        "from": draft.sender,
        "origin": draft.origin,
        "node_id": draft.node_id,
    }
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})[1:-1]


def _json_or_nothing(value: str | float | None) -> bytes:
    return b"" if value is None else msgspec.json.encode(value)


def _opened(opening: Opening, answer: list[object]) -> Opened:
    epoch, top, complete, found, state, tail = cast(
        "tuple[bytes, int, int, list[object], list[bytes | None], list[bytes]]", answer
    )
    position = Position(epoch.decode(), top)
    entries = cast("list[tuple[int, bytes]]", list(zip(found[::2], found[1::2], strict=True)))
    publications = [read_logged(body, Position(position.epoch, offset)) for offset, body in entries]
    run = None
    if state and state[0] is not None and state[1] is not None:
        run = RunState(
            state=msgspec.json.decode(state[0]),
            progress=msgspec.json.decode(state[1]),
            logs=[msgspec.json.decode(line) for line in tail],
        )
    return Opened(position, bool(complete), publications, run)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
