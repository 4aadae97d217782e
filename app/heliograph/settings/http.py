"""What settings of calls over HTTP have in common."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

# The name of a header (RFC 9110, section 5.1), and those that only the sender of a request can set.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_FRAMING_HEADERS = frozenset(
    ("connection", "content-length", "content-type", "host", "te", "transfer-encoding", "upgrade")
)


def check_http_url(url: str) -> str:
    """Return the URL unchanged if requests can be sent to it. Raises ValueError, which repeats no part of it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("cannot be read") from None  # the error's own text repeats a part of the URL
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError("must be http://host/path or https://host/path")
    return url


def check_header_names(names: Iterable[str]) -> None:
    """Check that these headers can be sent. Raises ValueError."""
    for name in names:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _FRAMING_HEADERS:
            raise ValueError(f"{name[:64]!r} is not a header that can be passed on")
