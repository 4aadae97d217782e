"""All settings, read once from `HELIOGRAPH_…` variables (`__` between levels) and passed down."""

from heliograph.settings.access import ApiSettings, AuthSettings
from heliograph.settings.clients import CompressionSettings, EmitSettings, LimitSettings, PingSettings, PollSettings
from heliograph.settings.cluster import (
    BusSettings,
    ChannelSettings,
    DirectorySettings,
    PresenceSettings,
    ReceiptSettings,
    RedisSettings,
    bus_channel,
)
from heliograph.settings.environment import read_environment
from heliograph.settings.events import EventSettings, WebhookSettings
from heliograph.settings.hooks import HookSettings
from heliograph.settings.process import (
    ConsoleSettings,
    DrainSettings,
    InternalSettings,
    LogSettings,
    OtelSettings,
    TraceSettings,
)
from heliograph.settings.settings import Settings
from heliograph.settings.table import settings_table, unknown_variables

__all__ = [
    "ApiSettings",
    "AuthSettings",
    "BusSettings",
    "ChannelSettings",
    "CompressionSettings",
    "ConsoleSettings",
    "DirectorySettings",
    "DrainSettings",
    "EmitSettings",
    "EventSettings",
    "HookSettings",
    "InternalSettings",
    "LimitSettings",
    "LogSettings",
    "OtelSettings",
    "PingSettings",
    "PollSettings",
    "PresenceSettings",
    "ReceiptSettings",
    "RedisSettings",
    "Settings",
    "TraceSettings",
    "WebhookSettings",
    "bus_channel",
    "read_environment",
    "settings_table",
    "unknown_variables",
]
