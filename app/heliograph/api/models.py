"""Parameters and results of the server API's methods. Unknown fields are ignored."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from heliograph.protocol.command import Selection
from heliograph.protocol.identity import MAX_CHANNEL_BYTES, MAX_USER_ID_BYTES

Json = Annotated[msgspec.Raw, WithJsonSchema({"description": "any JSON"})]

# The rule for names in the document. The real checks are elsewhere, with clearer errors.
_NAME: Final[dict[str, Any]] = {"minLength": 1, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}
Channel = Annotated[
    str,
    Field(
        description="`chat:1`; `#bob` is all that bob listens with. At most 512 bytes of UTF-8",
        json_schema_extra={**_NAME, "maxLength": MAX_CHANNEL_BYTES},
    ),
]
User = Annotated[
    str,
    Field(
        description="at most 255 bytes of UTF-8",
        json_schema_extra={**_NAME, "maxLength": MAX_USER_ID_BYTES},
    ),
]
# Names that may be left out, for reading only: here these are the checks.
OptionalUser = Annotated[str, Field(max_length=MAX_USER_ID_BYTES, pattern=_NAME["pattern"])]
OptionalChannel = Annotated[str, Field(max_length=MAX_CHANNEL_BYTES, pattern=_NAME["pattern"])]
BASE64: Final[dict[str, Any]] = {"contentEncoding": "base64"}
MAX_CLIENT_ID: Final = 64
MAX_TIME: Final = 253_402_300_799  # the end of the year 9999
# JSON has one kind of number: 5.0 is an integer in it.
Integer = Annotated[int, BeforeValidator(lambda value: int(value) if _is_whole(value) else value)]

IDEMPOTENCY_KEY = Field(
    default=None,
    max_length=256,
    description="a repetition with the same key within 300 s is answered as the first try was, and changes nothing",
)


IdempotencyKey = Annotated[str, msgspec.Meta(max_length=256)] | None  # as msgspec reads it


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


class Params(BaseModel):
    """JSON values of other types are refused, not converted."""

    model_config = ConfigDict(strict=True, frozen=True, arbitrary_types_allowed=True)


def _one_of_two(schema: dict[str, Any]) -> None:
    """Describe that `b64data` may stand instead of `data`. It is decoded before the parameters are checked."""
    schema["required"].remove("data")
    in_base64 = {"required": ["b64data"], "properties": {"b64data": {"type": "string", "minLength": 1}}}
    schema["anyOf"] = [{"required": ["data"]}, in_base64]


class DataParams(Params):
    """What to publish."""

    model_config = ConfigDict(json_schema_extra=_one_of_two)

    data: Json
    b64data: str = Field(default="", description="JSON in base64, instead of `data`", json_schema_extra=BASE64)
    idempotency_key: str | None = IDEMPOTENCY_KEY
    skip_history: bool = Field(default=False, description="deliver it now, and do not keep it")
    tags: dict[str, str] = Field(default={}, description="for clients whose protocol has tags")
    delta: bool = Field(
        default=False, description="accepted; who gets differences is the choice of subscribers and namespaces"
    )


class PublishParams(DataParams):
    channel: Channel


class UsualPublishParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same in the form that nearly all have, read in one step. Any other form is read as `PublishParams`."""

    channel: str
    data: msgspec.Raw
    idempotency_key: IdempotencyKey = None


class _UsualCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    publish: UsualPublishParams


class UsualBatchParams(msgspec.Struct, frozen=True):
    """A batch of such publications. Unknown fields are ignored, as by `BatchParams`."""

    commands: list[_UsualCommand]
    parallel: bool = False


class UsualBroadcastParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    channels: Annotated[list[str], msgspec.Meta(min_length=1)]
    data: msgspec.Raw
    idempotency_key: IdempotencyKey = None


class BroadcastParams(DataParams):
    channels: list[Channel] = Field(min_length=1)


class ChannelParams(Params):
    channel: Channel


class StreamPosition(Params):
    offset: Integer = Field(default=0, ge=0)
    epoch: str = ""


class PresenceParams(ChannelParams):
    pass


class PresenceStatsParams(ChannelParams):
    pass


class HistoryParams(ChannelParams):
    limit: Integer = Field(default=0, ge=-1, le=1000, description="0: only the channel's position; -1: 1000")
    since: StreamPosition | None = Field(default=None, description="only publications after this position")
    reverse: bool = Field(default=False, description="newest first (with `since`: publications before it)")
    with_ids: bool = Field(default=False, description="also the id and the time of each, and where it was sent")


class ChannelsParams(Params):
    pattern: str = Field(default="", max_length=512, description="a shell pattern: `chat:*`; empty for all")
    limit: Integer = Field(default=0, ge=0, le=1000, description="a page of so many; 0: all channels at once")
    cursor: str = Field(default="", max_length=4096, description="`next` of the page before; empty for the first")
    sort: Literal["name", "clients"] = Field(default="name", description="of a page: by name, or the fullest first")


