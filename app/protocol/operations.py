"""What a client may ask for. A codec reads these from its wire format; the session decides on them."""

from typing import Annotated

import msgspec
from msgspec import Meta

RequestId = Annotated[str, Meta(max_length=128)] | int


class Connect(msgspec.Struct, frozen=True, tag="connect"):
    """Say who you are; must come first. `user` counts in open mode only, `token` in jwt mode only."""

    token: str | None = None
    user: str | None = None
    id: RequestId | None = None


class Send(msgspec.Struct, frozen=True, tag="send"):
    """Send `data` (any JSON) to every connection of the user `to`."""

    to: str
    data: msgspec.Raw
    id: RequestId | None = None
    ephemeral: bool = False


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Ask for a sign of life."""

    id: RequestId | None = None


Operation = Connect | Send | Ping
