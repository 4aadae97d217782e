"""A message inside the cluster: its data, its channel and its origin."""

import base64
import re
from typing import Final

import msgspec

from heliograph.errors import BadData, DataTooDeep
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.position import Position

PUBLICATION_BYTES: Final = 200  # memory of a publication beside its data, roughly

_anything = msgspec.json.Decoder()
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]')


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One message on its way to the connections of a channel.

    `data` is JSON as its author wrote it. `check_data` has accepted it, and nothing rewrites it. `tags`: a server
    has attached them, for the wire formats that have such a thing.
    """

    channel: str
    data: msgspec.Raw
    message_id: str
    sent_at: str
    sender: str | None = None
    origin: str | None = None  # name of the replica on which it was sent; None if another program published it
    position: Position | None = None  # its position in the channel's log; None if it is ephemeral
    tags: dict[str, str] | None = None
    author: ClientInfo | None = None  # the client that wrote it, if its wire format names clients
    delta: bytes | None = None  # the difference from the publication before it, if somebody here wants that


def check_data(data: msgspec.Raw, max_depth: int) -> None:
    """Refuse at the endpoint data that a reader could not decode.

    `msgspec.Raw` only promises balanced JSON. Decoding it once also finds numbers outside the range of a double
    (`1e999`, 5,000 digits) and invalid UTF-8, which a browser or another language could not read.

    Raises:
        BadData: some readers cannot read the JSON.
        DataTooDeep: arrays and objects are nested deeper than `max_depth` levels.
    """
    try:
        _anything.decode(data)
    except RecursionError:
        raise DataTooDeep(f"data is nested deeper than {max_depth} levels") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise BadData(f"data is not JSON that every client can read: {error}") from None
    _check_depth(data, max_depth)


def json_of_base64(text: object, max_depth: int) -> msgspec.Raw:
    """Return the JSON that a text holds in base64, checked.

    Raises:
        BadData, DataTooDeep: it is no text in base64; otherwise as in `check_data`.
    """
    if not isinstance(text, str):
        raise BadData("it is not a text in base64")
    try:
        data = msgspec.Raw(base64.b64decode(text, validate=True))
    except ValueError:
        raise BadData("it is not base64") from None
    check_data(data, max_depth)
    return data


def check_again(data: msgspec.Raw, max_depth: int) -> None:
    """Check data that a replica has checked before, for the mistakes that would break a reader.

    Raises:
        BadData, DataTooDeep: it is not UTF-8; it is nested too deep.
    """
    try:
        str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"data is not JSON that every client can read: {error}") from None
    _check_depth(data, max_depth)


def _check_depth(data: msgspec.Raw, max_depth: int) -> None:
    """Check the depth. Most data are too short to be deep; for most others it is enough to count brackets."""
    if len(data) <= 2 * max_depth:
        return
    raw = bytes(data)
    if raw.count(b"[") + raw.count(b"{") > max_depth and _depth(raw) > max_depth:
        raise DataTooDeep(f"data is nested deeper than {max_depth} levels")


def _depth(raw: bytes) -> int:
    """Return how deep valid JSON nests, also in values that a repeated key hides from a decoder."""
    depth = deepest = 0
    for token in _STRING_OR_BRACKET.findall(raw):
        if token in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in b"]}":
            depth -= 1
    return deepest
