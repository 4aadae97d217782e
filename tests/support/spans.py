"""Spans that are kept in memory, and the contexts that the tests' own programs come with."""

from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
RECORDED, NOT_RECORDED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
# What W3C has a receiver ignore.
WRONG = ("", "nonsense", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01")

_EXPORTER = InMemorySpanExporter()


class Spans:
    """What has been exported since this began. The process has one provider, which can be set once."""

    def __init__(self) -> None:
        if not isinstance(trace.get_tracer_provider(), TracerProvider):
            provider = TracerProvider(sampler=ParentBased(ALWAYS_ON))
            provider.add_span_processor(SimpleSpanProcessor(_EXPORTER))
            trace.set_tracer_provider(provider)
        _EXPORTER.clear()

    def clear(self) -> None:
        _EXPORTER.clear()

    def all(self) -> Sequence[ReadableSpan]:
        return _EXPORTER.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """The spans with this name, by the replica that made them."""
        found = [each for each in self.all() if each.name == name]
        return sorted(found, key=lambda each: str((each.attributes or {}).get("messaging.client.id")))


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def parent_id(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def about(span: ReadableSpan, *names: str) -> list[object]:
    """The attributes with these names."""
    return [(span.attributes or {}).get(name) for name in names]
