"""A call of the append script as the program makes it."""

import msgspec

from heliograph.backends.redis.call_batch import Call
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.log import AppendCalls
from heliograph.ports import Draft
from heliograph.protocol.channel_options import Namespace


def append_call(keys: Keys, channel: str = "c", lease: str = "") -> Call:
    """That of one publication."""
    draft = Draft(channel=channel, data=msgspec.Raw(b"1"), message_id="id", sent_at="now")
    return AppendCalls(keys).of(draft, Namespace(), lease)
