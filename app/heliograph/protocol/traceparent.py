"""`traceparent` and `tracestate` of W3C Trace Context: the trace that a message belongs to. Both travel as tags."""

import re
from typing import Final

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

_SAMPLED: Final = 1  # of the flags
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def is_sampled(traceparent: str) -> bool:
    """Return whether the trace is recorded. What is not valid counts as no `traceparent`, as W3C says."""
    found = _FORM.fullmatch(traceparent.strip(" \t"))
    if found is None:
        return False
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return False
    return bool(int(flags, 16) & _SAMPLED)
