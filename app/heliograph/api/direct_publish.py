"""`POST /api/publish` in its usual form: answered in the event-loop iteration in which Redis has answered."""

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from heliograph.api import models
from heliograph.api.errors import ApiError
from heliograph.api.methods import Methods
from heliograph.settings import ApiSettings
from heliograph.transports.api_key import is_key
from heliograph.transports.direct import Headers

_MOST_BYTES: Final = 65_536  # a larger body is the application's, which reads it with back-pressure

_encode = msgspec.json.Encoder().encode


class DirectPublish:
    """The `DirectEndpoint`. Whatever is not as it should be is left to `ApiEndpoint`, which says what is wrong."""

    def __init__(self, methods: Methods, settings: ApiSettings) -> None:
        self._methods = methods
        self._key = settings.secret()
        self._most_bytes = min(_MOST_BYTES, settings.body_bytes)

    def admits(self, headers: Headers) -> bool:
        key, size = None, self._most_bytes + 1
        for name, value in headers:
            if name == b"content-length":
                size = int(value)
            elif name == b"x-api-key" and key is None:
                key = value
        return size <= self._most_bytes and key is not None and is_key(key, self._key)

    def begin(self, body: bytes, answer: Callable[[bytes], object]) -> bool:
        params = self._methods.read_usual_publish(body)
        if params is None:
            return False
        self._methods.publish(params.channel, params.data, params.idempotency_key, partial(_answer, answer))
        return True


def _answer(answer: Callable[[bytes], object], outcome: models.PositionResult | ApiError) -> None:
    if isinstance(outcome, ApiError):
        answer(_encode({"error": outcome.body}))
    else:
        answer(_encode({"result": outcome}))
