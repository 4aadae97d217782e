"""The log in this process's memory: for one replica without Redis, with the same promises."""

import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge

from heliograph.clock import Clock
from heliograph.ports import (
    IDEMPOTENCY_TTL_S,
    META_TTL_S,
    PAGE_BYTES,
    READ_TTL_S,
    AppendResult,
    BusSequences,
    Draft,
    OnAppended,
    ReadRequest,
    ReadResult,
)
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.events import Delivery
from heliograph.protocol.kinds.kind import ChannelState
from heliograph.protocol.kinds.registry import kind_of
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication

SWEEP_INTERVAL_S = 10.0


@dataclass
class _Channel:
    epoch: str = field(default_factory=lambda: secrets.token_hex(4))
    top: int = 0
    published: deque[Publication] = field(default_factory=deque)  # by servers
    sent: deque[Publication] = field(default_factory=deque)  # by clients: they do not displace those of servers
    kept_until: float = 0.0  # monotonic seconds
    forgotten_at: float = 0.0  # when epoch and offset are forgotten too
    state: ChannelState | None = None  # of a kind that keeps one
    # Idempotency key and its owner -> expiry and answer, in the order of expiry.
    answers: dict[tuple[str, str | None], tuple[float, AppendResult]] = field(default_factory=dict)

    def forget(self) -> None:
        """Forget what is kept, but not the position."""
        self.published.clear()
        self.sent.clear()
        self.state = None


class MemoryLog:
    """A `Log` for one process, which delivers every publication itself."""

    def __init__(self, clock: Clock, *, page_bytes: int = PAGE_BYTES) -> None:
        self._clock = clock
        self._page_bytes = page_bytes
        self._channels: dict[str, _Channel] = {}
        self._swept_at = clock.monotonic()

    def submit(self, draft: Draft, options: Namespace, lease: str, done: OnAppended) -> None:
        done(self._append(draft, options))

    def _append(self, draft: Draft, options: Namespace) -> AppendResult:
        now = self._clock.monotonic()
        channel = self._channel(draft.channel)
        if draft.idempotency_key and (repeated := _answered(channel, draft, now)) is not None:
            return repeated
        channel.top += 1
        position = Position(channel.epoch, channel.top)
        kind, data = kind_of(options), draft.data
        if draft.update is not None:
            channel.state, data = kind.reduce(channel.state, draft.update)
        kept = channel.sent if draft.client is not None else channel.published
        kept.append(draft.publication(data, position))
        while len(kept) > options.history_size:
            kept.popleft()
        has_ended = kind.has_ended(channel.state)
        channel.kept_until = now + (options.final_ttl_s if has_ended else options.history_ttl_s)
        channel.forgotten_at = channel.kept_until + META_TTL_S
        result = AppendResult(position, Delivery.STORED, published=False, message_id=draft.message_id, data=data)
        if draft.idempotency_key:
            channel.answers[draft.idempotency_key, draft.client] = (now + IDEMPOTENCY_TTL_S, result)
        return result

    async def read(self, requests: Sequence[ReadRequest]) -> list[ReadResult]:
        return [self._read(request) for request in requests]

    async def remove(self, channel: str) -> None:
        if (known := self._channels.get(channel)) is not None:
            known.forget()

    async def tops(self, channels: Sequence[str]) -> list[Position | None]:
        return [
            Position(known.epoch, known.top) if (known := self._channels.get(name)) is not None else None
            for name in channels
        ]

    async def listen(self, channels: Mapping[str, float]) -> None:
        now = self._clock.monotonic()
        for name, seconds in channels.items():
            if (channel := self._channels.get(name)) is not None and channel.top == 0:
                channel.forgotten_at = max(channel.forgotten_at, now + seconds)

    def kept_channels(self) -> list[str]:
        """Return the names of channels of which publications are kept."""
        now = self._clock.monotonic()
        return [
            name
            for name, channel in self._channels.items()
            if channel.kept_until > now and (channel.published or channel.sent)
        ]

    async def bus_sequences(self) -> BusSequences:
        return BusSequences(0, 0)

    def _read(self, request: ReadRequest) -> ReadResult:
        channel = self._channel(request.channel)
        position = Position(channel.epoch, channel.top)
        state = channel.state if request.with_state else None
        after = request.after
        if after is None and not request.replay:
            return ReadResult(position, complete=True, publications=[], state=state)
        kept = list(merge(channel.published, channel.sent, key=_offset))
        # A log begins a new epoch only after it was forgotten, so it keeps only the present epoch.
        if after is None or after.epoch != channel.epoch or after.offset > channel.top:
            return ReadResult(position, after is None, self._page(kept, request.limit), state)
        found = [each for each in kept if _offset(each) > after.offset]
        page = self._page(found, request.limit)
        last = _offset(page[-1]) if page else after.offset
        complete = last == after.offset + len(page) and (len(page) < len(found) or last == channel.top)
        return ReadResult(position, complete, page, state)

    def _page(self, publications: list[Publication], limit: int) -> list[Publication]:
        """Return the first publications that fit, at least one."""
        size = 0
        for index, each in enumerate(publications[:limit]):
            size += len(each.data)
            if index and size > self._page_bytes:
                return publications[:index]
        return publications[:limit]

    def _channel(self, name: str) -> _Channel:
        """Return the channel, without parts that have expired."""
        now = self._clock.monotonic()
        channel = self._channels.get(name)
        if channel is None or channel.forgotten_at <= now:
            self._sweep(now)
            channel = self._channels[name] = _Channel(forgotten_at=now + READ_TTL_S)
        elif channel.kept_until <= now and (channel.published or channel.sent):
            channel.forget()
        return channel

    def _sweep(self, now: float) -> None:
        """Forget expired channels. A new channel triggers it now and then."""
        if now < self._swept_at + SWEEP_INTERVAL_S:
            return
        self._swept_at = now
        for name in [name for name, channel in self._channels.items() if channel.forgotten_at <= now]:
            del self._channels[name]


def _answered(channel: _Channel, draft: Draft, now: float) -> AppendResult | None:
    """Return the answer to the first publication with this key; forget expired answers."""
    answers = channel.answers
    while answers and next(iter(answers.values()))[0] <= now:
        del answers[next(iter(answers))]
    found = answers.get((draft.idempotency_key or "", draft.client))
    return None if found is None else found[1]


def _offset(publication: Publication) -> int:
    return 0 if publication.position is None else publication.position.offset
