"""Operators: people who look after the cluster in the console. They log in once, and a cookie stands for them.

The cookie holds a random secret. Who it stands for is kept beside the tickets, under a name that does not reveal the
secret, so that every replica knows it and a logout ends it everywhere.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Final, Literal, assert_never

import msgspec

from heliograph.auth.authenticator import Authenticator, Credentials
from heliograph.errors import BusUnavailable, InvalidToken
from heliograph.loopback import is_loopback_host
from heliograph.ports import Tickets
from heliograph.settings import ApiSettings

SECRET_BYTES: Final = 32
MOST_SECRET: Final = 128  # characters: what is longer is no secret of ours
MOST_REMEMBERED: Final = 1000
BELIEVED_S: Final = 60.0  # for how long a session that Redis has confirmed is believed while Redis cannot be reached

Way = Literal["key", "token", "open"]  # how an operator has logged in


class Operator(msgspec.Struct, frozen=True):
    """One session. `name`: the user of the token; empty with the other ways. `ends_at`: seconds since the epoch.

    `key`: a digest of the key that was given: a session ends when the key is changed.
    """

    name: str
    way: Way
    ends_at: float
    key: str = ""

    @property
    def has_ended(self) -> bool:
        return self.ends_at <= time.time()


class Operators:
    """Log operators in and out, and recognise them.

    `is_open`: anyone who reaches the console from this machine is an operator. It is so in open mode on one machine,
    without a key of the server API.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        tickets: Tickets,
        api: ApiSettings,
        *,
        session_s: float,
        is_open: bool,
        monotonic: Callable[[], float],
    ) -> None:
        self._authenticator = authenticator
        self._tickets = tickets
        self._key = api.secret()
        self._session_s = session_s
        self._is_open = is_open
        self._monotonic = monotonic
        # By name of the secret, with the time of the confirmation: for when Redis cannot be reached.
        self._remembered: dict[str, tuple[Operator, float]] = {}

    def ways_from(self, address: str) -> list[Way]:
        """Return how a client with this address can log in here."""
        ways: list[Way] = []
        if self._key:
            ways.append("key")
        if self._authenticator.mode == "jwt":
            ways.append("token")
        if self._is_open_to(address):
            ways.append("open")
        return ways

    async def log_in(self, address: str, *, key: str = "", token: str = "") -> tuple[str, Operator]:
        """Return a new secret, and whom it stands for. `address`: the client's.

        Raises:
            InvalidToken: neither proves an operator.
            UserBlocked: the server keeps the token's user out.
            KeysUnavailable, BusUnavailable: not now.
        """
        operator = await self._prove(address, key, token)
        secret = secrets.token_urlsafe(SECRET_BYTES)
        name = _name(secret)
        await self._tickets.keep(name, msgspec.json.encode(operator), operator.ends_at - time.time())
        self._remember(name, operator)
        return secret, operator

    async def recognise(self, secret: str) -> Operator | None:
        """Return whom the secret stands for; None: nobody, or not any more.

        While Redis cannot be reached, only those are recognised whom this replica has read from it within the last
        minute (`BELIEVED_S`): a logout on another replica is not known here.
        """
        if not secret or len(secret) > MOST_SECRET:
            return None
        name = _name(secret)
        is_confirmed = True
        try:
            operator = _read(await self._tickets.read(name))
        except BusUnavailable:
            operator, is_confirmed = self._recall(name), False
        if operator is None or operator.has_ended or not self._still_counts(operator):
            self._remembered.pop(name, None)
            return None
        if operator.way == "token":
            self._authenticator.check_not_blocked(operator.name)
        if is_confirmed:
            self._remember(name, operator)
        return operator

    async def log_out(self, secret: str) -> None:
        """End the session. May be called more than once.

        It ends at once on every replica that reaches Redis. One that does not may take the secret for another minute
        (`BELIEVED_S`).

        Raises:
            BusUnavailable: Redis still keeps the session, so it goes on once Redis can be reached. Call again then.
        """
        if secret and len(secret) <= MOST_SECRET:
            name = _name(secret)
            self._remembered.pop(name, None)
            await self._tickets.take(name)

    async def _prove(self, address: str, key: str, token: str) -> Operator:
        now = time.time()
        if key:
            if self._key and secrets.compare_digest(key.strip().encode(errors="surrogatepass"), self._key):
                return Operator("", "key", now + self._session_s, self._digest_for("key"))
            raise InvalidToken(
                "this is not the key of the cluster (HELIOGRAPH_API__KEY)"
                if self._key
                else "no key is set here (HELIOGRAPH_API__KEY), so nobody can log in with one"
            )
        if token:
            if self._authenticator.mode != "jwt":
                raise InvalidToken("tokens are not taken here: log in with the key of the server API")
            identity = await self._authenticator.identify(Credentials(token=token))
            if not identity.is_admin:
                raise InvalidToken("the token is valid, and not an operator's: it needs the claim 'admin': true")
            ends_at = now + self._session_s
            if identity.expires_at is not None:
                ends_at = min(ends_at, identity.expires_at)
            return Operator(identity.user, "token", ends_at)
        if self._is_open_to(address):
            return Operator("", "open", now + self._session_s)
        raise InvalidToken("say who you are: give the key of the server API, or the token of an operator")

    def _still_counts(self, operator: Operator) -> bool:
        """Return whether one could log in so today: the key, the mode or the network may have changed since."""
        match operator.way:
            case "key":
                return operator.key == self._digest_for("key")
            case "token":
                return self._authenticator.mode == "jwt"
            case "open":
                return self._is_open
            case _:
                assert_never(operator.way)

    def _is_open_to(self, address: str) -> bool:
        return self._is_open and is_loopback_host(address)

    def _digest_for(self, way: Way) -> str:
        return hashlib.sha256(b"operator:" + self._key).hexdigest()[:16] if way == "key" else ""

    def _remember(self, name: str, operator: Operator) -> None:
        self._remembered.pop(name, None)
        if len(self._remembered) >= MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[name] = operator, self._monotonic()

    def _recall(self, name: str) -> Operator | None:
        """Return whom Redis has confirmed a short while ago."""
        operator, confirmed_at = self._remembered.get(name, (None, 0.0))
        return operator if self._monotonic() - confirmed_at < BELIEVED_S else None


def _read(kept: bytes | None) -> Operator | None:
    """Return the session that Redis keeps. None: it keeps none, or another version of Heliograph has written it."""
    if kept is None:
        return None
    try:
        return msgspec.json.decode(kept, type=Operator)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _name(secret: str) -> str:
    """Return the name under which a session is kept. No ticket has it."""
    return "operator:" + hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
