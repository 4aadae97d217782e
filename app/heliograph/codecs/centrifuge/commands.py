"""The commands of a client, in the form that both formats are decoded to."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

Uint32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Offset = Annotated[int, Meta(ge=0, le=2**53)]

MOST_COMMANDS: Final = 1000  # in one frame; each may be as short as two bytes, and costs as much as any other
ABSENT: Final = msgspec.Raw(b"")
NULL: Final = msgspec.Raw(b"null")


class SubscribeRequest(msgspec.Struct, frozen=True):
    """Subscribe; in a `ConnectRequest`: the position in a channel to which the server had subscribed the client."""

    channel: str = ""
    token: str | None = None
    recover: bool = False
    epoch: str = ""
    offset: Offset = 0
    join_leave: bool = False
    delta: str = ""
    flag: Annotated[int, Meta(ge=0, le=2**53)] = 0


class ConnectRequest(msgspec.Struct, frozen=True):
    """Identify the client. `headers`: those that a browser cannot set. `name`, `version`: of its program."""

    token: str | None = None
    data: msgspec.Raw = ABSENT
    subs: dict[str, SubscribeRequest] | None = None
    headers: dict[str, str] | None = None
    name: str | None = None
    version: str | None = None


class ChannelRequest(msgspec.Struct, frozen=True):
    """A request about one channel, and nothing else."""

    channel: str = ""


class StreamPosition(msgspec.Struct, frozen=True):
    offset: Offset = 0
    epoch: str = ""


class HistoryRequest(msgspec.Struct, frozen=True):
    """`limit`: at most so many publications; 0: only where the channel stands; -1: all."""

    channel: str = ""
    limit: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0
    since: StreamPosition | None = None
    reverse: bool = False


class PublishRequest(msgspec.Struct, frozen=True):
    channel: str = ""
    data: msgspec.Raw = ABSENT


class SendRequest(msgspec.Struct, frozen=True):
    data: msgspec.Raw = ABSENT


class RpcRequest(msgspec.Struct, frozen=True):
    method: str = ""
    data: msgspec.Raw = NULL


class RefreshRequest(msgspec.Struct, frozen=True):
    token: str = ""


class SubRefreshRequest(msgspec.Struct, frozen=True):
    """Stay on a channel with a new subscription token."""

    channel: str = ""
    token: str = ""


class Command(msgspec.Struct, frozen=True):
    """One command: a request with an id, a message without one, or the answer to a ping (empty)."""

    id: Uint32 = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: ChannelRequest | None = None
    publish: PublishRequest | None = None
    rpc: RpcRequest | None = None
    send: SendRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    history: HistoryRequest | None = None
    ping: dict[str, object] | None = None


class Head(msgspec.Struct, frozen=True):
    """As much of a refused command as is needed to answer it."""

    id: object = None


class Post(msgspec.Struct, frozen=True):
    """Commands that a client posts, because all that it has is a stream: see `posts.py`."""

    node: str = ""
    session: str = ""
    data: msgspec.Raw = ABSENT


class ConnectData(msgspec.Struct, frozen=True):
    """What a client may say of itself in open mode."""

    user: str | None = None
