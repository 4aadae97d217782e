"""What becomes of traced messages on this replica, told to OpenTelemetry; and noted as without it.

It takes the place of the `Trace` that notes, once, where the replica is built: without spans nothing is different.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from heliograph.hub.trace import Trace

if TYPE_CHECKING:
    from heliograph.ports import AppendResult, Draft
    from heliograph.protocol.envelope import Envelope
    from heliograph.protocol.position import Position
    from heliograph.protocol.publication import Publication

logger = logging.getLogger(__name__)

FAILED: Final = "a span of a message was not made, because of an unexpected error"


class Spans(Protocol):
    """What makes spans. It gets messages with tags only: an untraced one has no `traceparent` among them, or none."""

    def appended(self, draft: "Draft", answer: "AppendResult") -> None:
        """A message is kept."""

    def relayed(self, envelope: "Envelope") -> None:
        """A message that is not kept was delivered here, and goes to other replicas."""

    def refused(self, draft: "Draft", why: str) -> None:
        """A message was not accepted, or nobody knows."""

    def delivered(self, publication: "Publication") -> None:
        """A message goes to the connections here."""


class SpanTrace(Trace):
    """Note everything in `notes`, and tell `spans` of messages with tags. An error there stops no message."""

    def __init__(self, notes: Trace, spans: Spans) -> None:
        self._notes = notes
        self._spans = spans

    def accepted(self, draft: "Draft", answer: "AppendResult") -> None:
        self._notes.accepted(draft, answer)
        if draft.tags is not None:
            try:
                self._spans.appended(draft, answer)
            except Exception:
                logger.exception(FAILED)

    def relayed(self, envelope: "Envelope", taken: int) -> None:
        self._notes.relayed(envelope, taken)
        if envelope.tags is not None:
            try:
                self._spans.relayed(envelope)
            except Exception:
                logger.exception(FAILED)

    def refused(self, draft: "Draft", why: str) -> None:
        self._notes.refused(draft, why)
        if draft.tags is not None:
            try:
                self._spans.refused(draft, why)
            except Exception:
                logger.exception(FAILED)

    def delivered(self, publication: "Publication") -> None:
        self._notes.delivered(publication)
        if publication.tags is not None:
            try:
                self._spans.delivered(publication)
            except Exception:
                logger.exception(FAILED)

    # -- what is of no message

    def gap(self, channel: str, after: "Position", next_offset: int) -> None:
        self._notes.gap(channel, after, next_offset)

    def repaired(self, channel: str, after: "Position", up_to: "Position") -> None:
        self._notes.repaired(channel, after, up_to)

    def lost(self, channel: str, continues_at: "Position") -> None:
        self._notes.lost(channel, continues_at)

    def connected(self, connection: str, user: str, device: str) -> None:
        self._notes.connected(connection, user, device)

    def disconnected(self, connection: str, user: str, device: str, code: int) -> None:
        self._notes.disconnected(connection, user, device, code)

    def joined(
        self,
        connection: str,
        user: str,
        channel: str,
        position: "Position",
        since: "Position | None",
        recovered: bool,
    ) -> None:
        self._notes.joined(connection, user, channel, position, since, recovered)

    def caught_up(self, connection: str, user: str, channel: str, first: "Position", last: "Position") -> None:
        self._notes.caught_up(connection, user, channel, first, last)

    def subscribed(self, connection: str, user: str, channel: str, position: "Position | None") -> None:
        self._notes.subscribed(connection, user, channel, position)

    def unsubscribed(self, connection: str, user: str, channel: str) -> None:
        self._notes.unsubscribed(connection, user, channel)

    def paused(self, connection: str) -> None:
        self._notes.paused(connection)

    def resumed(self, connection: str) -> None:
        self._notes.resumed(connection)

    def ended(self, connection: str, frames: Sequence[Any], buffered: int = 0) -> None:
        self._notes.ended(connection, frames, buffered)
