"""What a client says in a WebSocket handshake, and whether it is accepted."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.types import Scope, Send

from heliograph.auth.authenticator import Authenticator, Credentials, Identity, credentials_of
from heliograph.cluster.node import Node
from heliograph.codecs.plain.cursor import stated
from heliograph.errors import BadUserId, BusUnavailable, HeliographError, InvalidToken, KeysUnavailable, UserBlocked
from heliograph.protocol.actions import Reject
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.operations import Connect
from heliograph.protocol.peer import Peer
from heliograph.telemetry import Telemetry
from heliograph.transports.address_limits import AddressLimits
from heliograph.transports.addresses import address_of
from heliograph.transports.authentication import OTHER_USER
from heliograph.transports.failed_attempts import TOO_MANY
from heliograph.transports.origins import REFUSED, OriginPolicy
from heliograph.transports.peers import Peers
from heliograph.transports.query import BadQuery, Query

PATH_NAMESPACES: Final = {"runs": "run", "logs": "logs"}  # part of the path -> namespace
RETRY_AFTER_S: Final = 1  # for a handshake that may be retried


@dataclass(frozen=True)
class Denial:
    """Why a handshake is refused."""

    status: int
    reason: str


class Handshake:
    """The content of a handshake: the client (`connect`; in the path: `user`), its channels and its address."""

    def __init__(
        self,
        connect: Connect | Reject | None,
        user: str | None,
        channels: tuple[str, ...],
        address: str,
        peer: Peer,
    ) -> None:
        self.connect = connect
        self.user = user
        self.channels = channels
        self.address = address
        self.peer = peer
        self.identity: Identity | None = None  # once it is checked

    @classmethod
    def read(cls, scope: Scope, peer: Peer, *, open_mode: bool) -> "Handshake":
        user, address = _user_in_path(scope), address_of(scope)
        try:
            query = Query(scope)
        except BadQuery as error:
            return cls(Reject(error.code, str(error), close=CloseCode.BAD_REQUEST), user, (), address, peer)
        connect = _connect_in_url(scope, query, user, open_mode=open_mode)
        return cls(connect, user, _channels_in_url(scope, query), address, peer)


class HandshakeCheck:
    """Decide whether a handshake is accepted.

    `open_mode`: clients may name themselves in the URL. `identifies`: a client whose handshake says who it is has to
    be that; otherwise its first frame says so.
    """

    def __init__(
        self,
        node: Node,
        origins: OriginPolicy,
        authenticator: Authenticator,
        by_address: AddressLimits,
        telemetry: Telemetry,
        peers: Peers,
        *,
        open_mode: bool,
        identifies: bool = True,
    ) -> None:
        self._node = node
        self._origins = origins
        self._authenticator = authenticator
        self._by_address = by_address
        self._telemetry = telemetry
        self._peers = peers
        self._open_mode = open_mode
        self._identifies = identifies

    async def check(self, scope: Scope) -> Handshake | Denial:
        """Return the handshake if it is accepted: then its address has one connection more."""
        checked = await self._check(scope)
        if isinstance(checked, Denial):
            self._telemetry.connections_refused += 1
        return checked

    def check_now(self, scope: Scope) -> Handshake | None:
        """Return what `check` would, if that is a handshake and it takes no time; None: ask `check`."""
        if self._node.draining or not self._node.was_started:
            return None
        if not self._origins.admits(scope["headers"]):
            return None
        handshake = self._read(scope)
        if self._identifies and not _is_of_a_page(scope) and not self._identify_now(handshake):
            return None
        return None if self._by_address.connections.enter(scope) is None else handshake

    async def _check(self, scope: Scope) -> Handshake | Denial:
        if self._node.draining:
            # 503 before the upgrade: nginx hands the handshake on to another replica.
            return Denial(503, "this replica is shutting down; try again")
        if not self._origins.admits(scope["headers"]):
            return Denial(403, REFUSED)
        handshake = self._read(scope)
        # A page cannot see a status: accept it, and close it with the code of the refusal.
        if self._identifies and not _is_of_a_page(scope):
            denial = await self._check_identity(handshake)
            if denial is not None:
                return denial
        if self._by_address.connections.enter(scope) is None:
            return Denial(429, self._by_address.connections.refusal)
        return handshake

    def _read(self, scope: Scope) -> Handshake:
        return Handshake.read(scope, self._peers.of(scope, "websocket"), open_mode=self._open_mode)

    def _identify_now(self, handshake: Handshake) -> bool:
        """Check the identity in the handshake, if there is one; False if it is wrong, or has to be awaited."""
        connect = handshake.connect
        if isinstance(connect, Reject):
            return connect.close is not CloseCode.INVALID_TOKEN
        if connect is None or connect.token is connect.ticket is None:
            return True
        try:
            identity = self._authenticator.identify_now(Credentials(connect.token, connect.user, connect.ticket))
        except HeliographError:
            return False
        if identity is None or handshake.user not in (None, identity.user):
            return False
        handshake.identity = identity
        return True

    async def _check_identity(self, handshake: Handshake) -> Denial | None:
        """Check the identity in the handshake, if there is one. Return why it is refused."""
        connect = handshake.connect
        bad: InvalidToken
        try:
            if isinstance(connect, Reject):
                if connect.close is not CloseCode.INVALID_TOKEN:
                    return None
                raise InvalidToken(connect.message)
            if connect is None or connect.token is connect.ticket is None:
                return None
            credentials = Credentials(connect.token, connect.user, connect.ticket)
            identity = await self._authenticator.identify(credentials)
        except InvalidToken as error:
            bad = error
        except UserBlocked as error:
            return Denial(403, str(error))
        except BadUserId as error:
            return Denial(400, str(error))
        except (BusUnavailable, KeysUnavailable):
            return None  # it cannot be checked now: the socket is closed with a code that says so
        else:
            if handshake.user not in (None, identity.user):
                return Denial(403, OTHER_USER)
            handshake.identity = identity
            return None
        if not await self._by_address.failed_attempts.failed(handshake.address):
            return Denial(429, TOO_MANY)
        return Denial(401, str(bad))


def _connect_in_url(scope: Scope, query: Query, user: str | None, *, open_mode: bool) -> Connect | Reject | None:
    """Return the `connect` in a handshake, which replaces the first frame; `user`: the one in the path."""
    try:
        credentials = credentials_of(scope, query)
    except InvalidToken as error:
        return Reject(error.code, str(error), close=CloseCode.INVALID_TOKEN)
    if user is None:
        user = credentials.user
    if not open_mode:
        user = None
    if user is credentials.token is credentials.ticket is None:
        return None
    return Connect(
        token=credentials.token,
        user=user,
        ticket=credentials.ticket,
        since=stated(query.get("cursor")),
        replay="replay" in query,
        device=query.get("device"),
    )


def _user_in_path(scope: Scope) -> str | None:
    """Return the user of `/ws/users/…`; bytes that are not UTF-8 become lone surrogates."""
    if "user" not in scope.get("path_params", ()):
        return None
    _, _, name = scope["raw_path"].partition(b"/ws/users/")
    return unquote_to_bytes(name).decode(errors="surrogateescape")


def _channels_in_url(scope: Scope, query: Query) -> tuple[str, ...]:
    """Return the channel in the path, then those in the query."""
    params = scope.get("path_params", {})
    named = tuple(f"{namespace}:{params[kind]}" for kind, namespace in PATH_NAMESPACES.items() if kind in params)
    return named + query.channels


def _is_of_a_page(scope: Scope) -> bool:
    return any(name == b"origin" for name, _ in scope["headers"])


async def deny(scope: Scope, send: Send, status: int, reason: str) -> None:
    """Answer the handshake with an HTTP status, or with a bare refusal where the server cannot do that."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1013, "reason": reason})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    elif status in (429, 503):
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reason.encode() + b"\n"})
