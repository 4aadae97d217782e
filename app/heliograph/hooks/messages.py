"""Requests and answers of hooks, as JSON.

They are those of Centrifugo's HTTP proxy, so that a backend that was written for it answers unchanged. In an answer,
null is as good as a field that is missing: many serializers write all of them.
"""

from typing import Any, Generic, TypeVar

import msgspec

from heliograph.protocol.publication import check_data, json_of_base64

NO_JSON = msgspec.Raw(b"")  # a field that is missing

_Result = TypeVar("_Result")


class Refusal(msgspec.Struct, frozen=True):
    """The backend says no. `temporary`: asking again later may help."""

    code: int = 0
    message: str | None = None
    temporary: bool | None = None


class Disconnection(msgspec.Struct, frozen=True):
    """The backend wants the connection closed, with a code from 3000 to 4999."""

    code: int
    reason: str | None = None


class Answer(msgspec.Struct, Generic[_Result], frozen=True):
    """An answer has one of the three."""

    result: _Result | None = None
    error: Refusal | None = None
    disconnect: Disconnection | None = None


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """What each request has: the connection's id, and how the client is connected."""

    client: str
    transport: str
    protocol: str
    encoding: str


class ConnectCall(Call, frozen=True, kw_only=True):
    """Who is this?"""

    data: msgspec.Raw = NO_JSON
    name: str | None = None
    version: str | None = None
    channels: tuple[str, ...] = ()


class UserCall(Call, frozen=True, kw_only=True):
    """A request about an identified client. By itself: may it stay?"""

    user: str
    meta: msgspec.Raw = NO_JSON


class ChannelCall(UserCall, frozen=True, kw_only=True):
    """A request about a channel. By itself: may the client stay on it?"""

    channel: str


class SubscribeCall(ChannelCall, frozen=True, kw_only=True):
    """May it read the channel?"""

    token: str | None = None


class PublishCall(ChannelCall, frozen=True, kw_only=True):
    """May it publish these data on the channel?"""

    data: msgspec.Raw


class RpcCall(UserCall, frozen=True, kw_only=True):
    """Call a method."""

    method: str
    data: msgspec.Raw


class ConnectResult(msgspec.Struct, frozen=True):
    """`expire_at`: seconds since the epoch; 0: never. `channels`, `subs`: subscribed at once."""

    user: str | None = None
    expire_at: float | None = None
    info: msgspec.Raw = NO_JSON
    b64info: str | None = None
    data: msgspec.Raw = NO_JSON
    b64data: str | None = None
    channels: list[str] | None = None
    subs: dict[str, dict[str, Any]] | None = None
    meta: msgspec.Raw = NO_JSON


class RefreshResult(msgspec.Struct, frozen=True):
    """Whether the client has to go, or until when it may stay (seconds since the epoch; 0: for ever)."""

    expired: bool | None = None
    expire_at: float | None = None
    meta: msgspec.Raw = NO_JSON


class SubscribeResult(msgspec.Struct, frozen=True):
    """`expire_at`: until when the client may stay on the channel (seconds since the epoch; 0: for ever).

    `data`: told to clients of SDKs with the subscription.
    """

    expire_at: float | None = None
    info: msgspec.Raw = NO_JSON
    b64info: str | None = None
    data: msgspec.Raw = NO_JSON
    b64data: str | None = None
    override: dict[str, Any] | None = None


class PublishResult(msgspec.Struct, frozen=True):
    """`data` replace those of the client; with `skip_history` the message is not kept."""

    data: msgspec.Raw = NO_JSON
    b64data: str | None = None
    skip_history: bool | None = None


class RpcResult(msgspec.Struct, frozen=True):
    """What the method returns."""

    data: msgspec.Raw = NO_JSON
    b64data: str | None = None


def json_in(plain: msgspec.Raw, b64: str | None, max_depth: int) -> msgspec.Raw | None:
    """Return JSON that an answer holds, as it is or in Base64; None if there is none (null too).

    Raises:
        BadData: it is not JSON that every client can read.
    """
    if b64:
        return json_of_base64(b64, max_depth)
    if not plain or bytes(plain) == b"null":
        return None
    found = plain.copy()  # by itself, without the rest of the answer
    check_data(found, max_depth)
    return found
