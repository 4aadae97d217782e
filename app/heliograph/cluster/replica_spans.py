"""The spans of a replica: a message is published, appended to its log, and delivered here.

Only what comes with a sampled `traceparent` has spans: a trace begins with the program that publishes. They are few
beside all messages, so what they cost does not matter here; what a message without one costs does.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import time_ns
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, TracerProvider

from heliograph.ports import AppendResult, Draft
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.publication import Publication
from heliograph.spans import (
    SCOPE,
    Attributes,
    attributes_of,
    begin_publish,
    context_in,
    current_context,
    end,
    fail,
    name_of,
)

logger = logging.getLogger(__name__)

STOP_S: Final = 5.0  # how long the exporter may take for the last spans


class PublishTags(dict[str, str]):
    """The tags of a message that this replica publishes, and the span of that."""

    __slots__ = ("began_at", "span")

    def __init__(self, tags: Mapping[str, str], span: Span) -> None:
        super().__init__(tags)
        self.span = span
        self.began_at = time_ns()


class ReplicaSpans:
    """Make the spans of one replica; see `hub/span_trace.py`.

    `log`: what keeps messages, as OpenTelemetry calls it. `connections`: how many connections here a publication
    goes to. `flush`: has everything exported that was made; it may take long.
    """

    def __init__(
        self,
        provider: TracerProvider,
        replica: str,
        log: Attributes,
        connections: Callable[[Publication], int],
        flush: Callable[[], object],
    ) -> None:
        self._tracer = provider.get_tracer(SCOPE)
        self._about: Attributes = {"messaging.client.id": replica}
        self._log = log
        self._connections = connections
        self._flush = flush
        self._delivering: list[Span] = []

    # -- publishing

    def publish(self, channel: str, size: int, tags: Mapping[str, str] | None) -> PublishTags | None:
        """Begin the span of publishing, if the request or the message is part of a recorded trace.

        Return the tags for the message; None if there is no span.
        """
        parent = current_context()
        if parent is None and context_in(tags) is None:
            return None
        attributes: Attributes = {"messaging.message.body.size": size, **self._about}
        span, tags = begin_publish(self._tracer, channel, parent, tags, attributes)
        return PublishTags(tags, span) if span.is_recording() else None

    def appended(self, draft: Draft, answer: AppendResult) -> None:
        tags = draft.tags
        if isinstance(tags, PublishTags):
            tags.span.set_attribute("messaging.message.id", answer.message_id)
            span = self._append(draft, tags)
            span.set_attributes(
                {
                    "heliograph.position.epoch": answer.position.epoch,
                    "heliograph.position.offset": answer.position.offset,
                    "heliograph.delivery": answer.delivery.value if answer.published else "here",
                    "heliograph.repeated": answer.message_id != draft.message_id,
                }
            )
            span.end()

    def relayed(self, envelope: Envelope) -> None:
        if isinstance(envelope.tags, PublishTags):
            envelope.tags.span.set_attribute("messaging.message.id", envelope.message_id or "")

    def refused(self, draft: Draft, why: str) -> None:
        if isinstance(draft.tags, PublishTags):
            span = self._append(draft, draft.tags)
            fail(span, "refused", why)
            span.end()

    def _append(self, draft: Draft, tags: PublishTags) -> Span:
        return self._tracer.start_span(
            name_of("append", draft.channel),
            trace.set_span_in_context(tags.span, Context()),
            SpanKind.CLIENT,
            {"messaging.destination.name": draft.channel, **self._about, **self._log},
            start_time=tags.began_at,
        )

    # -- delivering

    def delivered(self, publication: Publication) -> None:
        context = context_in(publication.tags)
        if context is None:
            return
        attributes = attributes_of("deliver", "process", publication.channel, publication.message_id)
        attributes["messaging.message.body.size"] = len(publication.data)
        attributes["heliograph.connections"] = self._connections(publication)
        if publication.position is not None:
            attributes["heliograph.position.epoch"] = publication.position.epoch
            attributes["heliograph.position.offset"] = publication.position.offset
        span = self._tracer.start_span(
            name_of("deliver", publication.channel), context, SpanKind.CONSUMER, {**attributes, **self._about}
        )
        if not self._delivering:
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._delivering.append(span)

    def _hand_over(self) -> None:
        """Wait for the end of this event-loop iteration, in which the outboxes are written."""
        asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        delivering, self._delivering = self._delivering, []
        for span in delivering:
            end(span)

    # -- life

    async def stop(self) -> None:
        """Have the last spans exported, if whoever receives them answers in time."""
        self._end()
        is_flushed, loop = asyncio.Event(), asyncio.get_running_loop()

        def flush() -> None:
            try:
                self._flush()
            except Exception as error:  # noqa: BLE001 - an exporter may raise anything
                logger.warning("the last spans were not exported: %s", error)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(is_flushed.set)

        # A thread that nobody waits for at the end of the process: the exporter may try for long.
        threading.Thread(target=flush, name="flush-spans", daemon=True).start()
        try:
            async with asyncio.timeout(STOP_S):
                await is_flushed.wait()
        except TimeoutError:
            logger.warning("the last spans were not exported within %g s", STOP_S)
