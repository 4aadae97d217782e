"""The replies and pushes of the server, in the form that both formats are encoded from. Empty fields are left out."""

import msgspec

from heliograph.protocol.client_info import NO_INFO

Empty = dict[str, str]


class RunState(msgspec.Struct, frozen=True):
    """The state of a run as a publication: the fields of its updates, and its last log lines."""

    state: str | None
    progress: float
    message: str | None
    logs: list[str]


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    code: int
    message: str
    temporary: bool = False


class ClientInfo(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Who has published, joined or left, or is there. `client`: the connection; empty if it is unknown."""

    user: str
    client: str
    conn_info: msgspec.Raw = NO_INFO
    chan_info: msgspec.Raw = NO_INFO


class Publication(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`offset`: 0 if it is not kept. `delta`: the data is the difference from the publication before it."""

    data: msgspec.Raw
    offset: int = 0
    info: ClientInfo | None = None
    tags: dict[str, str] | None = None
    delta: bool = False


class PublicationPush(msgspec.Struct, frozen=True, gc=False):
    channel: str
    pub: Publication


class PublicationFrame(msgspec.Struct, frozen=True, gc=False):
    """By far the most frequent reply, with no fields for others."""

    push: PublicationPush


class SubscribeResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a subscription begins. `offset`: that of the last publication that the client has."""

    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] = []
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    was_recovering: bool = False
    expires: bool = False
    ttl: int = 0
    delta: bool = False
    data: msgspec.Raw | None = None


class ConnectResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """`client`: the connection; `ping`: seconds between the server's pings, which the client answers if `pong`."""

    client: str
    version: str
    data: msgspec.Raw | None = None
    expires: bool = False
    ttl: int = 0
    subs: dict[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""


class RefreshResult(msgspec.Struct, frozen=True, omit_defaults=True):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0


class PresenceResult(msgspec.Struct, frozen=True):
    presence: dict[str, ClientInfo]


class PresenceStatsResult(msgspec.Struct, frozen=True):
    num_clients: int
    num_users: int


class SubRefreshResult(msgspec.Struct, frozen=True, omit_defaults=True):
    expires: bool = False
    ttl: int = 0


class HistoryResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Publications of a channel, and where it stands."""

    publications: list[Publication] = []
    epoch: str = ""
    offset: int = 0


class RpcResult(msgspec.Struct, frozen=True):
    data: msgspec.Raw


class InfoPush(msgspec.Struct, frozen=True):
    info: ClientInfo


class UnsubscribePush(msgspec.Struct, frozen=True):
    code: int
    reason: str


class DisconnectPush(msgspec.Struct, frozen=True, omit_defaults=True):
    code: int
    reason: str
    reconnect: bool = False


class RefreshPush(msgspec.Struct, frozen=True, omit_defaults=True):
    expires: bool = False
    ttl: int = 0


class Push(msgspec.Struct, frozen=True, omit_defaults=True):
    channel: str = ""
    pub: Publication | None = None
    join: InfoPush | None = None
    leave: InfoPush | None = None
    unsubscribe: UnsubscribePush | None = None
    subscribe: SubscribeResult | None = None
    connect: ConnectResult | None = None
    disconnect: DisconnectPush | None = None
    refresh: RefreshPush | None = None


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to the command `id`, or a push; a ping of the server if it is empty."""

    id: int = 0
    error: ErrorBody | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: Empty | None = None
    publish: Empty | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    rpc: RpcResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None
