"""Tokens in their usual form, checked in a fraction of the time that PyJWT takes.

What is accepted here, PyJWT accepts too. Whatever is not as usual is left to it: it decides, and says what is wrong.
"""

import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

import jwt
import msgspec

from heliograph.auth.keys import Key

MOST_HEADERS: Final = 64  # different headers of tokens that are remembered: usually there is one for each key
MOST_HEADER_CHARACTERS: Final = 512
MOST_SECONDS: Final = 1 << 40  # a later time is left to PyJWT

_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_USUAL_HEADERS: Final = frozenset({"alg", "typ", "kid"})

_read_json = msgspec.json.Decoder().decode


class UsualTokens:
    """Check tokens that are as usual. `audience` and `issuer`: those that they must name (None: any or none)."""

    def __init__(self, audience: str | None, issuer: str | None, leeway_s: float, required: list[str]) -> None:
        self._audience = audience
        self._issuer = issuer
        self._leeway_s = leeway_s
        self._required = required
        self._headers: dict[str, Mapping[str, Any]] = {}  # by their part of the token

    def header(self, token: str) -> Mapping[str, Any]:
        """Return the header, which is not proved by anything yet.

        Raises:
            PyJWTError, ValueError, TypeError, RecursionError: it is none.
        """
        part, _, _ = token.partition(".")
        known = self._headers.get(part)
        if known is None:
            known = jwt.get_unverified_header(token)
            if len(part) <= MOST_HEADER_CHARACTERS and known.keys() <= _USUAL_HEADERS:
                if len(self._headers) >= MOST_HEADERS:
                    del self._headers[next(iter(self._headers))]
                self._headers[part] = known
        return known

    def claims(self, token: str, key: Key, algorithm: str) -> dict[str, Any] | None:
        """Return the claims if the key has signed them and they are valid now; None if PyJWT has to decide."""
        found = _FORM.fullmatch(token)
        if found is None or found[1] not in self._headers:
            return None
        payload, signature = _decoded(found[2]), _decoded(found[3])
        if payload is None or signature is None:
            return None
        if not key.has_signed(token[: found.end(2)].encode(), signature, algorithm):
            return None
        try:
            claims = _read_json(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return claims if isinstance(claims, dict) and self._are_valid(claims) else None

    def _are_valid(self, claims: dict[str, Any]) -> bool:
        now = time.time()
        exp, nbf = claims.get("exp", MOST_SECONDS), claims.get("nbf", 0)
        return (
            _is_time(exp)
            and int(exp) > now - self._leeway_s
            and _is_time(nbf)
            and int(nbf) <= now + self._leeway_s
            and isinstance(claims.get("sub"), str)
            and isinstance(claims.get("jti", ""), str)
            and all(claims.get(name) is not None for name in self._required)
            and self._audience in (None, claims.get("aud"))
            and self._issuer in (None, claims.get("iss"))
        )


def _is_time(claim: Any) -> bool:
    return type(claim) in (int, float) and 0 <= claim <= MOST_SECONDS


def _decoded(part: str) -> bytes | None:
    """Decode base64url without padding; None if there is another way to write the same bytes."""
    try:
        data = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        return None
    return data if urlsafe_b64encode(data).rstrip(b"=").decode() == part else None
