"""What a handshake agrees on about compression."""

import pytest

from heliograph.server.compression import MOST_OFFER_BYTES, agreement_on_compression
from heliograph.server.handshake import BadHandshake

ALONE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

ACCEPTED = {
    "permessage-deflate": (ALONE, 15),
    "permessage-deflate; client_max_window_bits": (ALONE, 15),  # browsers
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover": (ALONE, 15),
    "permessage-deflate; client_max_window_bits=8": (f"{ALONE}; client_max_window_bits=8", 15),
    "permessage-deflate; server_max_window_bits=9": (f"{ALONE}; server_max_window_bits=9", 9),
    'permessage-deflate; server_max_window_bits="12"; client_max_window_bits': (
        f"{ALONE}; server_max_window_bits=12",
        12,
    ),
    "permessage-deflate; server_max_window_bits=15": (f"{ALONE}; server_max_window_bits=15", 15),
    # The first offer that can be accepted is.
    "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=10, permessage-deflate": (
        f"{ALONE}; server_max_window_bits=10",
        10,
    ),
    "permessage-deflate; server_max_window_bits=8, permessage-deflate": (ALONE, 15),
    "permessage-deflate; unknown, permessage-deflate; client_max_window_bits": (ALONE, 15),
}

DECLINED = [
    "",
    "permessage-bzip2",
    "x-webkit-deflate-frame",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; server_max_window_bits=8",  # 256 bytes, which zlib cannot write
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=16",
    "permessage-deflate; server_max_window_bits=09",
    "permessage-deflate; server_max_window_bits=x",
    "permessage-deflate; client_max_window_bits=7",
    "permessage-deflate; client_max_window_bits=16",
    "permessage-deflate; client_max_window_bits=-9",
    "permessage-deflate; server_no_context_takeover=1",
    "permessage-deflate; client_no_context_takeover=x",
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9; server_max_window_bits=10",
    "permessage-deflate; unknown",
    "permessage-deflate; unknown=1",
    "permessage-deflate" + "; client_max_window_bits" * MOST_OFFER_BYTES,
]

MALFORMED = [
    "permessage-deflate;",
    "permessage-deflate; =",
    "permessage-deflate; server_max_window_bits=",
    "permessage-deflate permessage-deflate",
    'permessage-deflate; server_max_window_bits="12',
    "permessage-deflate; server_max_window_bits=\xff",
]


@pytest.mark.parametrize("offer", ACCEPTED)
def test_what_we_can_do_is_accepted(offer: str) -> None:
    """Fails if an offer is declined for no reason, or answered with what the client did not offer."""
    agreement = agreement_on_compression([(b"host", b"x"), (b"sec-websocket-extensions", offer.encode())])
    assert agreement is not None
    assert (agreement.header.decode(), agreement.window_bits) == ACCEPTED[offer]


@pytest.mark.parametrize("offer", DECLINED)
def test_what_we_cannot_do_is_declined(offer: str) -> None:
    """Fails if an offer with an invalid parameter is accepted (RFC 7692 section 7.1), or fails the handshake."""
    headers = [(b"sec-websocket-extensions", offer.encode())] if offer else []
    assert agreement_on_compression(headers) is None


@pytest.mark.parametrize("offer", MALFORMED)
def test_what_cannot_be_read_fails_the_handshake(offer: str) -> None:
    """Fails if a header that violates its grammar is guessed at (RFC 6455 section 9.1)."""
    with pytest.raises(BadHandshake) as caught:
        agreement_on_compression([(b"sec-websocket-extensions", offer.encode("latin-1"))])
    assert caught.value.response.startswith(b"HTTP/1.1 400 ")
    assert b"'permessage-deflate', or leave it out" in caught.value.response


def test_offers_in_several_headers_are_one_list() -> None:
    """Fails if only the first or the last header is read."""
    name = b"sec-websocket-extensions"
    for offers in ([b"foo", b"permessage-deflate"], [b"permessage-deflate", b"foo"]):
        agreement = agreement_on_compression([(name, offer) for offer in offers])
        assert agreement is not None
        assert agreement.header.decode() == ALONE
