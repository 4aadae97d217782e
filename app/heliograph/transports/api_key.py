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
    return bool(key) and hmac.compare_digest(given.encode("latin-1").strip(), key)