class UsersParams(Params):
    pass


class DisconnectReason(Params):
    code: Integer = Field(
        default=3503,
        description="a close code, 3000-4999; 0: 3503. After 4000-4499 clients come back, after 4500-4999 not",
        json_schema_extra={"anyOf": [{"const": 0}, {"minimum": 3000, "maximum": 4999}]},
    )
    reason: str = Field(default="", max_length=100)


class SelectiveParams(Params):
    """A command for a user's connections, or for those with these ids."""

    user: User
    client: str = Field(default="", max_length=MAX_CLIENT_ID, description="only the connection with this id")
    session: str = Field(default="", max_length=MAX_CLIENT_ID, description="only the connection of this session")

    def selection(self) -> Selection:
        return Selection(self.client, self.session)


class DisconnectParams(SelectiveParams):
    # A block is for the whole user.
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"block_s": {"type": "null"}}},
                {
                    "properties": {
                        "client": {"enum": ["", None]},
                        "session": {"enum": ["", None]},
                        "whitelist": {"maxItems": 0},
                    }
                },
            ]
        }
    )

    whitelist: list[str] = Field(default=[], max_length=1000, description="all but the connections with these ids")
    disconnect: DisconnectReason = DisconnectReason()
    block_s: float | None = Field(
        default=None, ge=0, le=31_536_000, description="keep the user out for so many seconds; 0: no longer"
    )

    def selection(self) -> Selection:
        return Selection(self.client, self.session, tuple(self.whitelist))


class SubscribeParams(SelectiveParams):
    channel: Channel
    recover_since: StreamPosition | None = Field(
        default=None, description="continue from this position; without it from now on"
    )
    info: Json | None = Field(default=None, description="what presence says of the connections on this channel")
    b64info: str = Field(default="", description="`info` in base64", json_schema_extra=BASE64)
    data: Json | None = Field(default=None, description="told to clients of SDKs with the subscription")
    b64data: str = Field(default="", description="`data` in base64", json_schema_extra=BASE64)
    expire_at: Integer = Field(
        default=0, ge=0, le=MAX_TIME, description="when the subscription ends (Unix time); 0: never"
    )


class UnsubscribeParams(SelectiveParams):
    channel: Channel


class RefreshParams(SelectiveParams):
    expired: bool = Field(default=False, description="close with 3005: the client must bring a new token")
    expire_at: Integer = Field(
        default=0, ge=0, le=MAX_TIME, description="when to close with 3005 (Unix time); 0: never"
    )


class HistoryRemoveParams(ChannelParams):
    pass


class RpcParams(Params):
    method: str = Field(min_length=1, max_length=255, description="the name of the method")
    params: Json | None = Field(default=None, description="its parameters")


class InfoParams(Params):
    """No parameters."""


class BatchParams(Params):
    commands: list[dict[str, Json]] = Field(
        description="each an object with one field: the method, with its parameters"
    )
    parallel: bool = Field(default=False, description="do not wait for one before the next")


class ReceiptsParams(Params):
    user: User
    channel: OptionalChannel = Field(
        default="", description="only in this channel; empty: in all, or with `position` in the user's own"
    )
    position: StreamPosition | None = Field(
        default=None, description="say of each device whether it has the publication at this position of `channel`"
    )


class TraceParams(Params):
    """With a user and a message: what became of it. Otherwise: the notes about a user, a channel, …, or all."""

    user: OptionalUser = Field(default="", description="whose connections are asked about")
    message_id: str = Field(default="", max_length=512, description="as `ack` and the message itself say it")
    channel: OptionalChannel = Field(default="", description="where the message was published")
    connection: str = Field(default="", max_length=MAX_CLIENT_ID, description="the id of a connection (`session`)")
    since: str | None = Field(
        default=None,
        max_length=4096,
        pattern=r"^([0-9a-f]{1,64}:\d{1,18}(,|$))*$",
        description="the `cursor` of the answer before; empty: all that is known; missing: nothing but a cursor, to "
        "continue from",
    )
    limit: Integer = Field(default=200, ge=1, le=1000, description="notes of each replica, at most; the newest")


# The parameters of each method: their type says which it is.
AnyParams = (
    PublishParams
    | BroadcastParams
    | PresenceParams
    | PresenceStatsParams
    | HistoryParams
    | ChannelsParams
    | InfoParams
    | UsersParams
    | DisconnectParams
    | SubscribeParams
    | UnsubscribeParams
    | RefreshParams
    | HistoryRemoveParams
    | RpcParams
    | ReceiptsParams
    | TraceParams
    | BatchParams
)


