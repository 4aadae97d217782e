"""Whether a publisher or a consumer takes part in traces: chosen once, when it is made."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from heliograph.client.environment import otel_is_on
from heliograph.errors import BadSetting
from heliograph.ports import Draft

if TYPE_CHECKING:
    from heliograph.backends.redis.streams import StreamEntry

logger = logging.getLogger(__name__)


class ClientSpans(Protocol):
    """What makes the spans of a publisher or a consumer."""

    def publishing(self, drafts: Sequence[Draft]) -> AbstractContextManager[Sequence[Draft]]:
        """Return the span of publishing these drafts, to be entered, which gives them as they are to be sent."""

    def processing(self, stream: str, group: str, entry: "StreamEntry") -> AbstractContextManager[object]:
        """Return the span of handling an entry, to be entered."""


class NoSpans:
    """Make none. What a caller has given as a `traceparent` goes its way."""

    def publishing(self, drafts: Sequence[Draft]) -> AbstractContextManager[Sequence[Draft]]:
        return nullcontext(drafts)

    def processing(self, stream: str, group: str, entry: "StreamEntry") -> AbstractContextManager[object]:
        return nullcontext()


def client_spans(wanted: bool | None) -> ClientSpans:
    """Return what makes spans. `wanted`: None for what `HELIOGRAPH_OTEL__ENABLED` says.

    Raises:
        BadSetting: they are wanted, and OpenTelemetry is not installed. If only the environment says so, which this
            program may share with others, that is logged.
    """
    if not (otel_is_on() if wanted is None else wanted):
        return NoSpans()
    try:
        from heliograph.client.otel import OtelSpans
    except ImportError as error:
        text = f"spans need OpenTelemetry: pip install 'heliograph[otel]' ({error})"
        if wanted:
            raise BadSetting(text) from None
        logger.warning("HELIOGRAPH_OTEL__ENABLED is set, but this program makes no spans: %s", text)
        return NoSpans()
    return OtelSpans()
