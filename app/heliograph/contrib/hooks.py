"""Requests and answers of hooks, for a backend in any framework; `contrib.fastapi` and `contrib.django` serve them.

A function is called with what a hook asks, and returns the answer, or raises `Refuse` or `Disconnect`:

    connect       a Client; None: nobody is let in
    subscribe     True, False, or a Subscription
    publish       True, False, or a Message in the place of the client's
    rpc           what the call returns, any JSON
    refresh       until when the client may stay (seconds since the epoch); True: for ever; False: it has to go
    sub_refresh   the same of a client and a channel

The functions are called for clients by the cluster alone: it knows the secret that `Hooks` is made with, and sends it
in the header `X-Heliograph-Key` (`HELIOGRAPH_HOOKS__STATIC_HEADERS={"X-Heliograph-Key":"…"}`).
"""

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from heliograph.errors import BadData, BadSetting

_Function = TypeVar("_Function", bound=Callable[..., Any])

KEY_HEADER: Final = "X-Heliograph-Key"
LEAST_SECRET_BYTES: Final = 16
DENIED: Final = 103  # the number of "permission denied" in the protocol of the SDKs


@dataclass(frozen=True, kw_only=True)
class ConnectRequest:
    """Who is this? The cookies and other headers of the client are those of the HTTP request.

    `client`: the id of the connection. `data`, `name`, `version`: what a client of an SDK says of itself.
    """

    client: str
    transport: str = ""
    protocol: str = ""
    encoding: str = ""
    data: Any = None
    name: str = ""
    version: str = ""
    channels: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class RefreshRequest:
    """May this client stay? `meta`: what the answer to `connect` has attached to it."""

    client: str
    user: str
    transport: str = ""
    protocol: str = ""
    encoding: str = ""
    meta: Any = None


@dataclass(frozen=True, kw_only=True)
class SubRefreshRequest(RefreshRequest):
    """May this client stay on the channel?"""

    channel: str


@dataclass(frozen=True, kw_only=True)
class SubscribeRequest(RefreshRequest):
    """May this client read the channel? `token`: what a client of an SDK has given for it."""

    channel: str
    token: str = ""


@dataclass(frozen=True, kw_only=True)
class PublishRequest(RefreshRequest):
    """May this client publish `data` on the channel? A channel `#bob` is a message to the user bob."""

    channel: str
    data: Any


@dataclass(frozen=True, kw_only=True)
class RpcRequest(RefreshRequest):
    """A call by a client."""

    method: str
    data: Any


@dataclass(frozen=True)
class Client:
    """Who a client is.

    Args:
        user: the user that messages are sent to; of a framework's user, the primary key as text.
        channels: what the client is subscribed to at once.
        expire_at: when `refresh` is asked about it, or without that hook the connection ends (seconds since the
            epoch; None: never).
        info: what presence says of it. data: what it is told. meta: what later requests about it hold.
    """

    user: str
    channels: Sequence[str] = ()
    expire_at: float | None = None
    info: Any = None
    data: Any = None
    meta: Any = None


@dataclass(frozen=True)
class Subscription:
    """A client may read the channel. Its fields mean what those of `Client` do, on this channel."""

    expire_at: float | None = None
    info: Any = None
    data: Any = None


@dataclass(frozen=True)
class Message:
    """What is published: `data` in the place of the client's (None: the client's own). `skip_history`: not kept."""

    data: Any = None
    skip_history: bool = False


