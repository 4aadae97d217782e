"""Identifies clients."""

import hashlib
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from starlette.types import Scope

from heliograph.auth.tokens import Identity, TokenReader
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.errors import BadUserId, InvalidToken, TokenNotCurrent, UserBlocked
from heliograph.ports import Tickets
from heliograph.protocol.grants import Permit
from heliograph.protocol.identity import check_user_id
from heliograph.protocol.operations import Connect
from heliograph.protocol.peer import Peer
from heliograph.settings import AuthSettings

__all__ = ["Authenticator", "Credentials", "Identity", "credentials_of"]

NO_CONNECT: Final = Connect()
TICKET_BYTES: Final = 32
# Rights to return that are kept for one user; the next one replaces the oldest. Ended streams count too, and a user
# may open many in a day.
RIGHTS_PER_USER: Final = 1000
MOST_PLACE: Final = 80  # characters of the name of the place of such a right
IN_URL: Final = (
    "a token does not belong in a URL, where logs and histories keep it: give it in the first frame, or in an "
    "'Authorization: Bearer' header, or get a ticket for it with POST /api/ticket and give that as ?ticket="
)


class Credentials(msgspec.Struct, frozen=True):
    """A client's credentials: a token or a ticket in jwt mode, a user id or a ticket in open mode."""

    token: str | None = None
    user: str | None = None
    ticket: str | None = None


def credentials_of(scope: Scope, query: Mapping[str, str]) -> Credentials:
    """Read the credentials of a request or a handshake: `Authorization: Bearer …`, `?ticket=`, `?user=`.

    Raises:
        InvalidToken: a token stands where it must not be, or there are two credentials.
    """
    if "token" in query or "access_token" in query:
        raise InvalidToken(IN_URL)
    token, ticket = None, query.get("ticket")
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, written = value.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer":
                continue
            if token is not None or ticket is not None:
                raise InvalidToken("say once who you are: one 'Authorization: Bearer' header, or one ticket")
            token = written.strip()
    return Credentials(token, query.get("user"), ticket)


AskBackend = Callable[[Peer, Connect], Awaitable[Identity]]


