"""The replica as a process: its shutdown, its port for operators, its log and its console."""

from typing import Literal

from pydantic import Field

from heliograph.settings.group import Group


class TraceSettings(Group):
    notes: int = Field(
        default=20_000,
        ge=0,
        le=10_000_000,
        description="notes of what became of messages that a replica keeps in memory, for `heliograph why` (0: none)",
    )


class OtelSettings(Group):
    enabled: bool = Field(
        default=False,
        description="make spans of traced messages with OpenTelemetry, whose own variables (`OTEL_…`) say where they "
        "go; publishers and consumers read it too",
    )


class DrainSettings(Group):
    per_second: int = Field(default=500, ge=1, description="how many clients a second are asked to reconnect")
    window_s: float = Field(default=10.0, ge=0, description="over how long the clients are spread, at most")
    grace_s: float = Field(default=1.0, ge=0, description="how long after its time a client that stayed is closed")
    deadline_s: float = Field(default=20.0, gt=0, description="how long the whole shutdown may take")


class InternalSettings(Group):
    """With a port, metrics, the OpenAPI document and detailed health are on that port only."""

    port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="a port of its own for metrics, health in detail and OpenAPI; unset: the public port",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="the address to listen on for that port")


class LogSettings(Group):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the lowest level that is logged"
    )
    format: Literal["text", "json"] = Field(default="text", description="text for people, or JSON for programs")


class ConsoleSettings(Group):
    enabled: bool | None = Field(
        default=None, description="serve the console at / and its data; unset: in open mode only"
    )
    session_s: float = Field(
        default=28_800, ge=60, le=604_800, description="how long an operator stays logged in to the console, at most"
    )
