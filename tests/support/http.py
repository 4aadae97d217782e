"""The HTTP client of the tests."""

import ssl
from typing import Any

import httpx

# All is plain HTTP here, and to read the machine's certificates takes 25 ms for each client.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def http_client(base_url: httpx.URL | str, *, source: str | None = None, **options: Any) -> httpx.AsyncClient:
    """A client of this machine: by no proxy, whatever the environment says. `source`: the address it comes from."""
    transport = httpx.AsyncHTTPTransport(verify=_NO_CERTIFICATES, local_address=source)
    return httpx.AsyncClient(base_url=base_url, trust_env=False, transport=transport, **options)
