"""Log lines: readable, one event a line, and nothing in them that clients should not be able to put there."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from heliograph.logs import MOST_SELDOM, JsonLines, Seldom, TextLines, configure_logging

EVIL = "bob\r\n2026-01-01T00:00:00.000Z ERROR forged\x1b[31m\x00\x85\u2028\u202e\ud800 고양이 🐈‍⬛"


def record(message: str, *arguments: object, error: BaseException | None = None, **extra: str) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("heliograph.test", logging.WARNING, __file__, 1, message, arguments, info)
    made.__dict__.update(extra)
    return made


def raised(text: str) -> ValueError:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


class TestText:
    def test_a_line(self) -> None:
        """Fails if a line lacks when, how grave, who, what, or whom it is about."""
        line = TextLines().format(record("%s is late", "Redis", user="bob", channel="run:1"))
        assert line.endswith("Z WARNING heliograph.test: Redis is late [user=bob channel=run:1]")
        assert len(line.split(" ")[0]) == len("2026-11-22T18:20:00.123Z")

    def test_nothing_in_it_ends_it(self) -> None:
        """Fails if a user's id, a reason or a payload can forge a line or steer a terminal."""
        line = TextLines().format(record("%s came", EVIL, user=EVIL))
        assert line.splitlines() == [line]
        assert line.isprintable() or not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in line)
        assert "\\u000d\\u000a2026" in line
        assert "\u202e" not in line
        assert "고양이 🐈‍⬛" in line, "what is harmless stays readable"
        line.encode()

    def test_no_line_of_a_traceback_looks_like_one_of_its_own(self) -> None:
        """Fails if the text of an error can forge a line."""
        lines = TextLines().format(record("failed", error=raised(EVIL))).split("\n")
        assert len(lines) > 3
        assert all(line.startswith("    ") for line in lines[1:])
        assert any("forged" in line for line in lines)
        assert "\x1b" not in "".join(lines)


class TestJson:
    def test_a_line(self) -> None:
        """Fails if a field is missing, or one that is not known is there."""
        formatter = JsonLines("replica-1")
        about: dict[str, Any] = {"user": "bob", "connection": "c1", "channel": "run:1"}
        fields = json.loads(formatter.format(record("%s is late", "Redis", **about)))
        assert fields.pop("time").endswith("Z")
        assert fields == {
            "level": "warning",
            "logger": "heliograph.test",
            "message": "Redis is late",
            "replica": "replica-1",
            **about,
        }
        assert set(json.loads(JsonLines(None).format(record("late")))) == {"time", "level", "logger", "message"}

    def test_it_is_one_line_and_says_exactly_what_was_said(self) -> None:
        """Fails if what clients say breaks the line, or is changed on the way."""
        line = JsonLines("replica-1").format(record("%s", EVIL, user=EVIL, error=raised(EVIL)))
        assert line.splitlines() == [line]
        line.encode()
        fields = json.loads(line)
        assert (fields["message"], fields["user"]) == (EVIL, EVIL)
        assert fields["traceback"].startswith("Traceback")
        assert EVIL.partition("\r")[0] in fields["traceback"]


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Puts the process's logging back."""
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "websockets", "httpx", "httpcore")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.mark.usefixtures("restored_logging")
class TestConfigured:
    def test_urls_stay_out(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Fails if uvicorn's line for each handshake, which shows the query string, gets into the log."""
        logging.getLogger().handlers.clear()  # those of pytest, which is a program of its own
        configure_logging("debug")
        logging.getLogger("heliograph.test").debug("ours is shown")
        logging.getLogger("uvicorn.error").info('"WebSocket /ws?token=hunter2" [accepted]')
        logging.getLogger("websockets.server").info("GET /ws?token=hunter2")
        logging.getLogger("httpx").info("HTTP Request: GET https://idp.example/?key=hunter2")
        logging.getLogger("uvicorn.error").warning("a warning is shown")
        shown = capsys.readouterr().err
        assert "ours is shown" in shown
        assert "a warning is shown" in shown
        assert "hunter2" not in shown

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Fails if the format that was asked for is not what comes out."""
        logging.getLogger().handlers.clear()
        configure_logging("info", "json", "replica-3")
        logging.getLogger("heliograph.test").info("hello")
        assert json.loads(capsys.readouterr().err)["replica"] == "replica-3"


def test_what_anybody_can_cause_is_logged_seldom() -> None:
    """Fails if bad requests fill the log, one line each, or an error is lost for it."""
    seldom = Seldom()

    def passes(message: str, at_s: float, level: int = logging.WARNING) -> bool:
        record = logging.LogRecord("uvicorn.error", level, "", 0, message, (), None)
        record.created = at_s
        return seldom.filter(record)

    assert passes("Invalid HTTP request received.", 1000)
    assert not any(passes("Invalid HTTP request received.", 1000 + second) for second in range(60))
    assert passes("Unsupported upgrade request.", 1001)
    assert passes("Invalid HTTP request received.", 1060)
    assert all(passes("a fault", 1000, logging.ERROR) for _ in range(3))
    for number in range(1000):
        passes(f"made up {number}", 2000)
    assert len(seldom._passed_at) <= MOST_SELDOM
