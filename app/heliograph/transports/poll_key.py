"""What polls say, and what they are answered."""

import msgspec

from heliograph.auth.authenticator import Identity


class PollKey(msgspec.Struct, frozen=True):
    """What two polls must have in common for one to continue the other."""

    who: Identity
    channels: tuple[str, ...]
    cursor: str
    device: str = ""


class PollResponse(msgspec.Struct, frozen=True):
    """`cursor`: the client's positions after the events; it passes it to the next poll."""

    user: str
    replica: str
    cursor: str
    events: list[msgspec.Raw]
