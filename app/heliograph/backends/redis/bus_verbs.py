"""The commands of Redis' publish and subscribe, and what it calls their pushes."""

from typing import Final, NamedTuple


class BusVerbs(NamedTuple):
    """Commands, then the first words of pushes: a message, and a subscription that has begun or ended."""

    publish: str
    subscribe: str
    unsubscribe: str
    message: bytes
    subscribed: bytes
    unsubscribed: bytes


PLAIN: Final = BusVerbs("PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE", b"message", b"subscribe", b"unsubscribe")
# In a cluster: only the server that owns the slot of the bus channel has the message.
SHARDED: Final = BusVerbs("SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE", b"smessage", b"ssubscribe", b"sunsubscribe")
