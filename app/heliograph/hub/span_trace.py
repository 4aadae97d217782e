"""What becomes of traced messages on this replica, told to OpenTelemetry; and noted as without it.

It takes the place of the `Trace` that notes, once, where the replica is built: without spans nothing is different.
"""

import logging
from typing import TYPE_CHECKING, Final, Protocol

from heliograph.hub.trace import PassingTrace, Trace

if TYPE_CHECKING:
    from heliograph.ports import AppendResult, Draft
    from heliograph.protocol.envelope import Envelope
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


class SpanTrace(PassingTrace):
    """Tell `spans` of messages with tags. An error there stops no message."""

    def __init__(self, inner: Trace, spans: Spans) -> None:
        super().__init__(inner)
        self._spans = spans

    def accepted(self, draft: "Draft", answer: "AppendResult") -> None:
        super().accepted(draft, answer)
        if draft.tags is not None:
            try:
                self._spans.appended(draft, answer)
            except Exception:
                logger.exception(FAILED)

    def relayed(self, envelope: "Envelope", taken: int) -> None:
        super().relayed(envelope, taken)
        if envelope.tags is not None:
            try:
                self._spans.relayed(envelope)
            except Exception:
                logger.exception(FAILED)

    def refused(self, draft: "Draft", why: str) -> None:
        super().refused(draft, why)
        if draft.tags is not None:
            try:
                self._spans.refused(draft, why)
            except Exception:
                logger.exception(FAILED)

    def delivered(self, publication: "Publication") -> None:
        super().delivered(publication)
        if publication.tags is not None:
            try:
                self._spans.delivered(publication)
            except Exception:
                logger.exception(FAILED)
