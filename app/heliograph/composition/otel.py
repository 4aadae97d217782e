"""What makes the spans of a replica and exports them, if the settings switch that on."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from heliograph.errors import BadSetting
from heliograph.protocol.publication import Publication
from heliograph.settings import Settings
from heliograph.shared_settings import PREFIX

if TYPE_CHECKING:
    from heliograph.cluster.replica_spans import ReplicaSpans


def build_spans(settings: Settings, name: str, connections: Callable[[Publication], int]) -> "ReplicaSpans | None":
    """Return what makes the spans of the replica with this name; None if the settings do not switch it on.

    `connections`: how many connections here a publication goes to.

    Raises:
        BadSetting: the packages are missing, or a variable of OpenTelemetry names an exporter that is not installed.
    """
    if not settings.otel.enabled:
        return None
    try:
        from heliograph.cluster.replica_spans import ReplicaSpans
        from heliograph.composition.otel_provider import tracer_provider
    except ImportError as error:
        text = f"{PREFIX}OTEL__ENABLED needs OpenTelemetry: pip install 'heliograph[server,otel]' ({error})"
        raise BadSetting(text) from None
    provider, flush = tracer_provider(name)
    has_redis = settings.redis.url is not None or bool(settings.redis.shards)
    return ReplicaSpans(provider, name, {"db.system.name": "redis"} if has_redis else {}, connections, flush)
