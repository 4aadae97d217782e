"""The opening handshake of a WebSocket, RFC 6455 section 4.2. Pure: headers in, bytes out."""

import binascii
import hashlib
from collections.abc import Iterable
from http import HTTPStatus

Headers = Iterable[tuple[bytes, bytes]]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_KEY_BYTES = 16
_VERSION = b"13"


class BadHandshake(Exception):
    """The request is for a WebSocket, but violates the standard. `response` says how."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        headers = [(b"sec-websocket-version", _VERSION)] if status is HTTPStatus.UPGRADE_REQUIRED else []
        self.response = refusal(status, headers, f"{reason}\n".encode())


def accept_of(method: bytes, headers: Headers) -> bytes:
    """Return the value that proves to the client that its handshake was understood (`Sec-WebSocket-Accept`).

    The caller has checked that the request is an upgrade to `websocket`; names of headers are lower-case.

    Raises:
        BadHandshake: the handshake is wrong otherwise.
    """
    keys: list[bytes] = []
    versions: list[bytes] = []
    for name, value in headers:
        if name == b"sec-websocket-key":
            keys.append(value.strip())
        elif name == b"sec-websocket-version":
            versions.append(value.strip())
    if method != b"GET":
        raise BadHandshake(HTTPStatus.BAD_REQUEST, "use GET to open a WebSocket")
    if versions != [_VERSION]:
        raise BadHandshake(HTTPStatus.UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13")
    try:
        [key] = keys
        is_key = len(binascii.a2b_base64(key, strict_mode=True)) == _KEY_BYTES
    except ValueError:
        is_key = False
    if not is_key:
        raise BadHandshake(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64, given once")
    return binascii.b2a_base64(hashlib.sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)


def agreement(accept: bytes, headers: Headers) -> bytes:
    """Return the response after which both sides send frames."""
    head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "
    return b"%b%b\r\n%b\r\n" % (head, accept, _lines(headers))


def refusal(status: int, headers: Headers, body: bytes) -> bytes:
    """Return any other response; the connection ends with it."""
    try:
        phrase = HTTPStatus(status).phrase.encode()
    except ValueError:
        phrase = b""
    fields = {b"content-type": b"text/plain; charset=utf-8", b"x-content-type-options": b"nosniff", **dict(headers)}
    fields |= {b"content-length": b"%d" % len(body), b"connection": b"close"}
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, phrase, _lines(fields.items()), body)


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in headers])
