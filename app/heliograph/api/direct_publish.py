"""`POST /api/publish` in its usual form: answered in the event-loop iteration in which Redis has answered."""

from collections.abc import Callable
from functools import partial

import msgspec

from heliograph.api import models
from heliograph.api.direct_method import DirectMethod
from heliograph.api.errors import ApiError

_encode = msgspec.json.Encoder().encode


class DirectPublish(DirectMethod):
    """The `DirectEndpoint`."""

    def begin(self, body: bytes, answer: Callable[[bytes], object]) -> bool:
        params = self._publishing.read_usual(body)
        if params is None:
            return False
        self._publishing.publish(params.channel, params.data, params.idempotency_key, partial(_answer, answer))
        return True


def _answer(answer: Callable[[bytes], object], outcome: models.PositionResult | ApiError) -> None:
    if isinstance(outcome, ApiError):
        answer(_encode({"error": outcome.body}))
    else:
        answer(_encode({"result": outcome}))
