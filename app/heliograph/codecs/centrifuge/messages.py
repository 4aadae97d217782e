"""The numbers of the fields of commands and replies in Protobuf."""

from typing import Any, Final

from heliograph.codecs.centrifuge import commands, replies
from heliograph.codecs.centrifuge.wire import Field, Kind, Message


def _empty() -> dict[str, Any]:
    return {}


_SUBSCRIBE_REQUEST: Final = Message(
    commands.SubscribeRequest,
    Field(1, "channel", Kind.TEXT),
    Field(2, "token", Kind.TEXT),
    Field(3, "recover", Kind.FLAG),
    Field(6, "epoch", Kind.TEXT),
    Field(7, "offset", Kind.NUMBER),
    Field(11, "join_leave", Kind.FLAG),
    Field(12, "delta", Kind.TEXT),
    Field(14, "flag", Kind.NUMBER),
)
_CONNECT_REQUEST: Final = Message(
    commands.ConnectRequest,
    Field(1, "token", Kind.TEXT),
    Field(2, "data", Kind.RAW),
    Field(3, "subs", Kind.MESSAGE_BY_NAME, _SUBSCRIBE_REQUEST),
    Field(4, "name", Kind.TEXT),
    Field(5, "version", Kind.TEXT),
    Field(6, "headers", Kind.TEXT_BY_NAME),
)
_CHANNEL_REQUEST: Final = Message(commands.ChannelRequest, Field(1, "channel", Kind.TEXT))
_STREAM_POSITION: Final = Message(
    commands.StreamPosition, Field(1, "offset", Kind.NUMBER), Field(2, "epoch", Kind.TEXT)
)
_HISTORY_REQUEST: Final = Message(
    commands.HistoryRequest,
    Field(1, "channel", Kind.TEXT),
    Field(7, "limit", Kind.SIGNED),
    Field(8, "since", Kind.MESSAGE, _STREAM_POSITION),
    Field(9, "reverse", Kind.FLAG),
)
_PUBLISH_REQUEST: Final = Message(commands.PublishRequest, Field(1, "channel", Kind.TEXT), Field(2, "data", Kind.RAW))
_SEND_REQUEST: Final = Message(commands.SendRequest, Field(1, "data", Kind.RAW))
_RPC_REQUEST: Final = Message(commands.RpcRequest, Field(1, "data", Kind.RAW), Field(2, "method", Kind.TEXT))
_REFRESH_REQUEST: Final = Message(commands.RefreshRequest, Field(1, "token", Kind.TEXT))
_SUB_REFRESH_REQUEST: Final = Message(
    commands.SubRefreshRequest, Field(1, "channel", Kind.TEXT), Field(2, "token", Kind.TEXT)
)
_NOTHING: Final = Message(_empty)

COMMAND: Final = Message(
    commands.Command,
    Field(1, "id", Kind.NUMBER),
    Field(4, "connect", Kind.MESSAGE, _CONNECT_REQUEST),
    Field(5, "subscribe", Kind.MESSAGE, _SUBSCRIBE_REQUEST),
    Field(6, "unsubscribe", Kind.MESSAGE, _CHANNEL_REQUEST),
    Field(7, "publish", Kind.MESSAGE, _PUBLISH_REQUEST),
    Field(8, "presence", Kind.MESSAGE, _CHANNEL_REQUEST),
    Field(9, "presence_stats", Kind.MESSAGE, _CHANNEL_REQUEST),
    Field(10, "history", Kind.MESSAGE, _HISTORY_REQUEST),
    Field(11, "ping", Kind.MESSAGE, _NOTHING),
    Field(12, "send", Kind.MESSAGE, _SEND_REQUEST),
    Field(13, "rpc", Kind.MESSAGE, _RPC_REQUEST),
    Field(14, "refresh", Kind.MESSAGE, _REFRESH_REQUEST),
    Field(15, "sub_refresh", Kind.MESSAGE, _SUB_REFRESH_REQUEST),
)

POST: Final = Message(
    commands.Post, Field(1, "node", Kind.TEXT), Field(2, "session", Kind.TEXT), Field(3, "data", Kind.RAW)
)

