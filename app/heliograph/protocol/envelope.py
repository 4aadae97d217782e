"""What travels on the bus: a publication, its recipient, and the replica that it comes from.

The wire form is JSON with two required fields, so that any program that can `PUBLISH` can address a user:

    PUBLISH events '{"target_user_id":"bob","message":{"text":"hello"}}'

One bus message holds one envelope or more, each on a line of its own.
A replica adds `message_id`, `sent_at`, `from`, `origin` (its name) and `node_id` (its identity since boot).
An envelope with a `command` is not a message: every replica carries the command out on the user's connections.
"""

from collections.abc import Callable

import msgspec

from heliograph.errors import BadChannel, BadData, BadEnvelope, BadUserId
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.command import Command, Only, SubscribeUser, UnsubscribeUser
from heliograph.protocol.identity import check_channel, check_user_id, personal_channel
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication, check_again, check_data

MAX_DEPTH = 128  # for data of other programs: they are trusted, but must not break a reader


class Envelope(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename={"sender": "from"}):
    """One message on the bus. Unknown fields are ignored, so that replicas of two versions can share a bus."""

    message: msgspec.Raw
    target_user_id: str | None = None
    channel: str | None = None  # set if the publication is not for one user
    message_id: str | None = None
    sent_at: str | None = None
    sender: str | None = None
    origin: str | None = None
    tags: dict[str, str] | None = None
    author: ClientInfo | None = None
    node_id: str | None = None
    epoch: str | None = None
    offset: int = 0
    presence: str | None = None  # "join" or "leave": the message is the user's id
    command: Command | None = None  # for the user's connections; the message has no meaning then
    seq: int = 0  # counts the kept publications for users on the shared bus channel, so that a missing one shows
    own_seq: int = 0  # counts those in the inbox of the replica that this is sent to
    # With `presence`: the client that has come or gone, and its channel. `channel` is empty then: a replica of an
    # earlier version, which knows nothing of clients, would tell its subscribers of a user.
    on: str | None = None
    client: ClientInfo | None = None

    def publication(self, channel: str) -> Publication:
        """Return the kept message inside. `channel`: the `address`, which the caller knows already."""
        return Publication(
            channel=channel,
            data=self.message,
            message_id=self.message_id or "",
            sent_at=self.sent_at or "",
            sender=self.sender,
            origin=self.origin,
            position=Position(self.epoch or "", self.offset),
            tags=self.tags,
            author=self.author,
        )

    def check(self) -> None:
        """Check the message before a client gets it, so that a false replica cannot break a reader either.

        Replicas check what they publish, so only these checks are left. They run late because most envelopes have no
        recipient on this replica.

        Raises:
            BadEnvelope: the message would break a reader.
        """
        try:
            check_again(self.message, MAX_DEPTH)
        except BadData as error:
            raise BadEnvelope(str(error)) from None

    @property
    def address(self) -> str:
        """Return the channel that it is for."""
        if self.target_user_id is not None:
            return personal_channel(self.target_user_id)
        return self.channel or ""


KEPT = b'{"epoch":'  # the start of an envelope from the script that keeps a publication

_decoder = msgspec.json.Decoder(Envelope)
_encoder = msgspec.json.Encoder()


encode_envelope: Callable[[Envelope], bytes] = _encoder.encode


def ending_of(node_id: str) -> bytes:
    """Return the end of every ephemeral envelope of that replica, and of no other: its node id is the last field.

    So a replica recognises its own envelopes without decoding them.
    """
    return b'"node_id":' + _encoder.encode(node_id) + b"}"


def decode_envelopes(payload: bytes) -> list[Envelope]:
    """Read a bus message, one envelope a line, and check envelopes that no replica has checked.

    For envelopes of replicas see `Envelope.check`.

    Raises:
        BadEnvelope: not UTF-8, not JSON, a field is missing or of the wrong type, or a client cannot read the data.
            One bad envelope rejects the whole bus message.
    """
    try:
        envelopes = _decoder.decode_lines(payload)
        for envelope in envelopes:
            if envelope.target_user_id is envelope.channel is None:
                raise BadEnvelope("it has no 'target_user_id'")
            if envelope.node_id is None:
                _check_foreign(envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadUserId, BadChannel, BadData) as error:
        raise BadEnvelope(str(error) or type(error).__name__) from None
    if not envelopes:
        raise BadEnvelope("it is empty")
    return envelopes


def decode_envelope(payload: bytes) -> Envelope:
    """Read a bus message with one envelope; otherwise like `decode_envelopes`."""
    envelope, *others = decode_envelopes(payload)
    if others:
        raise BadEnvelope(f"it holds {1 + len(others)} envelopes")
    return envelope


def _check_foreign(envelope: Envelope) -> None:
    if envelope.target_user_id is not None:
        check_user_id(envelope.target_user_id)
        command = envelope.command
        if isinstance(command, Only):
            command = command.command
        if isinstance(command, UnsubscribeUser | SubscribeUser):
            check_channel(command.channel)
    elif envelope.command is not None:
        raise BadEnvelope("a command needs 'target_user_id'")
    else:
        check_channel(envelope.channel or "")
    check_data(envelope.message, MAX_DEPTH)


def read_logged(body: bytes, position: Position) -> Publication:
    """Read a publication from the log: an envelope without its first brace, checked before it was written."""
    envelope = _decoder.decode(b"{" + body)
    return Publication(
        channel=envelope.address,
        data=envelope.message,
        message_id=envelope.message_id or "",
        sent_at=envelope.sent_at or "",
        sender=envelope.sender,
        origin=envelope.origin,
        position=position,
        tags=envelope.tags,
        author=envelope.author,
    )
