"""Log lines on standard error, as text for people or as JSON for programs.

Text of clients and other programs may appear in a line, as a user id or a reason. So nothing in a line can end it,
forge another one, or control a terminal. Tokens and the bodies of messages are never logged, with one exception: the
start of a bus message from another program that could not be read.
"""

import json
import logging
import re
from typing import Final, Literal

from heliograph.clock import iso8601

# Control characters, direction marks, line ends of some readers, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
ABOUT: Final = ("user", "connection", "channel")  # the fields that `extra` may give a line

SELDOM_S: Final = 60.0
MOST_SELDOM: Final = 100  # different warnings that are remembered

# Only warnings of these: their other lines show URLs, and so tickets.
_QUIET: Final = ("uvicorn", "websockets", "httpx", "httpcore")


def configure_logging(level: str, form: Literal["text", "json"] = "text", replica: str | None = None) -> None:
    """Make this process log to standard error. `replica`: its name."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(replica) if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(Seldom())


class Seldom(logging.Filter):
    """Let each warning through once a minute: otherwise a client with bad requests could fill the log."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_at: dict[str, float] = {}  # message -> seconds since the epoch

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
    """One line each; lines of a traceback are indented, so that none of them looks like a log line."""

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
    """Return the text without characters that affect a reader or terminal. JSON stays JSON: `\\u2028` is the same."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _about(record: logging.LogRecord) -> dict[str, str]:
    return {name: str(value) for name in ABOUT if (value := getattr(record, name, None)) is not None}
