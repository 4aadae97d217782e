"""Names and addresses of this machine, whatever a name server says."""

import ipaddress


def is_loopback_host(host: str) -> bool:
    """Return True for `localhost`, names below it, 127.0.0.0/8 and ::1 (also in brackets), in lower case."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
