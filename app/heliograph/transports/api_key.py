"""The key of the server API, as a request carries it."""

import hmac

from starlette.datastructures import Headers


def has_key(headers: Headers, key: bytes) -> bool:
    """Whether a request proves that it comes from a program that has the key. Without a key none does."""
    given = headers.get("x-api-key")
    if given is None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "apikey":
            return False
    return bool(key) and hmac.compare_digest(given.encode("latin-1").strip(), key)
