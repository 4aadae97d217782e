"""What holds for the channels of a namespace: what stands before the first `:` of a channel's name."""

import re

from app.errors import BadChannel
from app.settings import Namespace

MAX_CHANNEL_BYTES = 512
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


BUILT_IN = {
    "#": Namespace(history_size=100, history_ttl_s=300, client_publish=False),
    "run": Namespace(history_size=1000, history_ttl_s=86_400, client_publish=False, run=True, presence=True),
    "logs": Namespace(history_size=10_000, history_ttl_s=86_400, client_publish=False, replay=True, presence=True),
    "": Namespace(),
}


class Namespaces:
    """The options of every channel: those of its namespace, or those of the namespace without a name."""

    def __init__(self, overrides: dict[str, Namespace] | None = None) -> None:
        self._by_name = {**BUILT_IN, **(overrides or {})}

    def of(self, channel: str) -> Namespace:
        if channel.startswith("#"):
            return self._by_name["#"]
        name, colon, _ = channel.partition(":")
        return self._by_name.get(name if colon else "", self._by_name[""])


def check_channel(channel: str) -> str:
    """Return `channel` unchanged if it is 1-512 bytes of UTF-8 without control characters.

    Raises:
        BadChannel: with a text that says what is wrong.
    """
    if not channel or channel == "#":
        raise BadChannel("a channel's name must not be empty")
    try:
        size = len(channel.encode())
    except UnicodeEncodeError:
        raise BadChannel("a channel's name must be valid Unicode") from None
    if size > MAX_CHANNEL_BYTES:
        raise BadChannel(f"a channel's name has at most {MAX_CHANNEL_BYTES} bytes of UTF-8; this one has {size}")
    if found := _CONTROL_CHARACTER.search(channel):
        raise BadChannel(f"a channel's name must not hold control characters; this one has {found.group()!r}")
    return channel