class Authenticator:
    """Identify clients: in jwt mode by their token, in open mode by the name that they give.

    `ask_backend`: who a client without a token is, in any mode.

    A ticket replaces either, once, within a few seconds, on any replica.
    """

    def __init__(
        self,
        settings: AuthSettings,
        tickets: Tickets,
        blocked: BlockedUsers,
        ask_backend: AskBackend | None = None,
    ) -> None:
        self.mode = settings.mode
        self.ticket_ttl_s = settings.ticket_ttl_s
        self.subscription_grace_s = settings.subscription_grace_s
        self._stream_return_s = settings.stream_return_s
        self._tickets = tickets
        self._blocked = blocked
        self._ask_backend = ask_backend
        self._tokens = TokenReader(settings) if settings.mode == "jwt" else None

    async def identify(
        self, credentials: Credentials, peer: Peer | None = None, connect: Connect = NO_CONNECT
    ) -> Identity:
        """Return the identity that these credentials prove.

        `peer`, `connect`: what the user's backend is told of a client without a token; without a peer nobody asks it.

        Raises:
            HookRefused, HookUnavailable: the user's backend says no, or does not answer.
            InvalidToken: the credentials prove nothing; TokenNotCurrent: another token may.
            UserBlocked: the server keeps the user out.
            BadUserId: the user id is not valid.
            KeysUnavailable, BusUnavailable: the credentials cannot be checked at the moment.
        """
        identity = await self._prove(credentials, peer, connect)
        self.check_not_blocked(identity.user)
        return identity

    def identify_now(self, credentials: Credentials) -> Identity | None:
        """Return what `identify` would, if nothing has to be awaited for it; None: ask `identify`.

        Raises:
            HeliographError: the credentials are wrong.
        """
        if credentials.ticket is not None or (credentials.token is None and self._ask_backend is not None):
            return None
        if self._tokens is not None:
            identity = None if credentials.token is None else self._tokens.read_now(credentials.token)
        elif self.mode == "open" and credentials.user is not None:
            identity = Identity(check_user_id(credentials.user))
        else:
            identity = None
        if identity is not None:
            self.check_not_blocked(identity.user)
        return identity

    def check_not_blocked(self, user: str) -> None:
        """Refuse a blocked user.

        Raises:
            UserBlocked: says for how long.
        """
        if (remaining_s := self._blocked.remaining_s(user)) > 0:
            raise UserBlocked(f"the server keeps this user out for another {math.ceil(remaining_s)} s")

    async def _prove(self, credentials: Credentials, peer: Peer | None, connect: Connect) -> Identity:
        if credentials.ticket is not None:
            return await self._redeem(credentials.ticket)
        if credentials.token is None and peer is not None and self._ask_backend is not None:
            return await self._ask_backend(peer, connect)
        if self._tokens is not None:
            if credentials.token is None:
                raise InvalidToken(
                    "say who you are: with a 'token' (or a 'ticket') in the connect frame, or with the header"
                    " 'Authorization: Bearer' or ?ticket="
                )
            return await self._tokens.read(credentials.token)
        if self.mode != "open":
            raise InvalidToken("tokens are not taken here: the connect hook says who a client is")
        if credentials.user is None:
            raise BadUserId("say who you are: ?user= in the URL, or 'user' in the connect frame")
        return Identity(check_user_id(credentials.user))

    async def permit(self, token: str, *, user: str, channel: str) -> Permit:
        """Return what this subscription token gives the user on the channel. It is for jwt mode.

        Raises:
            InvalidToken: the token is not valid, or not for this user and channel; TokenNotCurrent: another may be.
            KeysUnavailable: it cannot be checked at the moment.
        """
        if self._tokens is None:
            raise InvalidToken("subscription tokens are not read in open mode")
        permit = await self._tokens.read_permit(token)
        if permit.channel != channel:
            raise InvalidToken(f"the token is for the channel {permit.channel!r}")
        if permit.user != user:
            raise InvalidToken("the token is for another user")
        return permit

    async def issue_ticket(self, identity: Identity) -> str:
        """Issue a ticket for this identity.

        Raises:
            BusUnavailable: it could not be kept.
        """
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        await self._tickets.keep(_name(ticket), msgspec.json.encode(identity), self.ticket_ttl_s)
        return ticket

    async def keep_right_to_return(self, identity: Identity, ticket: str, right: str | None) -> str:
        """Keep the right of a stream's client to return with the same ticket, a secret that only the stream has.

        `right`: the present right, whose time is extended. A user has RIGHTS_PER_USER of them. Return the right.

        Raises:
            BusUnavailable: it could not be kept.
        """
        ttl_s = self._stream_return_s
        if identity.expires_at is not None:
            ttl_s = min(ttl_s, identity.expires_at - time.time())
        if ttl_s <= 0:
            return right or ""
        if not right:
            user = _name(identity.user)[:32]
            number = await self._tickets.count(f"rights:{user}", self._stream_return_s)
            right = f"{user}.{number % RIGHTS_PER_USER}.{secrets.token_urlsafe(TICKET_BYTES)}"
        kept = _Right(_name(f"{right} {ticket}"), identity)
        await self._tickets.keep(_place_of(right), msgspec.json.encode(kept), ttl_s)
        return right

    async def identify_returning(self, ticket: str, right: str) -> Identity | None:
        """Return the identity that has this right to return; None if it is unknown or no longer kept.

        Raises:
            UserBlocked: the server keeps the user out.
            BusUnavailable: the right cannot be checked at the moment.
        """
        found = await self._tickets.read(_place_of(right))
        if found is None:
            return None
        kept = msgspec.json.decode(found, type=_Right)
        if not secrets.compare_digest(kept.name, _name(f"{right} {ticket}")):
            return None  # another right has replaced it, or it is invented
        self.check_not_blocked(kept.identity.user)
        return None if _has_ended(kept.identity) else kept.identity

    async def stop(self) -> None:
        """Stop background work."""
        if self._tokens is not None:
            await self._tokens.stop()

    async def _redeem(self, ticket: str) -> Identity:
        kept = await self._tickets.take(_name(ticket))
        if kept is None:
            raise InvalidToken("the ticket is not valid: unknown, used before, or too old")
        identity = msgspec.json.decode(kept, type=Identity)
        if _has_ended(identity):
            raise TokenNotCurrent("the ticket is not valid: its token has expired")
        return identity


class _Right(msgspec.Struct, frozen=True):
    """A right to return as it is stored, in the place that its first two parts name. Later ones replace it there."""

    name: str  # digest of right and ticket
    identity: Identity


def _place_of(right: str) -> str:
    """Return the name under which a right is kept. No ticket can have that name."""
    return f"right:{right.rpartition('.')[0][:MOST_PLACE]}"


def _has_ended(identity: Identity) -> bool:
    return identity.expires_at is not None and identity.expires_at <= time.time()


def _name(ticket: str) -> str:
    """Return the name under which a ticket is kept. It does not reveal the ticket."""
    return hashlib.sha256(ticket.encode(errors="surrogatepass")).hexdigest()
