"""The spans of a publisher or a consumer, made with the tracer provider that the program has set up.

An error in what that does with spans stops nothing: a message goes out, and an entry is handled, without one.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from heliograph.ports import Draft
from heliograph.protocol.traceparent import TRACEPARENT, TRACESTATE
from heliograph.spans import SCOPE, Attributes, attributes_of, begin_publish, context_in, current_context, end

if TYPE_CHECKING:
    from heliograph.backends.redis.streams import StreamEntry

logger = logging.getLogger(__name__)

NOT_MADE: Final = "a span could not be made; what it is of goes on without one"


class OtelSpans:
    """The `ClientSpans`."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer(SCOPE)

    @contextmanager
    def publishing(self, drafts: Sequence[Draft]) -> Iterator[Sequence[Draft]]:
        """Publish in a span. All drafts of a call are for one channel, and belong to it."""
        first = drafts[0]
        attributes: Attributes = {"messaging.message.body.size": sum(len(draft.data) for draft in drafts)}
        if len(drafts) == 1:
            attributes["messaging.message.id"] = first.message_id
        else:
            attributes["messaging.batch.message_count"] = len(drafts)
        try:
            span, tags = begin_publish(self._tracer, first.channel, current_context(), first.tags, attributes)
        except Exception:
            logger.exception(NOT_MADE)
            yield drafts
            return
        with _current(span):
            try:
                yield [msgspec.structs.replace(draft, tags=tags or None) for draft in drafts]
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                raise

    @contextmanager
    def processing(self, stream: str, group: str, entry: "StreamEntry") -> Iterator[None]:
        """Handle an entry in a span, in the trace of its author if it names one."""
        attributes = attributes_of("process", "process", stream, entry.id)
        attributes["messaging.consumer.group.name"] = group
        attributes["messaging.destination.partition.id"] = str(entry.shard)
        attributes["heliograph.deliveries"] = entry.deliveries
        carrier = {
            name: entry.fields[name].decode(errors="replace")
            for name in (TRACEPARENT, TRACESTATE)
            if name in entry.fields
        }
        try:
            span = self._tracer.start_span(f"process {stream}", context_in(carrier), SpanKind.CONSUMER, attributes)
        except Exception:
            logger.exception(NOT_MADE)
            yield
            return
        with _current(span):
            yield


@contextmanager
def _current(span: Span) -> Iterator[None]:
    """Run in a span, and end it."""
    try:
        with trace.use_span(span):
            yield
    finally:
        end(span)
