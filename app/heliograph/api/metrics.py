"""`/metrics` for Prometheus. Only this module has each metric's name, meaning and source."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from heliograph.cluster.health import REASONS
from heliograph.cluster.memory_watch import MemoryWatch
from heliograph.cluster.node import Node
from heliograph.cluster.status import VERSION
from heliograph.hub import hub as hub_module
from heliograph.hub.hub import Hub
from heliograph.ports import Bus
from heliograph.telemetry import REDIS_ERRORS, Histogram, Telemetry, WebhookStats

PREFIX = "heliograph_"
IS_COMPILED = not hub_module.__file__.endswith(".py")  # all modules in setup.py are compiled, or none is


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """What there is to tell of one Redis. `shard`: its number, a label; empty where it is the only one.

    `memory`: how full it is; None without Redis.
    """

    shard: str
    bus: Bus
    memory: MemoryWatch | None


def metrics_route(node: Node, servers: Sequence[ServerMetrics], hub: Hub, telemetry: Telemetry) -> Route:
    """`servers`: of each shard."""
    registry = CollectorRegistry()
    registry.register(_Replica(node, servers, hub, telemetry))
    ProcessCollector(registry=registry)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Route("/metrics", metrics)


class _Replica(Collector):
    def __init__(self, node: Node, servers: Sequence[ServerMetrics], hub: Hub, telemetry: Telemetry) -> None:
        self._node = node
        self._servers = servers
        self._hub = hub
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        yield from self._state()
        yield from self._clients()
        yield from self._channels()
        yield from self._redis()
        if self._telemetry.hooks:
            yield from self._user_backend()
        if self._telemetry.webhooks is not None:
            yield from self._webhooks(self._telemetry.webhooks)
        if self._servers[0].bus.enabled:
            yield from self._bus_link()

    def _state(self) -> Iterator[Metric]:
        node = self._node
        about = {
            "replica": node.name,
            "version": VERSION,
            "python": platform.python_version(),
            "compiled": "yes" if IS_COMPILED else "no",
        }
        yield InfoMetricFamily(f"{PREFIX}build", "What runs here", value=about)
        yield _gauge("ready", "1 if new clients are welcome", node.ready)
        reasons = {reason: float(reason == node.reason) for reason in REASONS}
        yield _gauges("degraded", "1 for why the replica is not ready, or cannot do all it should", "reason", reasons)
        yield _gauge("draining", "1 while the replica sends its clients away before it stops", node.draining)
        left = self._hub.connections if node.draining else 0
        yield _gauge("drain_connections_left", "Connections that a drain has still to send away", left)
        yield _histogram("event_loop_lag_seconds", "How late the loop wakes what is due", self._telemetry.loop_lag)

    def _clients(self) -> Iterator[Metric]:
        counted, traffic = self._telemetry, self._telemetry.traffic
        connections = {name: each.connections for name, each in traffic.items()}
        yield _gauges("connections", "Clients that are known, by transport", "transport", connections)
        yield _gauge("users", "Users with a connection", self._hub.users)
        came = {name: each.messages_in for name, each in traffic.items()}
        yield _counters("messages_in", "Operations read from clients", "transport", came)
        went = {name: each.messages_out for name, each in traffic.items()}
        yield _counters("messages_out", "Messages handed to connections", "transport", went)
        refused = {code.value: count for code, count in counted.frames_refused.items()}
        yield _counters("frames_refused", "Operations that were answered with an error, by its code", "code", refused)
        text = "Messages and emissions of clients that a limit refused, by the limit"
        yield _counters("client_writes_refused", text, "limit", counted.client_writes_refused)
        closes = {str(code) if code else "other": count for code, count in sorted(counted.closes.items())}
        yield _counters("closes", "Connections that ended, by close code, from either side", "code", closes)
        yield _counter("slow_closes", "Connections closed because they did not read", counted.slow_closes)
        text = "Handshakes and requests with a bad token or key, by how they were answered"
        yield _counters("failed_attempts", text, "answered", counted.failed_attempts)
        text = "Connections refused by a limit, for their origin, or while draining"
        yield _counter("connections_refused", text, counted.connections_refused)
        text = "HTTP requests of clients that were refused by the rate of a user or an address"
        yield _counter("requests_refused", text, counted.requests_refused)

    def _channels(self) -> Iterator[Metric]:
        counted = self._telemetry
        yield _gauge("channels", "Channels that connections listen to, users' own among them", self._hub.channels)
        text = "Ranges of a channel that were read from the log because the bus lost them"
        yield _counter("repairs", text, counted.repairs)
        text = "Ranges of a channel that the log had lost too; clients were told"
        yield _counter("unfilled_gaps", text, counted.unfilled_gaps)

    def _redis(self) -> Iterator[Metric]:
        text = "Time that Redis took to keep or relay a message"
        yield self._times("publish_seconds", text, lambda bus: bus.stats.publish_time)
        watched = [(each.shard, each.memory) for each in self._servers if each.memory is not None]
        if watched:
            text = "1 while Redis is too full for what clients write"
            yield _by_shard("client_writes_blocked", text, {shard: memory.is_full for shard, memory in watched})
            text = "Used part of Redis' maxmemory; 0 if there is none, or Redis does not say"
            yield _by_shard("redis_memory_ratio", text, {shard: memory.share or 0 for shard, memory in watched})
        yield _counters("redis_errors", "Calls to Redis that failed, by kind", "kind", REDIS_ERRORS)
        if shards := self._node.shards:
            works = {str(each.shard): float(each.works) for each in shards}
            yield _gauges("shard_up", "1 if the shard works, as far as this replica sees", "shard", works)

    def _user_backend(self) -> Iterator[Metric]:
        hooks = self._telemetry.hooks
        text = "Calls of hooks that the backend answered with no"
        yield _counters("hook_denials", text, "hook", {name: each.denied for name, each in hooks.items()})
        text = "Calls of hooks without an answer that could be used"
        yield _counters("hook_failures", text, "hook", {name: each.failed for name, each in hooks.items()})
        text = "Calls of hooks that were not made: the backend fails, or too many waited"
        yield _counters("hook_refusals", text, "hook", {name: each.refused for name, each in hooks.items()})
        text = "Time that the backend took to answer a hook, with the wait for other calls"
        yield _histograms("hook_seconds", text, "hook", {name: each.time for name, each in hooks.items()})

    def _webhooks(self, stats: WebhookStats) -> Iterator[Metric]:
        results = {"delivered": stats.delivered, "dead": stats.dead}
        text = "Lifecycle events that the receiver has taken, or that went to the dead letters"
        yield _counters("webhook_events", text, "result", results)
        text = "Requests with lifecycle events that the receiver has not taken"
        yield _counter("webhook_failures", text, stats.failed)
        text = "Age of the oldest lifecycle event that the receiver has not taken, when it was last tried"
        yield _gauge("webhook_oldest_seconds", text, stats.oldest_s)
        text = "Time of each request with lifecycle events that the receiver has taken"
        yield _histogram("webhook_seconds", text, stats.time)

    def _bus_link(self) -> Iterator[Metric]:
        yield self._values("bus_canary_age_seconds", "Since the canary last came back", lambda bus: bus.canary_age_s)
        text = "Round trip of the last canary, or the time since one has been missing"
        yield self._values("bus_lag_seconds", text, lambda bus: bus.lag_s)
        yield self._times("bus_canary_seconds", "Round trips of canaries", lambda bus: bus.stats.lag)
        yield self._counts("bus_received", "Envelopes received from the bus", lambda bus: bus.stats.received)
        text = "Bus messages that were not envelopes"
        yield self._counts("bus_malformed", text, lambda bus: bus.stats.malformed)
        text = "Envelopes on which the handler raised"
        yield self._counts("bus_handler_errors", text, lambda bus: bus.stats.handler_errors)
        yield self._counts("bus_published", "Messages that Redis accepted", lambda bus: bus.stats.published)
        text = "Messages that Redis did not accept, or not in time"
        yield self._counts("bus_publish_errors", text, lambda bus: bus.stats.publish_errors)
        text = "Times that the listening connection was lost"
        yield self._counts("bus_connection_losses", text, lambda bus: bus.stats.connection_losses)
        text = "Subscriptions after the first"
        yield self._counts("bus_resubscriptions", text, lambda bus: bus.stats.resubscriptions)

    def _values(self, name: str, text: str, value: Callable[[Bus], float]) -> Metric:
        return _by_shard(name, text, {each.shard: value(each.bus) for each in self._servers})

    def _counts(self, name: str, text: str, count: Callable[[Bus], int]) -> Metric:
        counts = {each.shard: count(each.bus) for each in self._servers}
        return _counter(name, text, counts[""]) if "" in counts else _counters(name, text, "shard", counts)

    def _times(self, name: str, text: str, times: Callable[[Bus], Histogram]) -> Metric:
        found = {each.shard: times(each.bus) for each in self._servers}
        return _histogram(name, text, found[""]) if "" in found else _histograms(name, text, "shard", found)


def _by_shard(name: str, text: str, values: Mapping[str, float]) -> Metric:
    """Return a gauge with a label for each shard; without one where there is one Redis."""
    return _gauge(name, text, values[""]) if "" in values else _gauges(name, text, "shard", values)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(PREFIX + name, text, buckets=_buckets(histogram), sum_value=histogram.total_s)


def _histograms(name: str, text: str, label: str, histograms: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text, labels=[label])
    for key, histogram in histograms.items():
        family.add_metric([key], _buckets(histogram), histogram.total_s)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, int]]:
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
