"""Which names and addresses are this machine's own, whatever a name server says."""

import ipaddress


def is_loopback_host(host: str) -> bool:
    """True for `localhost`, names below it, 127.0.0.0/8 and ::1 (also in brackets), in lower case."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
