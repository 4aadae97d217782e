"""What the user's backend is told of the clients of this replica."""

import os
from collections.abc import Iterable

import msgspec
from starlette.types import Scope

from heliograph.codecs.codec import Codec
from heliograph.protocol.peer import FORWARDED_FOR, Headers, Peer
from heliograph.transports.addresses import address_of


class Peers:
    """Describe clients. `headers`: the names of those that hooks pass on; a connection keeps no others."""

    def __init__(self, headers: Iterable[str]) -> None:
        names = {name.lower() for name in headers}
        self._names = frozenset(name.encode() for name in names - {FORWARDED_FOR})
        self._has_address = FORWARDED_FOR in names

    def of(self, scope: Scope, transport: str) -> Peer:
        """Return the peer of a request or a handshake, with an id for its connection.

        `X-Forwarded-For` is the address that limits count: what a client writes into that header may be anything.
        """
        headers: Headers = ()
        if self._names:
            headers = tuple((name.decode(), _text(value)) for name, value in scope["headers"] if name in self._names)
        if self._has_address:
            headers = (*headers, (FORWARDED_FOR, address_of(scope)))
        return Peer(os.urandom(16).hex(), transport, headers)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def speaking(peer: Peer, codec: Codec) -> Peer:
    """Return the peer with its codec, and the protocol in the words of the hooks."""
    if codec.name == peer.codec:
        return peer
    return msgspec.structs.replace(peer, protocol="protobuf" if codec.is_binary else "json", codec=codec.name)
