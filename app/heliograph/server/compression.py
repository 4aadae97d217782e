"""What a handshake agrees on about compression: permessage-deflate, RFC 7692. Pure: headers in, an answer out."""

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

from websockets.exceptions import InvalidHeaderFormat, NegotiationError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from heliograph.server.handshake import BadHandshake, Headers

MOST_OFFER_BYTES: Final = 512  # of a header that is read; a browser's has 42
LARGEST_WINDOW_BITS: Final = 15

# Neither side refers to an earlier message. So a frame is compressed once for all clients, a connection keeps no
# state, and no message says anything about another one by its length.
_OURS = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


class Agreement(NamedTuple):
    """`header`: the value that tells the client. `window_bits`: the largest window of what the server sends."""

    header: bytes
    window_bits: int


def agreement_on_compression(headers: Headers) -> Agreement | None:
    """Return what the client offers and we accept, or None: then nothing is compressed.

    The names of `headers` are lower-case.

    Raises:
        BadHandshake: the offer cannot be read.
    """
    offers = [value for name, value in headers if name == b"sec-websocket-extensions"]
    offer = b",".join(offers)
    return _answer(offer) if 0 < len(offer) <= MOST_OFFER_BYTES else None


@lru_cache(maxsize=64)  # clients of one kind all offer the same
def _answer(offer: bytes) -> Agreement | None:
    try:
        extensions = parse_extension(offer.decode("latin-1"))
    except InvalidHeaderFormat:
        # RFC 6455 section 9.1: this fails the connection.
        reason = "Sec-WebSocket-Extensions cannot be read; offer 'permessage-deflate', or leave it out"
        raise BadHandshake(HTTPStatus.BAD_REQUEST, reason) from None
    for name, parameters in extensions:
        if name == _OURS.name and (agreement := _accept(parameters)) is not None:
            return agreement
    return None


def _accept(parameters: Sequence[tuple[str, str | None]]) -> Agreement | None:
    """Return the agreement for one offer of permessage-deflate; None if it must be declined."""
    try:
        answer, extension = _OURS.process_request_params(list(parameters), [])
    except NegotiationError:
        return None  # an unknown, repeated or invalid parameter, or a window of 256 bytes, which zlib does not have
    return Agreement(build_extension([(_OURS.name, answer)]).encode(), extension.local_max_window_bits)


def inflating_extension() -> PerMessageDeflate:
    """Return the extension with which `websockets`' parser reads the messages of a client that may compress."""
    return PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=LARGEST_WINDOW_BITS,
        local_max_window_bits=LARGEST_WINDOW_BITS,
    )
