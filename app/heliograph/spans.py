"""Spans of messages, by the messaging conventions of OpenTelemetry: names, attributes, and contexts in tags.

It needs the package opentelemetry-api (the extra `otel`), so that nothing imports it before spans are switched on.

A context travels with a message in its tags `traceparent` and `tracestate`. Only a sampled one does: what is not
recorded anywhere costs no message a byte.
"""

import logging
from collections.abc import Mapping
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from heliograph.protocol.identity import user_of
from heliograph.protocol.traceparent import TRACEPARENT, is_sampled

logger = logging.getLogger(__name__)

SCOPE: Final = "heliograph"

Attributes = dict[str, AttributeValue]

_TRACE_CONTEXT: Final = TraceContextTextMapPropagator()


def context_in(carrier: Mapping[str, str] | None) -> Context | None:
    """Return the context in tags or headers; None if there is none, or its trace is not recorded."""
    if carrier is None or not is_sampled(carrier.get(TRACEPARENT, "")):
        return None
    return _TRACE_CONTEXT.extract(carrier, Context())


def current_context() -> Context | None:
    """Return the context of what runs now; None if that is in no trace, or in one that is not recorded."""
    context = trace.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return None
    return trace.set_span_in_context(trace.NonRecordingSpan(context), Context())


def with_context(tags: Mapping[str, str] | None, span: Span) -> dict[str, str]:
    """Return the tags with the span's context, if it is recorded."""
    found = dict(tags or {})
    if span.get_span_context().trace_flags.sampled:
        _TRACE_CONTEXT.inject(found, trace.set_span_in_context(span, Context()))
    return found


def attributes_of(operation: str, kind: str, channel: str, message_id: str = "") -> Attributes:
    """Return what describes an operation on a channel. `kind`: the type of operation that the conventions know."""
    found: Attributes = {
        "messaging.system": SCOPE,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": channel,
    }
    if (template := template_of(channel)) is not None:
        found["messaging.destination.template"] = template
    if message_id:
        found["messaging.message.id"] = message_id
    return found


def name_of(operation: str, channel: str) -> str:
    """Return the name of a span, which is the same for all users, and for all channels of a namespace."""
    return f"{operation} {template_of(channel) or channel}"


def template_of(channel: str) -> str | None:
    """Return what stands for all channels of this kind; None: this one stands for itself."""
    if user_of(channel) is not None:
        return "#{user}"
    namespace, colon, _ = channel.partition(":")
    return f"{namespace}:{{name}}" if colon else None


def begin_publish(
    tracer: Tracer, channel: str, parent: Context | None, tags: Mapping[str, str] | None, attributes: Attributes
) -> tuple[Span, dict[str, str]]:
    """Begin the span of publishing, and return it with the tags for the message.

    The message belongs to the context in `tags`, if its author has put one there; otherwise to this span.
    """
    creation = context_in(tags)
    links = [] if creation is None else [Link(trace.get_current_span(creation).get_span_context())]
    span = tracer.start_span(
        name_of("publish", channel),
        parent or creation,
        SpanKind.PRODUCER if creation is None else SpanKind.CLIENT,
        {**attributes_of("publish", "send", channel), **attributes},
        links,
    )
    return span, with_context(tags, span) if creation is None else dict(tags or {})


def end(span: Span) -> None:
    """End a span. An error of what the program does with it is logged, and stops nothing."""
    try:
        span.end()
    except Exception:
        logger.exception("a span could not be ended")


def fail(span: Span, error_type: str, why: str) -> None:
    """Note on a span that what it is of has failed."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, why))
