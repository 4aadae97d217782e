"""What the user's backend is told of a client, whatever it is asked."""

from typing import Final

import msgspec

Headers = tuple[tuple[str, str], ...]
FORWARDED_FOR: Final = "x-forwarded-for"


class Inbox(msgspec.Struct, frozen=True):
    """Where a client that only gets a stream posts its frames. `session`: a secret, known to this client alone."""

    node_id: str
    session: str


class Peer(msgspec.Struct, frozen=True):
    """What is known of a client before it is identified.

    `connection`: the id of its connection; `headers`: those of its request that hooks pass on, in lower case;
    `protocol`: json or protobuf; `codec`: the name of its codec; `inbox`: where it posts its frames, if they do not
    come on its connection.
    """

    connection: str
    transport: str
    headers: Headers = ()
    protocol: str = "json"
    codec: str = "plain"
    inbox: Inbox | None = None


class Caller(msgspec.Struct, frozen=True):
    """An identified client. `meta`: what the backend attached to it, JSON."""

    peer: Peer
    user: str
    meta: bytes | None = None
