"""Log lines on standard error, as text for people or as JSON for programs.

What clients and foreign processes say may end up in a line, as a user's id or as a reason. So nothing in a line can
end it, forge another one, or steer a terminal. Tokens and the bodies of messages are not logged at all: the one
exception is the start of what foreign processes have published on the bus and nobody could read.
"""

import json
import logging
import re
from typing import Final, Literal

from heliograph.clock import iso8601

# Control characters, what moves text about, what ends a line for some readers, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
ABOUT: Final = ("user", "connection", "channel")  # what `extra` may say of a line

SELDOM_S: Final = 60.0
MOST_SELDOM: Final = 100  # different warnings that are remembered

# Their own lines are kept to warnings: they show URLs, and so tickets.
_QUIET: Final = ("uvicorn", "websockets", "httpx", "httpcore")


def configure_logging(level: str, form: Literal["text", "json"] = "text", replica: str | None = None) -> None:
    """Have this process log to standard error. `replica`: the one that it is."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(replica) if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(Seldom())


class Seldom(logging.Filter):
    """Lets a warning through once in a minute: what anybody can cause with one bad request would fill the log."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_at: dict[str, float] = {}  # seconds since the epoch, by what is said

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        said = str(record.msg)
        if record.created - self._passed_at.get(said, -SELDOM_S) < SELDOM_S:
            return False
        if len(self._passed_at) >= MOST_SELDOM:
            self._passed_at.clear()
        self._passed_at[said] = record.created
        return True


class TextLines(logging.Formatter):
    """One line each; the lines of a traceback are indented, so that none of them looks like a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        about = "".join(f" {name}={value}" for name, value in _about(record).items())
        line = escape(f"{record.levelname:<7} {record.name}: {record.getMessage()}{about and f' [{about[1:]}]'}")
        trace = "".join(f"\n    {escape(each)}" for each in self._trace(record).split("\n") if each)
        return f"{iso8601(record.created)} {line}{trace}"

    def _trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info) if record.exc_info else "", record.stack_info or ""]
        return "\n".join(parts)


class JsonLines(TextLines):
    """One JSON object a line."""

    def __init__(self, replica: str | None) -> None:
        super().__init__()
        self._replica = {} if replica is None else {"replica": replica}

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": iso8601(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._replica,
            **_about(record),
        }
        if trace := self._trace(record).strip("\n"):
            fields["traceback"] = trace
        return escape(json.dumps(fields, ensure_ascii=False))


def escape(text: str) -> str:
    """The text without anything that acts on whoever reads it. JSON stays JSON: `\\u2028` means the same there."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _about(record: logging.LogRecord) -> dict[str, str]:
    return {name: str(value) for name in ABOUT if (value := getattr(record, name, None)) is not None}
