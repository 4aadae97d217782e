"""What the user's backend is told of a client, whatever it is asked."""

from dataclasses import dataclass
from typing import Final

Headers = tuple[tuple[str, str], ...]
FORWARDED_FOR: Final = "x-forwarded-for"


@dataclass(frozen=True, slots=True)
class Inbox:
    """Where a client that only gets a stream posts its frames. `session`: a secret, known to this client alone."""

    node_id: str
    session: str


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of a client before it is identified.

    `connection`: the id of its connection; `headers`: those of its request that hooks pass on, in lower case;
    `inbox`: where it posts its frames, if they do not come on its connection.
    """

    connection: str
    transport: str
    headers: Headers = ()
    protocol: str = "json"
    inbox: Inbox | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """An identified client. `meta`: what the backend attached to it, JSON."""

    peer: Peer
    user: str
    meta: bytes | None = None
