"""The key of the server API in a request."""

import hmac

from starlette.datastructures import Headers


def has_key(headers: Headers, key: bytes) -> bool:
    """Return whether a request has the key. If there is no key, none has it."""
    given = headers.get("x-api-key")
    if given is None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "apikey":
            return False
    return is_key(given.encode("latin-1"), key)


def is_key(given: bytes, key: bytes) -> bool:
    """Return whether what a request gives is the key, in a time that says nothing about it. No key: never."""
    return bool(key) and hmac.compare_digest(given.strip(), key)
