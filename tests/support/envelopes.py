"""Envelopes to be published."""

import json
from typing import Any

import msgspec

from heliograph.protocol.envelope import Envelope

KOREAN = {"text": "안녕하세요, 우주여행고양이 🐈", "rtl": "שלום"}


def envelope(user: str = "bob", message: Any = "hello", **fields: Any) -> Envelope:
    """As a replica makes it."""
    raw = msgspec.Raw(json.dumps(message, ensure_ascii=False).encode())
    return Envelope(target_user_id=user, message=raw, message_id="message-1", **fields)


def content(received: Envelope) -> Any:
    """The message inside, decoded."""
    return json.loads(bytes(received.message))
