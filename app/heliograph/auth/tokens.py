"""JSON Web Tokens (RFC 7519): the user, the expiry and the rights that a token proves."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jwt
import msgspec

from heliograph.auth.claims import LATEST_END, read_end, read_info, read_meta, read_subs, refuse_override
from heliograph.auth.keys import Key, KeySource, OneKey, hmac_key, public_key
from heliograph.auth.usual_tokens import UsualTokens
from heliograph.clock import SystemClock
from heliograph.errors import BadChannel, BadSetting, BadUserId, InvalidToken, TokenNotCurrent
from heliograph.protocol.grants import NO_GRANTS, Grants, Permit, read_grants
from heliograph.protocol.identity import check_channel, check_user_id
from heliograph.settings import AuthSettings

MOST_TOKEN_BYTES = 16_384  # a longer token would cost too much to read for a client without an account
SHOWN = 32  # characters of a claim that an error repeats
MOST_REMEMBERED = 4096  # tokens that were verified: clients that poll, or come back, bring theirs again
MOST_REMEMBERED_CHARACTERS = 1024


class Identity(msgspec.Struct, frozen=True):
    """A user, the token's expiry (seconds since the epoch; None: never), and the token's rights.

    `info`: what presence says of each of the user's clients, JSON. `meta`: what only hooks are told of it, JSON.
    `data`: what the backend tells the client, JSON. `is_from_hook`: the user's backend has said who this is, and is
    asked again when it expires. `is_admin`: the token's bearer may log in to the console as an operator.
    """

    user: str
    expires_at: float | None = None
    channels: Grants = NO_GRANTS
    info: bytes | None = None
    meta: bytes | None = None
    data: bytes | None = None
    is_from_hook: bool = False
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a token has proved, the key that has signed it, and when (seconds since the epoch) that ends."""

    claims: Mapping[str, Any]
    key: Key
    end: float | None

    def is_current(self) -> bool:
        """Return whether the token has not expired."""
        return self.end is None or time.time() < self.end


class _Header(NamedTuple):
    """What a token says of its key."""

    algorithm: str
    kid: str | None


