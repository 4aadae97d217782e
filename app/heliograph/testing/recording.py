"""Publishers that send nothing and record their publications, for tests without a server.

    publisher = RecordingPublisher()
    pay(order, publisher)
    assert publisher.data("#bob") == [{"order": 7, "paid": True}]

Otherwise they behave like the real ones: the same checks, errors, positions and idempotency.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from heliograph.client.drafts import Published, check_run_id
from heliograph.client.publisher import AsyncPublisher, Publisher
from heliograph.client.retrying import Failure
from heliograph.client.transport import AsyncTransport, Transport
from heliograph.errors import HeliographError
from heliograph.ports import Draft
from heliograph.protocol.channel_options import Namespace

EPOCH: Final = "recorded"
_UNUSED: Final = "redis://localhost"  # never connected to


@dataclass(frozen=True, slots=True)
class Recorded:
    """One publication: its data as a client would get it, or an update of a run with the given fields only."""

    channel: str
    data: Any
    idempotency_key: str | None
    place: Published


class _Recorder:
    server = "the recorder"
    failures: tuple[type[Exception], ...] = ()

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self.error: HeliographError | None = None
        self._by_key: dict[tuple[str, str | None], Published] = {}
        self._offsets: dict[str, int] = {}

    def record(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        if self.error is not None:
            raise self.error
        return [self._record_one(draft, kept=kept) for draft in drafts]

    @staticmethod
    def failure(error: Exception) -> Failure:
        raise AssertionError(f"a recorder has no failures, so this is none: {error!r}")

    def renew_in_child(self) -> None:
        """Nothing here is tied to a process."""

    def _record_one(self, draft: Draft, *, kept: bool) -> Published:
        key = (draft.channel, draft.idempotency_key)
        if kept and key in self._by_key:
            return self._by_key[key]
        place = Published(draft.channel, draft.message_id, None, 0)
        if kept:
            offset = self._offsets[draft.channel] = self._offsets.get(draft.channel, 0) + 1
            place = self._by_key[key] = Published(draft.channel, draft.message_id, EPOCH, offset)
        data = msgspec.json.decode(draft.data)
        if draft.update is not None:
            fields = msgspec.structs.asdict(draft.update)
            data = {name: value for name, value in fields.items() if value is not None}
        self.recorded.append(Recorded(draft.channel, data, draft.idempotency_key, place))
        return place


class _RecordingTransport(_Recorder):
    def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        return self.record(drafts, kept=kept)

    def close(self) -> None:
        """There is nothing to close."""


class _AsyncRecordingTransport(_Recorder):
    async def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        return self.record(drafts, kept=kept)

    async def close(self) -> None:
        """There is nothing to close."""


class _Recordings:
    _recorder: _Recorder

    @property
    def recorded(self) -> list[Recorded]:
        """Return all publications in order, without repetitions that had the same idempotency key."""
        return list(self._recorder.recorded)

    def data(self, channel: str) -> list[Any]:
        """Return the data that was published on one channel, in order."""
        return [each.data for each in self._recorder.recorded if each.channel == channel]

    def clear(self) -> None:
        """Forget the publications; positions and idempotency keys stay known."""
        self._recorder.recorded.clear()

    def fail_with(self, error: HeliographError | None) -> None:
        """Let each call raise this error from now on, such as `PublishError("Redis is away")`; None: stop."""
        self._recorder.error = error


class RecordingPublisher(_Recordings, Publisher):
    """Stand-in for a `Publisher`. `leased`: the runs whose leases were renewed and not released."""

    def __init__(self, *, namespaces: Mapping[str, Namespace] | None = None) -> None:
        self._recorder = self._transport_for_tests = _RecordingTransport()
        self.leased: set[str] = set()
        super().__init__(_UNUSED, durable_url="", prefix="", bus_channel="events", namespaces=namespaces or {})

    def _make_transport(self) -> Transport:
        return self._transport_for_tests

    def lease_runs(self, run_ids: Sequence[str], ttl_s: float) -> None:
        for run_id in run_ids:
            check_run_id(run_id)
        self.leased.update(run_ids)

    def release_run(self, run_id: str) -> None:
        self.leased.discard(run_id)

    def reap_lost_runs(self) -> int:
        return 0


class AsyncRecordingPublisher(_Recordings, AsyncPublisher):
    """Stand-in for an `AsyncPublisher`."""

    def __init__(self, *, namespaces: Mapping[str, Namespace] | None = None) -> None:
        self._recorder = self._transport_for_tests = _AsyncRecordingTransport()
        super().__init__(_UNUSED, durable_url="", prefix="", bus_channel="events", namespaces=namespaces or {})

    def _make_transport(self) -> AsyncTransport:
        return self._transport_for_tests
