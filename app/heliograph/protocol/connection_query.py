"""What operators ask about connections, and what replicas answer each other."""

from typing import Literal

import msgspec

Sort = Literal["user", "newest", "channels", "sent", "received", "outbox"]
# Where a connection stands in an order: a value that rises, then its id.
Place = tuple[float | str, str]


class ConnectionQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which connections, in which order. An empty string: any.

    `search`: a part of the user's id in any case, or the beginning of the connection's id; `after`: those behind this
    place; `with_channels`: with the names of the first channels of each.
    """

    user: str = ""
    search: str = ""
    client: str = ""
    channel: str = ""
    transport: str = ""
    sort: Sort = "user"
    after: Place | None = None
    limit: int = 50
    with_channels: bool = False


class ConnectionInfo(msgspec.Struct, frozen=True):
    """One connection of a user.

    `client`: its id; `node_id`: that of its replica; `connected_at`: seconds since the epoch, by the replica's clock;
    `channels`: how many it is subscribed to, its user's own among them; `sent`: messages passed to it; `received`:
    operations of its client; `outbox_bytes`: what its client has not read; `paused`: the client does not read at
    the moment; `info`: what presence says of it, JSON; `channel_names`: of the first 200,
    only if they were asked for, and the answer had room for them; `info_bytes`: how long `info` is, if it is left out
    because it is too long, and then `info` is null.
    """

    client: str
    user: str
    replica: str
    node_id: str
    transport: str
    protocol: str
    connected_at: float
    channels: int
    sent: int
    received: int
    outbox_bytes: int
    paused: bool
    info: msgspec.Raw
    channel_names: tuple[str, ...] = ()
    info_bytes: int | msgspec.UnsetType = msgspec.UNSET


class ConnectionPage(msgspec.Struct, frozen=True):
    """One replica's answer. `matched`: how many connections are meant; `left`: how many of them come after the place.

    `found`: the first of these, each with its place.
    """

    matched: int
    left: int
    found: list[tuple[Place, ConnectionInfo]]
