"""Tokens of the jwt mode."""

import math
import time
from typing import Any

import jwt

SECRET = "a secret of thirty-two bytes or so"
JWT = {"mode": "jwt", "secret": SECRET, "leeway_s": 0}
# What a test opens in jwt mode that is about something else than rights.
OPENED: dict[str, dict[str, Any]] = {"#": {"client_send": True}, "": {"client_subscribe": True}}


def soon() -> float:
    """In how many seconds a token ends that lives as short as may be: half a second or a little more.

    Its end falls on a whole second, as fractions are dropped when a token is checked.
    """
    now = time.time()
    return math.ceil(now + 0.5) - now


def token(
    sub: Any = "alice",
    *,
    key: Any = SECRET,
    algorithm: str = "HS256",
    kid: str | None = None,
    expires_in: float | None = 60,
    **claims: Any,
) -> str:
    """A token for `sub` (None: it has none). `claims` are added as they are."""
    payload: dict[str, Any] = {**claims}
    if sub is not None:
        payload["sub"] = sub
    if expires_in is not None:
        payload["exp"] = time.time() + expires_in
    return jwt.encode(payload, key, algorithm=algorithm, headers=None if kid is None else {"kid": kid})


def bearer(*arguments: Any, **options: Any) -> dict[str, str]:
    """A token in the header of a request."""
    return {"Authorization": f"Bearer {token(*arguments, **options)}"}
