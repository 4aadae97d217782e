"""The user's backend: what the rest of the program asks it, in its own terms."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, assert_never

import msgspec

from heliograph.auth.claims import LATEST_END, read_subs
from heliograph.auth.tokens import Identity
from heliograph.clock import Clock
from heliograph.errors import BadData, BadUserId, ErrorCode, HookRefused, HookUnavailable, InvalidToken
from heliograph.hooks.messages import (
    NO_JSON,
    Answer,
    Call,
    ChannelCall,
    ConnectCall,
    ConnectResult,
    Disconnection,
    PublishCall,
    PublishResult,
    RefreshResult,
    Refusal,
    RpcCall,
    RpcResult,
    SubscribeCall,
    SubscribeResult,
    UserCall,
    json_in,
)
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.decision import ALLOW, Deny, Grant, Hook, Rewrite, Verdict
from heliograph.protocol.grants import read_grants
from heliograph.protocol.identity import check_user_id, personal_channel
from heliograph.protocol.operations import (
    Connect,
    CountPresence,
    Publish,
    ReadHistory,
    ReadPresence,
    Rpc,
    Send,
    Subscribe,
)
from heliograph.protocol.peer import FORWARDED_FOR, Caller, Peer
from heliograph.settings import HookSettings
from heliograph.telemetry import HookStats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from heliograph.hooks.endpoint import HookEndpoint

# Codes of errors after which a client may come back, as in Centrifugo's protocol.
TEMPORARY: Final = frozenset({100, 111})
CLOSES: Final = range(3000, 5000)  # the close codes that a backend may choose
NUMBERS: Final = range(1, 1 << 32)  # the numbers that an error can have on every wire
NOT_ALLOWED: Final = "the backend does not allow it"
NULL: Final = msgspec.Raw(b"null")

# What the value of a header may be (RFC 9110, section 5.5), as far as it is ASCII.
_HEADER: Final = re.compile(r"[!-~](?:[\t -~]*[!-~])?")

_Result = TypeVar("_Result")
_to_json: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Renewal:
    """A client may stay until `expires_at` (seconds since the epoch; None: for ever). `meta`: as in `Caller`."""

    expires_at: float | None
    meta: bytes | None


class UserBackend:
    """Ask the hooks that the settings switch on. `stats`: gets the counters of each; `max_depth`: of JSON data."""

    def __init__(self, settings: HookSettings, stats: dict[str, HookStats], clock: Clock, *, max_depth: int) -> None:
        self._max_depth = max_depth
        self._headers = frozenset(map(str.lower, settings.headers)) - {FORWARDED_FOR}
        self._stats = stats
        self._endpoints: Mapping[Hook, HookEndpoint] = {}
        self._close: Callable[[], Awaitable[None]] | None = None
        if settings.urls():
            from heliograph.hooks.endpoint import open_endpoints  # its HTTP client is slow to import

            self._endpoints, self._close = open_endpoints(settings, stats, clock.monotonic)

    def has(self, hook: Hook) -> bool:
        """Return whether the settings switch this hook on."""
        return hook in self._endpoints

    async def stop(self) -> None:
        """Close the connections to the backend."""
        if self._close is not None:
            await self._close()

    def peer_of(self, peer: Peer, connect: Connect) -> Peer:
        """Return the peer with those headers in its `connect` that hooks pass on, for clients that can set no others.

        They replace none that came with the request, and no address.
        """
        if not connect.headers:
            return peer
        wanted = self._headers - {name for name, _ in peer.headers}
        given = [(name.lower(), value) for name, value in connect.headers if _HEADER.fullmatch(value)]
        added = tuple((name, value) for name, value in given if name in wanted)
        return msgspec.structs.replace(peer, headers=peer.headers + added)

    async def identify(self, peer: Peer, connect: Connect) -> Identity:
        """Ask who a client is.

        Raises:
            HookRefused: the backend does not let it in.
            HookUnavailable: the backend does not say.
        """
        request = ConnectCall(
            *_about(peer),
            data=connect.data or NO_JSON,
            name=connect.name,
            version=connect.version,
            channels=connect.channels,
        )
        result = await self._ask(Hook.CONNECT, peer, request, _read_connect)
        if isinstance(result, Deny):
            raise HookRefused(result.reason, result.code, result.number, result.close)
        try:
            return Identity(
                check_user_id(result.user or ""),
                _end_in(result.expire_at),
                read_grants(result.channels or []).joined_with(read_subs(result.subs or {})),
                info=self._bytes_in(result.info, result.b64info),
                meta=self._bytes_in(result.meta, None),
                data=self._bytes_in(result.data, result.b64data),
                is_from_hook=True,
            )
        except (BadUserId, InvalidToken, BadData) as error:
            raise self._endpoints[Hook.CONNECT].reject(f"its answer cannot be used: {error}") from None

    async def refresh(self, caller: Caller) -> Renewal | Deny:
        """Ask whether a client may stay.

        Raises:
            HookUnavailable: the backend does not say.
        """
        request = UserCall(*_about(caller.peer), user=caller.user, meta=_meta(caller))
        result = await self._ask(Hook.REFRESH, caller.peer, request, _read_refresh)
        if isinstance(result, Deny):
            return result
        if result.expired:
            return Deny("the backend has let the connection expire", close=CloseCode.EXPIRED)
        return self._renewal(Hook.REFRESH, result, caller)

    async def refresh_subscription(self, caller: Caller, channel: str) -> Renewal | Deny:
        """Ask whether a client may stay on a channel.

        Raises:
            HookUnavailable: the backend does not say.
        """
        request = ChannelCall(*_about(caller.peer), user=caller.user, meta=_meta(caller), channel=channel)
        result = await self._ask(Hook.SUB_REFRESH, caller.peer, request, _read_refresh)
        if isinstance(result, Deny):
            return result
        if result.expired:
            return Deny("the backend has let the subscription expire")
        return self._renewal(Hook.SUB_REFRESH, result, caller)

    async def decide(
        self, caller: Caller, operation: Send | Publish | Subscribe | ReadHistory | ReadPresence | CountPresence
    ) -> Verdict:
        """Ask whether a client may do this. What is not known is not allowed."""
        try:
            match operation:
                case Send(to=to):
                    return await self._decide_publish(caller, personal_channel(to), operation.data)
                case Publish(channel=channel):
                    return await self._decide_publish(caller, channel, operation.data)
                case Subscribe(token=token):
                    return await self._decide_subscribe(caller, operation.channel, token)
                case ReadHistory() | ReadPresence() | CountPresence():
                    return await self._decide_subscribe(caller, operation.channel)
                case _:
                    assert_never(operation)
        except HookUnavailable as error:
            return Deny(str(error), error.code)

    async def call(self, caller: Caller, rpc: Rpc) -> msgspec.Raw | Deny:
        """Call a method. Return what it returns, or why it does not."""
        request = RpcCall(
            *_about(caller.peer), user=caller.user, meta=_meta(caller), method=rpc.method, data=rpc.data
        )
        try:
            result = await self._ask(Hook.RPC, caller.peer, request, _read_rpc)
            if isinstance(result, Deny):
                return result
            return self._json_in(Hook.RPC, result.data, result.b64data) or NULL
        except HookUnavailable as error:
            return Deny(str(error), error.code)

    async def _decide_publish(self, caller: Caller, channel: str, data: msgspec.Raw) -> Verdict:
        request = PublishCall(*_about(caller.peer), user=caller.user, meta=_meta(caller), channel=channel, data=data)
        result = await self._ask(Hook.PUBLISH, caller.peer, request, _read_publish)
        if isinstance(result, Deny):
            return result
        replaced = self._json_in(Hook.PUBLISH, result.data, result.b64data)
        if replaced is None and not result.skip_history:
            return ALLOW
        return Rewrite(replaced, bool(result.skip_history))

    async def _decide_subscribe(self, caller: Caller, channel: str, token: str | None = None) -> Verdict:
        request = SubscribeCall(
            *_about(caller.peer), user=caller.user, meta=_meta(caller), channel=channel, token=token
        )
        result = await self._ask(Hook.SUBSCRIBE, caller.peer, request, _read_subscribe)
        if isinstance(result, Deny):
            return result
        endpoint = self._endpoints[Hook.SUBSCRIBE]
        if result.override:
            raise endpoint.reject("its answer has an 'override'; options of channels are those of namespaces here")
        try:
            return Grant(
                self._bytes_in(result.info, result.b64info),
                _end_in(result.expire_at),
                self._bytes_in(result.data, result.b64data),
            )
        except BadData as error:
            raise endpoint.reject(f"its answer cannot be used: {error}") from None

    async def _ask(
        self, hook: Hook, peer: Peer, request: Call, read: "msgspec.json.Decoder[Answer[_Result]]"
    ) -> _Result | Deny:
        """Return the result of a hook, or its refusal.

        Raises:
            HookUnavailable: there is neither.
        """
        endpoint = self._endpoints[hook]
        body = await endpoint.call(_to_json(request), peer.headers)
        try:
            answer = read.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise endpoint.reject(f"its answer is not as it should be: {error}") from None
        denial = _denial(answer)
        if denial is None and answer.result is not None:
            return answer.result
        self._stats[hook.value].denied += 1
        return denial or Deny(NOT_ALLOWED)

    def _renewal(self, hook: Hook, result: RefreshResult, caller: Caller) -> Renewal:
        try:
            meta = self._bytes_in(result.meta, None)
            return Renewal(_end_in(result.expire_at), caller.meta if meta is None else meta)
        except BadData as error:
            raise self._endpoints[hook].reject(f"its answer cannot be used: {error}") from None

    def _json_in(self, hook: Hook, plain: msgspec.Raw, b64: str | None) -> msgspec.Raw | None:
        try:
            return json_in(plain, b64, self._max_depth)
        except BadData as error:
            raise self._endpoints[hook].reject(f"its answer cannot be used: {error}") from None

    def _bytes_in(self, plain: msgspec.Raw, b64: str | None) -> bytes | None:
        """Return JSON to keep with a client. Raises BadData."""
        found = json_in(plain, b64, self._max_depth)
        return None if found is None else bytes(found)


_read_connect: Final = msgspec.json.Decoder(Answer[ConnectResult])
_read_refresh: Final = msgspec.json.Decoder(Answer[RefreshResult])
_read_subscribe: Final = msgspec.json.Decoder(Answer[SubscribeResult])
_read_publish: Final = msgspec.json.Decoder(Answer[PublishResult])
_read_rpc: Final = msgspec.json.Decoder(Answer[RpcResult])


def _about(peer: Peer) -> tuple[str, str, str, str]:
    return peer.connection, peer.transport, peer.protocol, "json"


def _end_in(expire_at: float | None) -> float | None:
    """Return when a right ends; None: never. Raises BadData."""
    if expire_at is not None and expire_at > LATEST_END:
        raise BadData("its 'expire_at' is no time that will come")
    return expire_at or None


def _meta(caller: Caller) -> msgspec.Raw:
    return NO_JSON if caller.meta is None else msgspec.Raw(caller.meta)


def _denial(answer: Answer[_Result]) -> Deny | None:
    """Return why the backend says no; None if it does not."""
    match answer:
        case Answer(disconnect=Disconnection(code=code, reason=reason)):
            return Deny(
                reason or "the backend closes the connection", close=code if code in CLOSES else CloseCode.NOT_ALLOWED
            )
        case Answer(error=Refusal(code=code, message=message, temporary=temporary)):
            kind = ErrorCode.UNAVAILABLE if temporary or code in TEMPORARY else ErrorCode.NOT_ALLOWED
            return Deny(message or NOT_ALLOWED, kind, number=code if code in NUMBERS else None)
        case _:
            return None
