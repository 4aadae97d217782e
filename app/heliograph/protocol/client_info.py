"""What presence knows of one client on one channel."""

from typing import Final

import msgspec

NO_INFO: Final = msgspec.Raw(b"")


class ClientInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A client on a channel: the id of its session, its user, and what tokens say of it (NO_INFO: nothing).

    `conn_info`: JSON, the same on all of its channels; `chan_info`: JSON, for this channel alone.
    """

    client: str
    user: str
    conn_info: msgspec.Raw = NO_INFO
    chan_info: msgspec.Raw = NO_INFO


def info_of(said: bytes | None) -> msgspec.Raw:
    """Return what a token says, for a `ClientInfo`."""
    return NO_INFO if said is None else msgspec.Raw(said)
