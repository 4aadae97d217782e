"""Which pages of browsers may connect. CORS does not cover WebSockets: without this any page could."""

import ipaddress
import logging
import re
from collections.abc import Iterable
from typing import Final

from heliograph.loopback import is_loopback_host

logger = logging.getLogger(__name__)

MOST_LOGGED: Final = 100  # refused origins and hosts that are logged, each once
REFUSED: Final = "pages of this origin may not connect (HELIOGRAPH_ALLOWED_ORIGINS)"

_PORTS: Final = {"http": "80", "https": "443"}
_NAME: Final = r"\[[0-9a-f:.]+\]|[a-z0-9._-]+"
_ORIGIN: Final = re.compile(rf"(https?)://({_NAME})(?::([1-9][0-9]{{0,4}}))?")  # as browsers write one
_HOST: Final = re.compile(rf"({_NAME})(?::([0-9]{{1,5}}))?")


class OriginPolicy:
    """Decide by the headers `Origin` and `Host`.

    A request without an `Origin` does not come from another page. With it, the page must be from the host that it
    requests (the default port may be left out), or from one of `allowed` (such as `https://app.example.org`).

    In open mode, without tokens, the host must also be this machine's own: the name of a foreign page may lead here
    (DNS rebinding), and then the page is from the host that it requests. Loopback names are one host.
    `open_to_network`: IP addresses and names without a dot count as own hosts too, because no name server outside can
    have made them.
    """

    def __init__(self, allowed: tuple[str, ...], *, open_mode: bool = False, open_to_network: bool = False) -> None:
        self._allowed = frozenset(allowed)
        self._allowed_parts = frozenset(parts for parts in map(_origin_parts, allowed) if parts is not None)
        self._open_mode = open_mode
        self._open_to_network = open_to_network
        self._logged: set[str] = set()

    def admits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether the request may go on. Each refused origin is logged once.

        `headers`: those of the request, with names in lower case.
        """
        origins = hosts = 0
        origin, host = None, ""
        for name, value in headers:
            if name == b"host":
                hosts += 1
                host = value.decode("latin-1").lower()
            elif name == b"origin":
                origins += 1
                origin = value.decode("latin-1")
        if origins > 1 or hosts > 1:
            return False  # browsers send exactly one
        if self._admits(origin, host):
            return True
        self._log(origin, host)
        return False

    def is_another(self, origin: str, host: str) -> bool:
        """Return whether an admitted origin differs from that of the requested host."""
        parts, found = _origin_parts(origin), _HOST.fullmatch(host.lower())
        return parts is None or found is None or parts[1:] != (found[1], found[2] or _PORTS[parts[0]])

    def _admits(self, origin: str | None, host: str) -> bool:
        parts = None
        if origin is not None:
            parts = _origin_parts(origin)
            if origin in self._allowed or (parts is not None and parts in self._allowed_parts):
                return True
            if parts is None:
                return False
        elif not self._open_mode:
            return True
        if not host:
            return origin is None  # browsers always send a host
        found = _HOST.fullmatch(host)
        if found is None:
            return not self._open_mode and origin is None
        name = found[1]
        if self._open_mode and not self._is_own(name):
            return False
        if parts is None:
            return True
        scheme, page, page_port = parts
        if page_port != (found[2] or _PORTS[scheme]):
            return False
        return page == name or (self._open_mode and is_loopback_host(page) and is_loopback_host(name))

    def _is_own(self, name: str) -> bool:
        if is_loopback_host(name) or any(name == each for _, each, _ in self._allowed_parts):
            return True
        return self._open_to_network and ("." not in name or _is_address(name))

    def _log(self, origin: str | None, host: str) -> None:
        who = f"origin {origin[:200]!r}" if origin is not None else f"host {host[:200]!r}"
        if who in self._logged or len(self._logged) >= MOST_LOGGED:
            return
        self._logged.add(who)
        open_mode = ", and in open mode only loopback hosts are taken as own" if self._open_mode else ""
        logger.warning(
            "refused a page of %s at host %r (logged once%s): add its origin to HELIOGRAPH_ALLOWED_ORIGINS if it is "
            "yours%s",
            who,
            host[:200],
            "; further ones are not logged" if len(self._logged) == MOST_LOGGED else "",
            open_mode,
        )


def _origin_parts(origin: str) -> tuple[str, str, str] | None:
    """Return scheme, host and port; None if this is not an origin of a browser."""
    found = _ORIGIN.fullmatch(origin)
    return None if found is None else (found[1], found[2], found[3] or _PORTS[found[1]])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
