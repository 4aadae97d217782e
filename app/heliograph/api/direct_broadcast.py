"""`POST /api/broadcast` in its usual form: read in one step, and answered when the last channel has its position."""

from collections.abc import Callable
from typing import Final

import msgspec

from heliograph.api import models
from heliograph.api.broadcast import publish_each
from heliograph.api.direct_method import DirectMethod
from heliograph.errors import HeliographError
from heliograph.protocol.publication import check_data

_encode = msgspec.json.Encoder().encode
_PARAMS: Final = msgspec.json.Decoder(models.UsualBroadcastParams)


class DirectBroadcast(DirectMethod):
    """The `DirectEndpoint`."""

    def begin(self, body: bytes, answer: Callable[[bytes], object]) -> bool:
        try:
            params = _PARAMS.decode(body)
            check_data(params.data, self._publishing.max_depth)
        except (msgspec.MsgspecError, HeliographError, RecursionError, UnicodeDecodeError):
            return False
        if len(params.channels) > self._publishing.most_commands:
            return False
        publish = self._publishing.publish
        publish_each(
            params.channels,
            lambda channel, done: publish(channel, params.data, params.idempotency_key, done),
            lambda responses: answer(_encode({"result": models.BroadcastResult(responses)})),
        )
        return True
