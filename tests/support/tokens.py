"""Tokens of the jwt mode."""

import time
from typing import Any

import jwt

SECRET = "a secret of thirty-two bytes or so"
JWT = {"mode": "jwt", "secret": SECRET}


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
