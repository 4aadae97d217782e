"""A message as the cluster knows it: data, where it goes, where it came from."""

import re
from typing import Final

import msgspec

from heliograph.errors import BadData, DataTooDeep
from heliograph.protocol.position import Position

PUBLICATION_BYTES: Final = 200  # of a publication beside its data, roughly

_anything = msgspec.json.Decoder()
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]')


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One message on its way to the connections of a channel.

    `data` is compact or not, as its author wrote it: JSON that `check_data` has accepted and that nobody rewrites.
    """

    channel: str
    data: msgspec.Raw
    message_id: str
    sent_at: str
    sender: str | None = None
    origin: str | None = None  # the name of the replica on which it was sent; none for a foreign process
    position: Position | None = None  # its place in the channel's log; none for what is ephemeral


def check_data(data: msgspec.Raw, max_depth: int) -> None:
    """Refuse at the endpoint what would fail at the far end of the wire.

    `msgspec.Raw` only promises balanced JSON. Decoding it once also finds numbers outside of a double's range
    (`1e999`, 5,000 digits) and broken UTF-8, on which a browser or another language would choke.

    Raises:
        BadData: the JSON cannot be read everywhere.
        DataTooDeep: arrays and objects stand more than `max_depth` levels inside each other.
    """
    try:
        _anything.decode(data)
    except RecursionError:
        raise DataTooDeep(f"data is nested deeper than {max_depth} levels") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise BadData(f"data is not JSON that every client can read: {error}") from None
    _check_depth(data, max_depth)


def check_again(data: msgspec.Raw, max_depth: int) -> None:
    """What is left of `check_data` for data that a replica has checked: what would break a reader if it had not.

    Raises:
        BadData, DataTooDeep: it is no UTF-8; it is nested too deep.
    """
    try:
        str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"data is not JSON that every client can read: {error}") from None
    _check_depth(data, max_depth)


def _check_depth(data: msgspec.Raw, max_depth: int) -> None:
    """Most data are too short for that; counting brackets, far cheaper than following them, settles most others."""
    if len(data) <= 2 * max_depth:
        return
    raw = bytes(data)
    if raw.count(b"[") + raw.count(b"{") > max_depth and _depth(raw) > max_depth:
        raise DataTooDeep(f"data is nested deeper than {max_depth} levels")


def _depth(raw: bytes) -> int:
    """How deep valid JSON nests, in what a repeated key hides from a decoder as well."""
    depth = deepest = 0
    for token in _STRING_OR_BRACKET.findall(raw):
        if token in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in b"]}":
            depth -= 1
    return deepest