class MethodCall(msgspec.Struct, frozen=True):
    """One line of a request to `/api`."""

    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


# -- results


class ErrorInfo(msgspec.Struct, frozen=True):
    code: int
    message: str


class PositionResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Both are missing if the publication is not kept."""

    offset: int = 0
    epoch: str = ""


class BroadcastResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Either a result or an error."""

    result: PositionResult | None = None
    error: ErrorInfo | None = None


class BroadcastResult(msgspec.Struct, frozen=True):
    """One response for each channel, in order."""

    responses: list[BroadcastResponse]


class ClientInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A connection: its id and its user. `conn_info`, `chan_info`: what is said of it, and of it on this channel."""

    client: str
    user: str
    conn_info: Any = None
    chan_info: Any = None


class PublicationInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """`info`: the sender; missing if a program published it. `tags`: what the program attached to it.

    `message_id`, `sent_at` (ISO 8601 in UTC) and `origin` (the replica that took it): only `with_ids`.
    """

    offset: int
    data: Any
    info: ClientInfo | None = None
    tags: Mapping[str, str] | None = None
    message_id: str = ""
    sent_at: str = ""
    origin: str = ""


class PresenceResult(msgspec.Struct, frozen=True):
    """An entry for each connection, under its id."""

    presence: dict[str, ClientInfo]


class PresenceStatsResult(msgspec.Struct, frozen=True):
    num_clients: int
    num_users: int


class HistoryResult(msgspec.Struct, frozen=True):
    """`offset`, `epoch`: the channel's position."""

    publications: list[PublicationInfo]
    offset: int
    epoch: str


class ChannelInfo(msgspec.Struct, frozen=True):
    num_clients: int


class ChannelsResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """`next`: the cursor of the next page, if there is one; `total`: how many there are. Both only with a `limit`.

    `error`: which shards are left out of a page, and why.
    """

    channels: dict[str, ChannelInfo]
    next: str = ""
    total: int | None = None
    error: str = ""


class NodeInfo(msgspec.Struct, frozen=True):
    """One replica. `uptime` in seconds."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_channels: int
    num_subs: int
    uptime: int


class UsersResult(msgspec.Struct, frozen=True):
    """The users who are online, in order of their ids."""

    users: list[str]


class InfoResult(msgspec.Struct, frozen=True):
    nodes: list[NodeInfo]


class RpcResult(msgspec.Struct, frozen=True):
    """What the user's backend has returned."""

    data: Any


class ReceiptInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a device has received of a channel: all up to the position. `device` is missing if it has no name.

    `at`: when the client said so, ISO 8601. `received`: whether that includes the position that was asked about.
    """

    channel: str
    epoch: str
    offset: int
    at: str
    device: str = ""
    received: bool | None = None


class ReceiptsResult(msgspec.Struct, frozen=True):
    receipts: list[ReceiptInfo]


class TracedMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """The message. Without `epoch` and `offset` it is not kept. `is_kept`: the log has it still."""

    message_id: str
    channel: str
    is_kept: bool
    sender: str = ""
    origin: str = ""
    epoch: str = ""
    offset: int = 0
    sent_at: str = ""


class TraceEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a replica has noted; `at`: ISO 8601. The other fields are those that the event has."""

    at: str
    replica: str
    event: str
    channel: str = ""
    message_id: str = ""
    connection: str = ""
    user: str = ""
    epoch: str = ""
    offset: int = 0
    up_to: int = 0
    text: str = ""


class TracedConnection(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of the message on a connection of the user; see docs/tracing.md for each `outcome`."""

    connection: str
    replica: str
    outcome: str
    device: str = ""
    at: str = ""
    caught_up: bool = False
    ended_at: str = ""
    code: int = 0


class TracedReplica(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of the message on a replica. `since`: its notes go back to there; `error`: why it says nothing."""

    replica: str
    since: str = ""
    delivered_at: str = ""
    repaired: bool = False
    lost_at: str = ""
    left_out: int = 0
    error: str = ""


class TraceResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """With a user and a message: `verdict`, `reached` (whether a connection of the user got it; null: not known),
    `message`, `connections`, `receipts`. Otherwise `entries`, oldest first, and the `cursor` to continue from.
    """

    replicas: list[TracedReplica]
    entries: list[TraceEntry]
    verdict: str = ""
    reached: bool | None = None
    message: TracedMessage | None = None
    connections: list[TracedConnection] = []
    receipts: list[ReceiptInfo] = []
    cursor: str = ""


class EmptyResult(msgspec.Struct, frozen=True):
    """The method succeeded, and has no result."""


class BatchResult(msgspec.Struct, frozen=True):
    """One reply for each command, in order: the method with its result, or `error`."""

    replies: list[dict[str, Any]]
