"""The number of connections of each address, on this replica."""

import ipaddress
import logging
from collections import Counter
from functools import lru_cache
from typing import Final

from starlette.types import Scope

logger = logging.getLogger(__name__)

IPV6_PREFIX: Final = 64  # one customer usually has a /64, and may use any address in it


class Addresses:
    """Count connections by the client's address: that of the socket, or the one that a trusted proxy reports.

    Every endpoint counts its connections from the handshake on, before the client has identified itself. `limit`: how
    many connections one address may have (0: no limit).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: Counter[str] = Counter()
        self._has_warned = False

    @property
    def refusal(self) -> str:
        """The text for a client beyond the limit."""
        return (
            f"one address may have {self._limit} connections here (HELIOGRAPH_LIMITS__CONNECTIONS_PER_ADDRESS); "
            "close one, or try again later"
        )

    def enter(self, scope: Scope) -> str | None:
        """Count one connection more. Return the address for `leave`; None if that would be too many."""
        if not self._has_warned:
            self._look(scope)
        if self._limit == 0:
            return ""
        address = address_of(scope)
        if self._connections[address] >= self._limit:
            return None
        self._connections[address] += 1
        return address

    def leave(self, address: str) -> None:
        """Count one connection fewer."""
        if self._limit == 0:
            return
        self._connections[address] -= 1
        if self._connections[address] <= 0:
            del self._connections[address]

    def _look(self, scope: Scope) -> None:
        """Warn once of an untrusted proxy: all its clients are one address, here and in nginx."""
        peer = (scope.get("client") or ("",))[0]
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for" and peer and peer.encode() not in value:
                proxy, setting = peer, "HELIOGRAPH_TRUSTED_PROXIES"
            elif name == b"x-forwarded-unbelieved" and value:  # from our nginx
                proxy, setting = value.decode("latin-1"), "HELIOGRAPH_NGINX_TRUSTED_PROXIES"
            else:
                continue
            self._has_warned = True
            logger.warning(
                "X-Forwarded-For from %s is not believed. If that is your proxy, all clients behind it are one "
                "address to every limit: name it in %s",
                proxy,
                setting,
            )
            return


def address_of(scope: Scope) -> str:
    """Return the address of a client for limits: of IPv6 the network. All clients of a Unix socket are one."""
    host = str((scope.get("client") or ("",))[0])
    return _network_of(host) if ":" in host else host


@lru_cache(maxsize=10_000)  # behind one proxy, or after a cut, the same clients come again and again
def _network_of(host: str) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address.packed, IPV6_PREFIX), strict=False))
