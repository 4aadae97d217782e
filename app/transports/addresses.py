"""How many connections come from where, on this replica."""

import ipaddress
from collections import Counter
from typing import Final

from starlette.types import Scope

IPV6_PREFIX: Final = 64  # what one customer has, of which each may use any address


class Addresses:
    """Counts connections by the client's address: that of the socket, or what a trusted proxy says it is.

    Every door counts its own, from the handshake on: who has not said who they are takes a place too. `limit`: how
    many one address may have (0: any number).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: Counter[str] = Counter()

    @property
    def refusal(self) -> str:
        """What somebody is told who may not enter."""
        return (
            f"one address may have {self._limit} connections here (HELIOGRAPH_LIMITS__CONNECTIONS_PER_ADDRESS); "
            "close one, or try again later"
        )

    def enter(self, scope: Scope) -> str | None:
        """One connection more: the address to `leave` with; None if that would be too many."""
        if self._limit == 0:
            return ""
        address = address_of(scope)
        if self._connections[address] >= self._limit:
            return None
        self._connections[address] += 1
        return address

    def leave(self, address: str) -> None:
        """One connection fewer."""
        if self._limit == 0:
            return
        self._connections[address] -= 1
        if self._connections[address] <= 0:
            del self._connections[address]


def address_of(scope: Scope) -> str:
    """What counts as the address of a client: of IPv6 the network. Clients of a Unix socket are one."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address.packed, IPV6_PREFIX), strict=False))
