"""A call of the append script as the program makes it."""

import msgspec

from app.backends.call_batch import Call
from app.backends.keys import Keys
from app.backends.protocols import Draft
from app.backends.redis_log import AppendCalls
from app.settings import Namespace


def append_call(keys: Keys, channel: str = "c", lease: str = "") -> Call:
    """That of one publication."""
    draft = Draft(channel=channel, data=msgspec.Raw(b"1"), message_id="id", sent_at="now")
    return AppendCalls(keys, "events").of(draft, Namespace(), lease)
