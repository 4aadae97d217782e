"""What one client's subscription to a channel has beside the channel's own options."""

from typing import Final

import msgspec


class SubscribeOptions(msgspec.Struct, frozen=True):
    """The options of one subscription.

    `info`: what presence says of the client on this channel, JSON. `expires_at`: when the right to it ends (seconds
    since the epoch; None: never). `join_leave`, `delta`: what the client has asked for, see `Subscribe`. `data`:
    told to the client with the subscription, JSON. `is_from_hook`: the user's backend has given that right, and is
    asked again at its end.
    """

    info: bytes | None = None
    expires_at: float | None = None
    join_leave: bool = False
    delta: str | None = None
    data: bytes | None = None
    is_from_hook: bool = False

    @property
    def token_expires_at(self) -> float | None:
        """When the client has to show another token; None: it need not."""
        return None if self.is_from_hook else self.expires_at


FOSSIL: Final = "fossil"  # the only kind of delta
NO_OPTIONS: Final = SubscribeOptions()