class TokenReader:
    """Check tokens: the signature, the times, the audience and the claims."""

    def __init__(self, settings: AuthSettings) -> None:
        self._keys = keys_of(settings)
        self._audience = settings.audience
        self._issuer = None if settings.issuer is None else [settings.issuer]
        self._leeway_s = settings.leeway_s
        self._required = ["sub", "exp"] if settings.require_exp else ["sub"]
        self._usual = UsualTokens(settings.audience, settings.issuer, settings.leeway_s, self._required)
        self._known: dict[str, _Verified] = {}  # by token, the latest last

    async def read(self, token: str) -> Identity:
        """Return the identity of the token's bearer.

        Raises:
            InvalidToken: the token is not valid; TokenNotCurrent: it has expired, or is not valid yet.
            KeysUnavailable: the token cannot be checked at the moment.
        """
        return self._identity(await self._verified(token))

    def read_now(self, token: str) -> Identity | None:
        """Return what `read` would, if the keys are at hand; None: `read` it.

        Raises:
            InvalidToken, TokenNotCurrent: as `read`.
        """
        header = self._header(token)
        keys = self._keys.at_hand(header.kid)
        return None if keys is None else self._identity(self._proved(token, header, keys))

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        if claims.get("channel") is not None:
            raise InvalidToken("the token is for one channel: give it with 'subscribe', and not to connect")
        end = read_end(claims, must_end="exp" in self._required)
        return Identity(
            _user_in(claims),
            None if end is None else end + self._leeway_s,
            _grants_in(claims),
            read_info(claims),
            read_meta(claims),
            is_admin=claims.get("admin") is True,
        )

    async def read_permit(self, token: str) -> Permit:
        """Return what a subscription token gives, and to whom.

        Raises: as `read`.
        """
        claims = await self._verified(token)
        channel = claims.get("channel")
        if not isinstance(channel, str):
            raise InvalidToken("the token is not for a channel: a subscription token needs the claim 'channel'")
        try:
            check_channel(channel)
        except BadChannel as error:
            raise InvalidToken(f"the token's 'channel': {error}") from None
        refuse_override(claims)
        end = read_end(claims, must_end="exp" in self._required)
        return Permit(_user_in(claims), channel, read_info(claims), end)

    async def stop(self) -> None:
        await self._keys.stop()

    async def _verified(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token that one of our keys has signed, and that is current."""
        header = self._header(token)
        return self._proved(token, header, await self._keys.find(header.kid))

    def _header(self, token: str) -> _Header:
        """Return what a token says of its key. Nothing proves that yet."""
        if len(token) > MOST_TOKEN_BYTES:
            raise InvalidToken(f"the token is not valid: it has more than {MOST_TOKEN_BYTES} characters")
        try:
            header = self._usual.header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise _invalid(error) from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(kid, str | None) or not isinstance(algorithm, str):
            raise InvalidToken("the token is not valid: its 'alg' and 'kid' are strings")
        return _Header(algorithm, kid)

    def _proved(self, token: str, header: _Header, keys: Sequence[Key]) -> Mapping[str, Any]:
        """Return the claims of a token that one of these keys has signed, and that is current."""
        candidates = _candidates(header, keys)
        known = self._known.get(token)
        if known is not None and known.is_current() and any(key is known.key for key, _ in candidates):
            return known.claims
        key, claims = self._claims(token, candidates)
        self._remember(token, key, claims)
        return claims

    def _remember(self, token: str, key: Key, claims: Mapping[str, Any]) -> None:
        if len(token) <= MOST_REMEMBERED_CHARACTERS:
            self._known.pop(token, None)
            if len(self._known) >= MOST_REMEMBERED:
                del self._known[next(iter(self._known))]
            end = None if claims.get("exp") is None else min(int(claims["exp"]), LATEST_END) + self._leeway_s
            self._known[token] = _Verified(claims, key, end)

    def _claims(self, token: str, candidates: list[tuple[Key, str]]) -> tuple[Key, dict[str, Any]]:
        """Return the key that has signed the token, and its claims."""
        for key, algorithm in candidates:
            if (usual := self._usual.claims(token, key, algorithm)) is not None:
                return key, usual
        failure: Exception = InvalidToken("no key")
        for key, algorithm in candidates:
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key.material,
                    algorithms=[algorithm],
                    audience=self._audience,
                    issuer=self._issuer,
                    leeway=self._leeway_s,
                    options={
                        "require": self._required,
                        "verify_aud": self._audience is not None,
                        "verify_iat": False,
                    },
                )
                return key, claims
            except jwt.InvalidSignatureError as error:
                failure = error  # another key may fit
            except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError) as error:
                raise TokenNotCurrent(f"the token is not valid (any more, or not yet): {error}") from None
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
                raise _invalid(error) from None
        raise _invalid(failure)


def _candidates(header: _Header, keys: Sequence[Key]) -> list[tuple[Key, str]]:
    """Return the keys that may have signed the token, each with an algorithm that the key allows."""
    if not keys:
        kid = repr(str(header.kid)[:SHOWN])
        raise InvalidToken(f"the token is signed with a key that is not known here (kid {kid})")
    found = [(key, header.algorithm) for key in keys if header.algorithm in key.algorithms]
    if not found:
        accepted = ", ".join(sorted(set().union(*(key.algorithms for key in keys))))
        claimed = repr(header.algorithm[:SHOWN])
        raise InvalidToken(f"the token's algorithm is {claimed}; with the key that is set it can be {accepted}")
    return found


def _user_in(claims: Mapping[str, Any]) -> str:
    try:
        return check_user_id(claims["sub"])
    except BadUserId as error:
        raise InvalidToken(f"the token's 'sub': {error}") from None


def _grants_in(claims: Mapping[str, Any]) -> Grants:
    channels, subs = claims.get("channels"), claims.get("subs")
    grants = NO_GRANTS if channels is None else read_grants(channels)
    return grants if subs is None else grants.joined_with(read_subs(subs))


def keys_of(settings: AuthSettings) -> KeySource:
    """Return the keys from the settings.

    Raises:
        BadSetting: they hold no usable key.
    """
    if settings.jwks_url is not None:
        from heliograph.auth.jwks import KeySet  # its HTTP client is slow to import

        return KeySet(
            settings.jwks_url,
            max_age_s=settings.jwks_max_age_s,
            timeout_s=settings.jwks_timeout_s,
            clock=SystemClock(),
        )
    pem = settings.public_key()
    try:
        return OneKey(hmac_key(settings.key()) if pem is None else public_key(pem))
    except ValueError as error:
        name = "SECRET" if settings.secret is not None else "SECRET_FILE" if pem is None else "PUBLIC_KEY_FILE"
        raise BadSetting(f"HELIOGRAPH_AUTH__{name}: {error}") from None


def _invalid(error: Exception) -> InvalidToken:
    return InvalidToken(f"the token is not valid: {error}")
