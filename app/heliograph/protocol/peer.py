"""What the user's backend is told of a client, whatever it is asked."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of a client before it is identified.

    `connection`: the id of its connection; `headers`: those of its request that hooks pass on.
    """

    connection: str
    transport: str
    headers: tuple[tuple[str, str], ...] = ()
    protocol: str = "json"


@dataclass(frozen=True, slots=True)
class Caller:
    """An identified client. `meta`: what the backend attached to it, JSON."""

    peer: Peer
    user: str
    meta: bytes | None = None
