"""`POST /api/broadcast` in its usual form: read in one step, and answered when the last channel has its position."""

from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from heliograph.api import models
from heliograph.api.broadcast import publish_each
from heliograph.api.direct_method import DirectMethod
from heliograph.errors import HeliographError
from heliograph.protocol.publication import check_data

_encode = msgspec.json.Encoder().encode


class _Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    channels: Annotated[list[str], msgspec.Meta(min_length=1)]
    data: msgspec.Raw
    idempotency_key: models.IdempotencyKey = None


_PARAMS: Final = msgspec.json.Decoder(_Params)


class DirectBroadcast(DirectMethod):
    """The `DirectEndpoint`."""

    def begin(self, body: bytes, answer: Callable[[bytes], object]) -> bool:
        try:
            params = _PARAMS.decode(body)
            check_data(params.data, self._methods.max_depth)
        except (msgspec.MsgspecError, HeliographError, RecursionError, UnicodeDecodeError):
            return False
        if len(params.channels) > self._methods.most_commands:
            return False
        publish = self._methods.publish
        publish_each(
            params.channels,
            lambda channel, done: publish(channel, params.data, params.idempotency_key, done),
            lambda responses: answer(_encode({"result": models.BroadcastResult(responses)})),
        )
        return True
