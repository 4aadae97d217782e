"""The tracer provider of a replica, set up by the variables that OpenTelemetry has for all programs.

`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_EXPORTER`, `OTEL_EXPORTER_OTLP_…`
and `OTEL_BSP_…` mean here what they mean everywhere.
"""

import os
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points, version
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from heliograph.errors import BadSetting

_EXPORTERS: Final = "opentelemetry_traces_exporter"  # the entry points of installed exporters
_BY_PROTOCOL: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def tracer_provider(replica: str) -> tuple[trace.TracerProvider, Callable[[], object]]:
    """Return the process's provider, or else one for this replica; and what has its last spans exported.

    Raises:
        BadSetting: an exporter is not installed.
    """
    present = trace.get_tracer_provider()
    if isinstance(present, TracerProvider):  # of `opentelemetry-instrument`, or of the program around this replica
        return present, present.force_flush
    about = {"service.name": "heliograph", "service.version": version("heliograph"), "service.instance.id": replica}
    resource = Resource.create(about).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # the replica does so while it stops
    for exporter in _exporters():
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider, provider.shutdown


def _exporters() -> Iterator[SpanExporter]:
    for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
        name = name.strip() or "otlp"
        if name == "none":
            continue
        if name == "otlp":
            protocol = (
                os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
                or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
                or "http/protobuf"
            )
            name = _BY_PROTOCOL.get(protocol.strip(), protocol)
        found = next(iter(entry_points(group=_EXPORTERS, name=name)), None)
        if found is None:
            there = ", ".join(sorted({each.name for each in entry_points(group=_EXPORTERS)}))
            text = f"OTEL_TRACES_EXPORTER: no exporter {name!r} is installed; there are: {there or 'none'}"
            raise BadSetting(text)
        exporter: SpanExporter = found.load()()
        yield exporter
