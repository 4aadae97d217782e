"""Where a cluster's endpoints are."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from heliograph.client.connection.events import Transport
from heliograph.errors import BadSetting

_SECURE: Final = {"http": False, "ws": False, "https": True, "wss": True}


@dataclass(frozen=True, slots=True)
class Addresses:
    """The endpoints of one cluster, by the URL that a program was given."""

    websocket: str
    http: str  # without a slash at its end
    host: str

    @classmethod
    def of(cls, url: str) -> "Addresses":
        """Read `https://host[:port][/prefix]`, or the URL of the WebSocket endpoint, which ends in `/ws`.

        Raises:
            BadSetting: it is neither.
        """
        parts = _split(url)
        prefix = parts.path.rstrip("/").removesuffix("/ws")
        end = "s" if _SECURE[parts.scheme] else ""
        return cls(
            f"ws{end}://{parts.netloc}{prefix}/ws", f"http{end}://{parts.netloc}{prefix}", parts.hostname or ""
        )

    def of_transport(self, transport: Transport) -> str:
        """Return the endpoint of a transport."""
        return {"websocket": self.websocket, "sse": f"{self.http}/sse", "poll": f"{self.http}/api/poll"}[transport]


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise BadSetting(f"the URL of the cluster cannot be used: {error}") from None
    if parts.scheme not in _SECURE or not parts.hostname or parts.query or parts.fragment:
        raise BadSetting(
            "the URL of the cluster is https://host[:port][/prefix] or wss://host[:port][/prefix]/ws, with no query"
        )
    return parts
