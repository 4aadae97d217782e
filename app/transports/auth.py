"""Who a client is, and whether a page from elsewhere may speak for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import jwt
from starlette.datastructures import Headers
from starlette.types import Scope

from app.errors import BadUserId, InvalidToken
from app.protocol.identity import check_user_id
from app.settings import AuthSettings

ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, until when (seconds since the epoch; None: for good)."""

    user: str
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client says of itself: `token` counts in jwt mode only, `user` in open mode only."""

    token: str | None = None
    user: str | None = None


def credentials_of(scope: Scope, query: Mapping[str, str]) -> Credentials:
    """What an HTTP request says of itself: `Authorization: Bearer …`, `?user=`."""
    scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    return Credentials(token.strip() if scheme.lower() == "bearer" else None, query.get("user"))


class Authenticator:
    """Decides who a client is: in jwt mode its token says so, in open mode the client itself."""

    def __init__(self, settings: AuthSettings) -> None:
        self.mode = settings.mode
        self._key = settings.key()

    async def identify(self, credentials: Credentials) -> Identity:
        """Raises InvalidToken if the client did not prove who it is, BadUserId if that cannot be a user."""
        if self.mode == "open":
            if credentials.user is None:
                raise BadUserId("say who you are: ?user= in the URL, or 'user' in the connect frame")
            return Identity(check_user_id(credentials.user))
        if credentials.token is None:
            raise InvalidToken("'connect' needs a 'token'")
        try:
            claims = jwt.decode(credentials.token, self._key, algorithms=[ALGORITHM], options={"require": ["sub"]})
        except jwt.InvalidTokenError as error:
            raise InvalidToken(f"the token is not valid: {error}") from None
        try:
            expires_at = claims.get("exp")
            return Identity(check_user_id(claims["sub"]), None if expires_at is None else float(expires_at))
        except BadUserId as error:
            raise InvalidToken(f"the token's 'sub': {error}") from None


def make_token(key: bytes, user: str, expires_at: int) -> str:
    """A token for `user`, signed with the secret that the replicas check it against."""
    return jwt.encode({"sub": check_user_id(user), "exp": expires_at}, key, algorithm=ALGORITHM)


class OriginPolicy:
    """Which pages may connect. CORS does not cover WebSockets: without this any page in a browser could.

    A request without an `Origin` does not come from a page. One with it must come from the host it asks for, or
    from one of `allowed` (exactly, such as `https://app.example.org`).
    """

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = frozenset(allowed)

    def allows(self, origin: str | None) -> bool:
        """Whether this is one of the origins that may read from elsewhere."""
        return origin in self._allowed

    def admits(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or origin in self._allowed:
            return True
        try:
            return urlsplit(origin).netloc == headers.get("host")
        except ValueError:
            return False
