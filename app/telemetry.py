"""What a replica counts. Plain integers that cost nothing to raise; Prometheus reads them when it asks."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(slots=True)
class BusStats:
    """Counted by the PubSubManager since it was made."""

    received: int = 0  # envelopes that came, and were handed to the handler unless they were this replica's own
    malformed: int = 0  # payloads that were no envelope
    handler_errors: int = 0  # envelopes on which the handler raised
    published: int = 0  # envelopes that Redis took, sent to other replicas or found to be needless
    publish_errors: int = 0  # envelopes that Redis did not take, or not in time
    connection_losses: int = 0  # times the listening connection had to be built anew
    resubscriptions: int = 0  # times a subscription began after the first: anything may have been missed before


@dataclass(slots=True)
class Telemetry:
    """All counters of one replica."""

    bus: BusStats = field(default_factory=BusStats)
    messages_in: int = 0  # operations read from clients
    messages_out: int = 0  # messages handed to connections
    bad_frames: int = 0  # frames of clients that were no operation
    slow_closes: int = 0  # connections closed because they did not read
    connections_refused: int = 0  # by a limit or while draining
    repairs: int = 0  # ranges of a channel that were read from the log because the bus had not brought them
    unfilled_gaps: int = 0  # ranges that the log did not have any more either; clients were told

    def render(self, gauges: dict[str, Callable[[], float]]) -> bytes:
        """Everything in Prometheus' text format. `gauges`: what is measured at this moment, by name."""
        registry = CollectorRegistry()
        registry.register(_Reading(self, gauges))
        return generate_latest(registry)


_HELP = {
    "messages_in": "Operations read from clients",
    "messages_out": "Messages handed to connections",
    "bad_frames": "Frames of clients that were no operation",
    "slow_closes": "Connections closed because they did not read",
    "connections_refused": "Connections refused by a limit or while draining",
    "repairs": "Ranges of a channel read from the log because the bus had not brought them",
    "unfilled_gaps": "Ranges of a channel that were lost; clients were told",
}

_BUS_HELP = {
    "received": "Envelopes from the bus that were handed on",
    "malformed": "Payloads on the bus that were no envelope",
    "handler_errors": "Envelopes on which the handler raised",
    "published": "Envelopes that Redis took",
    "publish_errors": "Envelopes that Redis did not take, or not in time",
    "connection_losses": "Times the listening connection had to be built anew",
    "resubscriptions": "Subscriptions after the first",
}


class _Reading(Collector):
    def __init__(self, telemetry: Telemetry, gauges: dict[str, Callable[[], float]]) -> None:
        self._telemetry = telemetry
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for name, text in _HELP.items():
            yield CounterMetricFamily(f"heliograph_{name}", text, value=getattr(self._telemetry, name))
        for name, text in _BUS_HELP.items():
            yield CounterMetricFamily(f"heliograph_bus_{name}", text, value=getattr(self._telemetry.bus, name))
        for name, read in self._gauges.items():
            yield GaugeMetricFamily(f"heliograph_{name}", name.replace("_", " ").capitalize(), value=read())


def configure_logging(level: str) -> None:
    """Lines for people on standard error. uvicorn's own lines are kept to warnings: it logs URLs, and so tokens."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("websockets").setLevel(logging.WARNING)
