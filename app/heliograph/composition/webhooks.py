"""What pushes lifecycle events to the user's backend, if the settings name a URL."""

from collections.abc import Sequence

from heliograph.cluster.node import Service
from heliograph.composition.ground import Ground
from heliograph.ports import LifecycleFeed
from heliograph.telemetry import WebhookStats


def build_pushers(ground: Ground, feeds: Sequence[LifecycleFeed]) -> list[Service]:
    """Return a pusher for each feed: the events of one server keep their order."""
    settings = ground.settings.webhooks
    if settings.url is None or not feeds:
        return []
    from heliograph.hooks.webhook_endpoint import WebhookEndpoint  # its HTTP client is slow to import
    from heliograph.hooks.webhook_pusher import WebhookPusher

    stats = ground.telemetry.webhooks = WebhookStats()
    clock = ground.clock
    return [WebhookPusher(feed, WebhookEndpoint(settings, clock.now), settings, stats, clock) for feed in feeds]
