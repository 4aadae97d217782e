"""What is counted, as Prometheus reads it."""

import dataclasses
import logging
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry import BusStats, Telemetry, configure_logging


def read(text: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(text.decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_every_counter_is_rendered_with_its_value() -> None:
    """Fails if a counter that is counted is never shown, or is shown with another one's value."""
    telemetry = Telemetry()
    expected: dict[str, float] = {}
    for number, field in enumerate(dataclasses.fields(BusStats), start=1):
        setattr(telemetry.bus, field.name, number)
        expected[f"heliograph_bus_{field.name}_total"] = number
    for number, field in enumerate(dataclasses.fields(Telemetry), start=100):
        if field.name != "bus":
            setattr(telemetry, field.name, number)
            expected[f"heliograph_{field.name}_total"] = number
    assert read(telemetry.render({})) == expected


def test_gauges_are_read_at_the_moment_of_asking() -> None:
    """Fails if a gauge shows what was, or a truth value is not 0 or 1."""
    value = 1.5
    telemetry = Telemetry()
    gauges = {"connections": lambda: value, "ready": lambda: True, "age": lambda: float("inf")}
    first = read(telemetry.render(gauges))
    assert first["heliograph_connections"] == 1.5
    assert first["heliograph_ready"] == 1
    assert first["heliograph_age"] == float("inf")
    value = 2
    assert read(telemetry.render(gauges))["heliograph_connections"] == 2


def test_two_replicas_in_one_process_count_apart() -> None:
    """Fails if counters live in the process and not in the replica."""
    one, two = Telemetry(), Telemetry()
    one.messages_in += 5
    one.bus.received += 3
    assert read(two.render({}))["heliograph_messages_in_total"] == 0
    assert read(two.render({}))["heliograph_bus_received_total"] == 0


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Puts the process's logging back."""
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "websockets")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.mark.usefixtures("restored_logging")
def test_logging_keeps_urls_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if uvicorn's line for each handshake, which shows the query string, gets into the log."""
    logging.getLogger().handlers.clear()  # those of pytest, which is a program of its own
    configure_logging("debug")
    logging.getLogger("heliograph.test").debug("ours is shown")
    logging.getLogger("uvicorn.error").info('"WebSocket /ws?token=hunter2" [accepted]')
    logging.getLogger("websockets.server").info("GET /ws?token=hunter2")
    logging.getLogger("uvicorn.error").warning("a warning is shown")
    shown = capsys.readouterr().err
    assert "ours is shown" in shown
    assert "a warning is shown" in shown
    assert "hunter2" not in shown
