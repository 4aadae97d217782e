"""Webhooks with lifecycle events, for a backend in any framework; `contrib.fastapi` and `contrib.django` serve them.

    receiver = WebhookReceiver(SECRET)

    events = receiver.read(request.headers, request.body)  # a list of LifecycleEvent, in order

`SECRET` is that of the cluster, `HELIOGRAPH_WEBHOOKS__SECRET`. Other languages check a webhook with a library for
Standard Webhooks (standardwebhooks.com).
"""

import time
from collections.abc import Callable, Mapping

import msgspec

from heliograph.errors import BadData
from heliograph.protocol.lifecycle import EventBatch, LifecycleEvent
from heliograph.protocol.signature import check_signature, read_secrets

_decode = msgspec.json.Decoder(EventBatch).decode


class WebhookReceiver:
    """Read webhooks that were signed with the secret: one, or several separated by spaces while it changes.

    `now` returns the present time in seconds since the epoch.

    Raises:
        BadSetting: the secret cannot be one.
    """

    def __init__(self, secret: str, *, now: Callable[[], float] = time.time) -> None:
        self._secrets = read_secrets(secret)
        self._now = now

    def read(self, headers: Mapping[str, str], body: bytes) -> list[LifecycleEvent]:
        """Return the events, in order.

        Raises:
            BadSignature: the cluster did not sign this, or more than five minutes ago.
            BadData: the body is no batch of events.
        """
        check_signature(self._secrets, headers, body, self._now())
        try:
            return _decode(body).events
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadData(f"not a batch of lifecycle events: {error}") from None
