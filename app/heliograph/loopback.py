"""Names and addresses of this machine, whatever a name server says."""

import ipaddress
from functools import lru_cache
from typing import Final

MOST_CHARACTERS: Final = 48  # of an address, with brackets; what is longer is none, and not worth remembering


def is_loopback_host(host: str) -> bool:
    """Return True for `localhost`, names below it, 127.0.0.0/8 and ::1 (also in brackets), in lower case."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return len(host) <= MOST_CHARACTERS and _is_loopback_address(host)


@lru_cache(maxsize=1000)  # the same few hosts are in the requests of all clients
def _is_loopback_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
