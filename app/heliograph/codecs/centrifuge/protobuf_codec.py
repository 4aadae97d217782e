"""The Protobuf format of Centrifuge client SDKs: messages after their lengths, any number of them a binary frame.

`wire.py` reads and writes the messages by their tables (`messages.py`), and the push of a publication by hand.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from msgspec import Raw

from heliograph.codecs.centrifuge.commands import MOST_COMMANDS, Command
from heliograph.codecs.centrifuge.decoding import malformed, operation_of, too_many
from heliograph.codecs.centrifuge.deltas import delta_encoders
from heliograph.codecs.centrifuge.encoding import disconnect_of, publication_of, reply_of
from heliograph.codecs.centrifuge.messages import COMMAND, PUBLICATION, REPLY
from heliograph.codecs.centrifuge.numbers import CLOSES
from heliograph.codecs.centrifuge.wire import delimited
from heliograph.codecs.varint import read_varint, varint
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.events import Event, Progress
from heliograph.protocol.operations import Operation, RequestId
from heliograph.protocol.publication import Publication


class CentrifugeProtobufCodec:
    """A `Codec`. `max_depth`: how deep the data of clients may nest (they are JSON too); `version`: the server's."""

    name = "centrifuge_protobuf"
    subprotocols = ("centrifuge-protobuf",)
    is_binary = True
    is_partial = True

    def __init__(self, max_depth: int, version: str) -> None:
        self._max_depth = max_depth
        self._version = version
        self.deltas = delta_encoders(self, _push, Raw)

    def decode(self, frame: str | bytes) -> Sequence[Operation]:
        operations: list[Operation] = []
        try:
            for command in _commands(frame):
                if len(operations) == MOST_COMMANDS:
                    return (too_many(),)
                operations.append(operation_of(command, self._max_depth))
        except ValueError as error:
            operations.append(malformed(f"the frame is not Protobuf commands after their lengths: {error}"))
        return operations or (malformed("the frame is empty"),)

    def request_ids(self, frame: str | bytes) -> Sequence[RequestId | None]:
        ids: list[RequestId | None] = []
        try:
            for command in islice(_commands(frame), MOST_COMMANDS):
                ids.append(command.id or None)
        except ValueError:
            ids.append(None)
        return ids or (None,)

    def encode(self, event: Event) -> bytes:
        if isinstance(event, Publication):
            return _push(event)
        if isinstance(event, Progress):
            return _push(event.publication)
        reply = reply_of(event, self._version)
        return b"" if reply is None else delimited(REPLY.encode(reply))

    def encode_disconnect(self, code: int, reason: str) -> bytes:
        """Return the payload with which a stream ends."""
        return delimited(REPLY.encode(disconnect_of(code, reason)))

    def close_code(self, code: int) -> int:
        return CLOSES.get(code, code)


def _commands(frame: str | bytes) -> Iterator[Command]:
    """Read the commands of a frame, one after the other.

    Raises:
        ValueError: the next is none.
    """
    if isinstance(frame, str):
        raise ValueError("it is text")
    at, end = 0, len(frame)
    while at < end:
        size, at = read_varint(frame, at, end)
        if size > end - at:
            raise ValueError("a command is longer than its frame")
        command: Command = COMMAND.decode(frame, at, at + size)
        at += size
        yield command


def _push(publication: Publication, is_difference: bool = False) -> bytes:
    """Return the push of a publication: a reply with a push (field 4) of its channel (2) and `pub` (4)."""
    if publication.tags is None and not is_difference:
        pub = _usual(publication)
    else:
        pub = PUBLICATION.encode(publication_of(publication, is_difference))
    push = b"\x12" + delimited(publication.channel.encode()) + b"\x22" + delimited(pub)
    return delimited(b"\x22" + delimited(push))


def _info(user: str, author: ClientInfo | None) -> bytes:
    """Return a client's user (field 1), id (2) and what its tokens say (3, 4)."""
    info = b"\x0a" + delimited(user.encode())
    if author is None:
        return info
    info += b"\x12" + delimited(author.client.encode())
    if author.conn_info:
        info += b"\x1a" + delimited(bytes(author.conn_info))
    if author.chan_info:
        info += b"\x22" + delimited(bytes(author.chan_info))
    return info


def _usual(publication: Publication) -> bytes:
    """Return what nearly all publications hold: data (field 4), author (5) and offset (6)."""
    pub = b"\x22" + delimited(bytes(publication.data))
    if publication.sender is not None:
        pub += b"\x2a" + delimited(_info(publication.sender, publication.author))
    if publication.position is not None:
        pub += b"\x30" + varint(publication.position.offset)
    return pub
