"""The spans of a publisher or a consumer, made with the tracer provider that the program has set up."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import msgspec
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from heliograph.ports import Draft
from heliograph.protocol.traceparent import TRACEPARENT, TRACESTATE
from heliograph.spans import SCOPE, Attributes, attributes_of, begin_publish, context_in, current_context

if TYPE_CHECKING:
    from heliograph.backends.redis.streams import StreamEntry


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
        span, tags = begin_publish(self._tracer, first.channel, current_context(), first.tags, attributes)
        with trace.use_span(span, end_on_exit=True):
            try:
                yield [msgspec.structs.replace(draft, tags=tags or None) for draft in drafts]
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                raise

    def processing(self, stream: str, group: str, entry: "StreamEntry") -> AbstractContextManager[Span]:
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
        return self._tracer.start_as_current_span(
            f"process {stream}", context_in(carrier), SpanKind.CONSUMER, attributes
        )