_ERROR: Final = Message(
    replies.ErrorBody,
    Field(1, "code", Kind.NUMBER),
    Field(2, "message", Kind.TEXT),
    Field(3, "temporary", Kind.FLAG),
)
_CLIENT_INFO: Final = Message(
    replies.ClientInfo,
    Field(1, "user", Kind.TEXT),
    Field(2, "client", Kind.TEXT),
    Field(3, "conn_info", Kind.RAW),
    Field(4, "chan_info", Kind.RAW),
)
PUBLICATION: Final = Message(
    replies.Publication,
    Field(4, "data", Kind.RAW),
    Field(5, "info", Kind.MESSAGE, _CLIENT_INFO),
    Field(6, "offset", Kind.NUMBER),
    Field(7, "tags", Kind.TEXT_BY_NAME),
    Field(8, "delta", Kind.FLAG),
)
_INFO_PUSH: Final = Message(replies.InfoPush, Field(1, "info", Kind.MESSAGE, _CLIENT_INFO))
_UNSUBSCRIBE_PUSH: Final = Message(
    replies.UnsubscribePush, Field(2, "code", Kind.NUMBER), Field(3, "reason", Kind.TEXT)
)
_SUBSCRIBE_PUSH: Final = Message(
    replies.SubscribeResult,
    Field(1, "recoverable", Kind.FLAG),
    Field(4, "epoch", Kind.TEXT),
    Field(5, "offset", Kind.NUMBER),
    Field(6, "positioned", Kind.FLAG),
    Field(7, "data", Kind.RAW),
)
_SUBSCRIBE_RESULT: Final = Message(
    replies.SubscribeResult,
    Field(1, "expires", Kind.FLAG),
    Field(2, "ttl", Kind.NUMBER),
    Field(3, "recoverable", Kind.FLAG),
    Field(6, "epoch", Kind.TEXT),
    Field(7, "publications", Kind.MESSAGES, PUBLICATION),
    Field(8, "recovered", Kind.FLAG),
    Field(9, "offset", Kind.NUMBER),
    Field(10, "positioned", Kind.FLAG),
    Field(11, "data", Kind.RAW),
    Field(12, "was_recovering", Kind.FLAG),
    Field(13, "delta", Kind.FLAG),
)
_CONNECT_RESULT: Final = Message(
    replies.ConnectResult,
    Field(1, "client", Kind.TEXT),
    Field(2, "version", Kind.TEXT),
    Field(3, "expires", Kind.FLAG),
    Field(4, "ttl", Kind.NUMBER),
    Field(5, "data", Kind.RAW),
    Field(6, "subs", Kind.MESSAGE_BY_NAME, _SUBSCRIBE_RESULT),
    Field(7, "ping", Kind.NUMBER),
    Field(8, "pong", Kind.FLAG),
    Field(9, "session", Kind.TEXT),
    Field(10, "node", Kind.TEXT),
)
_DISCONNECT_PUSH: Final = Message(
    replies.DisconnectPush,
    Field(1, "code", Kind.NUMBER),
    Field(2, "reason", Kind.TEXT),
    Field(3, "reconnect", Kind.FLAG),
)
_REFRESH_PUSH: Final = Message(replies.RefreshPush, Field(1, "expires", Kind.FLAG), Field(2, "ttl", Kind.NUMBER))
_PUSH: Final = Message(
    replies.Push,
    Field(2, "channel", Kind.TEXT),
    Field(4, "pub", Kind.MESSAGE, PUBLICATION),
    Field(5, "join", Kind.MESSAGE, _INFO_PUSH),
    Field(6, "leave", Kind.MESSAGE, _INFO_PUSH),
    Field(7, "unsubscribe", Kind.MESSAGE, _UNSUBSCRIBE_PUSH),
    Field(9, "subscribe", Kind.MESSAGE, _SUBSCRIBE_PUSH),
    Field(11, "disconnect", Kind.MESSAGE, _DISCONNECT_PUSH),
    Field(12, "refresh", Kind.MESSAGE, _REFRESH_PUSH),
)
_PRESENCE_RESULT: Final = Message(replies.PresenceResult, Field(1, "presence", Kind.MESSAGE_BY_NAME, _CLIENT_INFO))
_PRESENCE_STATS_RESULT: Final = Message(
    replies.PresenceStatsResult, Field(1, "num_clients", Kind.NUMBER), Field(2, "num_users", Kind.NUMBER)
)
_SUB_REFRESH_RESULT: Final = Message(
    replies.SubRefreshResult, Field(1, "expires", Kind.FLAG), Field(2, "ttl", Kind.NUMBER)
)
_HISTORY_RESULT: Final = Message(
    replies.HistoryResult,
    Field(1, "publications", Kind.MESSAGES, PUBLICATION),
    Field(2, "epoch", Kind.TEXT),
    Field(3, "offset", Kind.NUMBER),
)
_RPC_RESULT: Final = Message(replies.RpcResult, Field(1, "data", Kind.RAW))
_REFRESH_RESULT: Final = Message(
    replies.RefreshResult,
    Field(1, "client", Kind.TEXT),
    Field(2, "version", Kind.TEXT),
    Field(3, "expires", Kind.FLAG),
    Field(4, "ttl", Kind.NUMBER),
)

REPLY: Final = Message(
    replies.Reply,
    Field(1, "id", Kind.NUMBER),
    Field(2, "error", Kind.MESSAGE, _ERROR),
    Field(4, "push", Kind.MESSAGE, _PUSH),
    Field(5, "connect", Kind.MESSAGE, _CONNECT_RESULT),
    Field(6, "subscribe", Kind.MESSAGE, _SUBSCRIBE_RESULT),
    Field(7, "unsubscribe", Kind.MESSAGE, _NOTHING),
    Field(8, "publish", Kind.MESSAGE, _NOTHING),
    Field(9, "presence", Kind.MESSAGE, _PRESENCE_RESULT),
    Field(10, "presence_stats", Kind.MESSAGE, _PRESENCE_STATS_RESULT),
    Field(11, "history", Kind.MESSAGE, _HISTORY_RESULT),
    Field(13, "rpc", Kind.MESSAGE, _RPC_RESULT),
    Field(14, "refresh", Kind.MESSAGE, _REFRESH_RESULT),
    Field(15, "sub_refresh", Kind.MESSAGE, _SUB_REFRESH_RESULT),
)
