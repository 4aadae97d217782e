"""Parameters and results of the methods with which operators look around. Unknown fields are ignored."""

from typing import Any

import msgspec
from pydantic import Field

from heliograph.api.models import MAX_CLIENT_ID, Integer, Params
from heliograph.protocol.connection_query import ConnectionInfo, Sort
from heliograph.protocol.identity import MAX_CHANNEL_BYTES, MAX_USER_ID_BYTES


class PagedParams(Params):
    limit: Integer = Field(default=50, ge=1, le=500, description="how many are wanted at most")
    cursor: str = Field(default="", max_length=4096, description="`next` of the page before; empty for the first")


class KeptChannelsParams(PagedParams):
    prefix: str = Field(default="", max_length=MAX_CHANNEL_BYTES, description="how names begin, such as `run:`")
    search: str = Field(default="", max_length=MAX_CHANNEL_BYTES, description="what the rest of a name holds")


class ConnectionsParams(PagedParams):
    search: str = Field(
        default="",
        max_length=MAX_USER_ID_BYTES,
        description="a part of the user's id in any case, or the beginning of the connection's",
    )
    user: str = Field(default="", max_length=MAX_USER_ID_BYTES, description="only this user's")
    client: str = Field(default="", max_length=MAX_CLIENT_ID, description="only the connection with this id")
    channel: str = Field(default="", max_length=MAX_CHANNEL_BYTES, description="only those subscribed to it")
    transport: str = Field(default="", max_length=64, description="only those of this transport, such as `sse`")
    replica: str = Field(default="", max_length=255, description="only those on the replica with this name")
    sort: Sort = Field(
        default="user",
        description="`user`: by user id; `newest`: the latest first; the others: the largest number first",
    )
    with_channels: bool = Field(
        default=False, description="with the names of up to 200 channels of each, up to about 256 KB of names"
    )


class BlockedParams(PagedParams):
    search: str = Field(default="", max_length=MAX_USER_ID_BYTES, description="a part of the user's id in any case")


# The parameters of each method: their type says which it is.
OperatorParams = KeptChannelsParams | ConnectionsParams | BlockedParams


# -- results


class LatestPublication(msgspec.Struct, frozen=True, omit_defaults=True):
    """`sent_at`: ISO 8601 in UTC; `user`: the sender; missing if a program published it.

    `data` is missing if it has more than 2048 bytes.
    """

    message_id: str
    sent_at: str
    user: str = ""
    data: Any = msgspec.UNSET


class KeptChannelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A channel of which something is kept, with its position and its last publication."""

    channel: str
    offset: int
    epoch: str
    latest: LatestPublication | None = None


class KeptChannelsResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """In no order. `next`: the cursor of the next page, if there is one; a page may be empty and have a next one.

    `error`: which shard is left out, and why.
    """

    channels: list[KeptChannelInfo]
    next: str = ""
    error: str = ""


class ReplicaMatches(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many connections of one replica are meant; `error`: it has not answered, and why."""

    name: str
    node_id: str
    matched: int
    error: str = ""


class ConnectionsResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """`total`: how many connections are meant on all replicas that have answered; `next`: the next page's cursor.

    `error`: why only the replica that was asked is listed; `unnamed`: how many of the connections are without the
    names of their channels, because there are too many names for one page.
    """

    connections: list[ConnectionInfo]
    total: int
    replicas: list[ReplicaMatches]
    next: str = ""
    error: str = ""
    unnamed: int = 0


class BlockedUser(msgspec.Struct, frozen=True):
    """`remaining_s`: for how long the user is kept out."""

    user: str
    remaining_s: int


class BlockedResult(msgspec.Struct, frozen=True, omit_defaults=True):
    users: list[BlockedUser]
    total: int
    next: str = ""
