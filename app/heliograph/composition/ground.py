"""What every part of a replica needs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliograph.clock import Clock
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler
from heliograph.hub.trace import TraceRing
from heliograph.hub.written import WrittenWatch
from heliograph.settings import Settings
from heliograph.telemetry import Telemetry

if TYPE_CHECKING:
    from heliograph.cluster.replica_spans import ReplicaSpans


@dataclass(frozen=True)
class Ground:
    """What every part of a replica needs."""

    settings: Settings
    name: str
    clock: Clock
    telemetry: Telemetry
    flush_scheduler: FlushScheduler
    hub: Hub
    trace: TraceRing | None  # the notes of the hub, if it keeps any
    written: WrittenWatch | None  # if undelivered messages are told
    spans: "ReplicaSpans | None"  # if OpenTelemetry is on
