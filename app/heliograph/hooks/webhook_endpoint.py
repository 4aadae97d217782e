"""The URL that lifecycle events are pushed to: one signed request for a batch of events."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from heliograph.hooks.http import BackendHttp, shown, text_of
from heliograph.protocol.lifecycle import EventBatch, LifecycleEvent
from heliograph.protocol.signature import signed_headers
from heliograph.settings import WebhookSettings

TAKEN: Final = range(200, 300)
TOO_LARGE: Final = 413

_to_json: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class NotTaken:
    """The receiver has not taken the events. `too_large`: fewer at once may help."""

    reason: str
    too_large: bool = False


class WebhookEndpoint:
    """Post events to the receiver. `now`: seconds since the epoch."""

    def __init__(self, settings: WebhookSettings, now: Callable[[], float]) -> None:
        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        self._http = BackendHttp(settings.ca_file, headers)
        self._url = URL(settings.url or "", encoded=True)
        self._secrets = settings.keys()
        self._timeout_s = settings.timeout_s
        self._now = now
        self.shown = shown(settings.url or "")

    async def post(self, events: Sequence[LifecycleEvent]) -> NotTaken | None:
        """Post the events, in order, in one request. Return why the receiver has not taken them; None if it has."""
        body = _to_json(EventBatch(list(events)))
        message_id = f"{events[0].id}_{events[-1].id}"
        headers = signed_headers(self._secrets, message_id, int(self._now()), body)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._http.session.post(self._url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                status = response.status
        except TimeoutError:
            return NotTaken(f"no answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return NotTaken(text_of(error))
        if status in TAKEN:
            return None
        return NotTaken(f"it answers {status}", too_large=status == TOO_LARGE)

    async def close(self) -> None:
        """Close the connections. It may be used again."""
        await self._http.close()