class Refuse(Exception):
    """The answer is no, for this reason, which the client is told.

    `code`: a number for the client's program, 400 or more; `temporary`: trying again later may help.
    """

    def __init__(self, message: str = "permission denied", code: int = DENIED, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.temporary = temporary


class Disconnect(Exception):
    """Close the connection with this code. After 4000-4499 the client comes back, after 4500-4999 it does not."""

    def __init__(self, reason: str, code: int = 4500) -> None:
        super().__init__(reason)
        self.code = code


REQUESTS: Final[Mapping[str, type[Any]]] = {
    "connect": ConnectRequest,
    "refresh": RefreshRequest,
    "sub_refresh": SubRefreshRequest,
    "subscribe": SubscribeRequest,
    "publish": PublishRequest,
    "rpc": RpcRequest,
}


@dataclass(frozen=True)
class Secret:
    """What the cluster shows with each request.

    Raises:
        BadSetting: it is too short to be one.
    """

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.text.encode()) < LEAST_SECRET_BYTES:
            raise BadSetting(f"the secret of the hooks needs {LEAST_SECRET_BYTES} bytes or more")

    def is_shown(self, shown: str | None) -> bool:
        """Return whether the value of the header is the secret."""
        return shown is not None and hmac.compare_digest(self.text.encode(), shown.encode(errors="replace"))


class HookFunctions(ABC):
    """The functions of a backend's hooks. Each method decorates the function of one hook."""

    def __init__(self, secret: str) -> None:
        """`secret`: what the cluster shows with each request.

        Raises:
            BadSetting: it is too short to be one.
        """
        self._secret = Secret(secret)

    def connect(self, function: _Function) -> _Function:
        """The function is asked who a client is: `ConnectRequest -> Client | None`."""
        self._add("connect", function)
        return function

    def refresh(self, function: _Function) -> _Function:
        """The function is asked whether a client may stay: `RefreshRequest -> float | bool`."""
        self._add("refresh", function)
        return function

    def subscribe(self, function: _Function) -> _Function:
        """The function is asked whether a client may read a channel: `SubscribeRequest -> Subscription | bool`."""
        self._add("subscribe", function)
        return function

    def sub_refresh(self, function: _Function) -> _Function:
        """The function is asked whether a client may stay on a channel: `SubRefreshRequest -> float | bool`."""
        self._add("sub_refresh", function)
        return function

    def publish(self, function: _Function) -> _Function:
        """The function is asked whether a client may publish: `PublishRequest -> Message | bool`."""
        self._add("publish", function)
        return function

    def rpc(self, function: _Function) -> _Function:
        """The function answers a call: `RpcRequest -> any JSON`."""
        self._add("rpc", function)
        return function

    @abstractmethod
    def _add(self, hook: str, function: Callable[..., Any]) -> None:
        """Serve the hook with this function, as the framework does it."""


def read_request(hook: str, body: bytes) -> Any:
    """Return what a hook asks: an object of its class in `REQUESTS`.

    Raises:
        BadData: the body is no such request.
    """
    try:
        return msgspec.json.decode(body, type=REQUESTS[hook])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadData(f"not a request of the {hook} hook: {error}") from None


def answer_of(hook: str, returned: Any) -> bytes:
    """Return the body of the answer for what a function has returned, or for the Refuse or Disconnect it has raised.

    Raises:
        TypeError: the function of this hook cannot return that.
    """
    return msgspec.json.encode(_answer(hook, returned))


def _answer(hook: str, returned: Any) -> dict[str, Any]:
    match hook, returned:
        case _, Refuse():
            error = {"code": returned.code, "message": str(returned), "temporary": returned.temporary}
            return {"error": error}
        case _, Disconnect():
            return {"disconnect": {"code": returned.code, "reason": str(returned)}}
        case "rpc", _:
            return {"result": {"data": returned}}
        case ("connect", None) | ("subscribe" | "publish", False):
            return _answer(hook, Refuse())
        case ("connect", Client()) | ("subscribe", Subscription()) | ("publish", Message()):
            return {"result": {name: value for name, value in vars(returned).items() if value is not None}}
        case (("subscribe" | "publish" | "refresh" | "sub_refresh"), True):
            return {"result": {}}
        case (("refresh" | "sub_refresh"), False):
            return {"result": {"expired": True}}
        case (("refresh" | "sub_refresh"), (int() | float())):
            return {"result": {"expire_at": returned}}
    raise TypeError(f"the function of the {hook} hook returned {type(returned).__name__}, which is no answer to it")
