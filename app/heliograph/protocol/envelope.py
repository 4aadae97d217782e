"""What travels on the bus: a publication, whom it is for, and which replica it comes from.

The wire form is JSON with two required fields, so that any program that can `PUBLISH` can address a user:

    PUBLISH events '{"target_user_id":"bob","message":{"text":"hello"}}'

One message of the bus holds one envelope or more, each on a line of its own.
A replica adds `message_id`, `sent_at`, `from`, `origin` (its name) and `node_id` (its identity since boot).
With a `command` the envelope is no message: every replica does with the user's connections what it says.
"""

from collections.abc import Callable

import msgspec

from heliograph.errors import BadChannel, BadData, BadEnvelope, BadUserId
from heliograph.protocol.command import Command, UnsubscribeUser
from heliograph.protocol.identity import check_channel, check_user_id, personal_channel
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication, check_again, check_data

MAX_DEPTH = 128  # of what foreign processes publish: they are trusted, but must not break a reader


class Envelope(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename={"sender": "from"}):
    """One message on the bus. Unknown fields are ignored, so that replicas of two versions can share a bus."""

    message: msgspec.Raw
    target_user_id: str | None = None
    channel: str | None = None  # where the publication is not for one user
    message_id: str | None = None
    sent_at: str | None = None
    sender: str | None = None
    origin: str | None = None
    node_id: str | None = None
    epoch: str | None = None
    offset: int = 0
    presence: str | None = None  # "join" or "leave": the message is the user who comes or goes
    command: Command | None = None  # what to do with the user's connections; the message counts nothing then
    seq: int = 0  # counts the kept publications for users on the shared bus channel, so that a missing one shows
    own_seq: int = 0  # counts those in the inbox of the replica that this is sent to

    def publication(self, channel: str) -> Publication:
        """The message inside, which has been kept. `channel`: the `address`, which whoever asks knows already."""
        return Publication(
            channel=channel,
            data=self.message,
            message_id=self.message_id or "",
            sent_at=self.sent_at or "",
            sender=self.sender,
            origin=self.origin,
            position=Position(self.epoch or "", self.offset),
        )

    def check(self) -> None:
        """To be called before a client is given the message: whoever says it is a replica can break no reader either.

        A replica has checked what it publishes, so this is what is left of that; it is put off because most
        envelopes are for nobody here.

        Raises:
            BadEnvelope: the message would break a reader.
        """
        try:
            check_again(self.message, MAX_DEPTH)
        except BadData as error:
            raise BadEnvelope(str(error)) from None

    @property
    def address(self) -> str:
        """The channel it is for."""
        if self.target_user_id is not None:
            return personal_channel(self.target_user_id)
        return self.channel or ""


KEPT = b'{"epoch":'  # how the script that keeps a publication begins its envelope

_decoder = msgspec.json.Decoder(Envelope)
_encoder = msgspec.json.Encoder()


encode_envelope: Callable[[Envelope], bytes] = _encoder.encode


def ending_of(node_id: str) -> bytes:
    """How every ephemeral envelope of that replica ends, and no other envelope: its node id is the last field.

    That tells it from afar, without decoding it.
    """
    return b'"node_id":' + _encoder.encode(node_id) + b"}"


def decode_envelopes(payload: bytes) -> list[Envelope]:
    """Read what came in over the bus, one envelope a line, and check what no replica has checked.

    What a replica has: see `Envelope.check`.

    Raises:
        BadEnvelope: not UTF-8, not JSON, a field missing or of the wrong type, or data that a client cannot read.
            One that is bad spoils those it came with.
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
    """Read what holds one envelope; otherwise like `decode_envelopes`."""
    envelope, *others = decode_envelopes(payload)
    if others:
        raise BadEnvelope(f"it holds {1 + len(others)} envelopes")
    return envelope


def _check_foreign(envelope: Envelope) -> None:
    if envelope.target_user_id is not None:
        check_user_id(envelope.target_user_id)
        if isinstance(envelope.command, UnsubscribeUser):
            check_channel(envelope.command.channel)
    elif envelope.command is not None:
        raise BadEnvelope("a command needs 'target_user_id'")
    else:
        check_channel(envelope.channel or "")
    check_data(envelope.message, MAX_DEPTH)


def read_logged(body: bytes, position: Position) -> Publication:
    """A publication as the log has kept it: an envelope without its first brace, checked before it was written."""
    envelope = _decoder.decode(b"{" + body)
    return Publication(
        channel=envelope.address,
        data=envelope.message,
        message_id=envelope.message_id or "",
        sent_at=envelope.sent_at or "",
        sender=envelope.sender,
        origin=envelope.origin,
        position=position,
    )
