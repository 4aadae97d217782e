"""A publisher's data, checked and in the form that the cluster's own scripts take. Pure."""

import operator
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from heliograph.backends.redis.call_batch import Call
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.log import AppendCalls, read_append_answer
from heliograph.clock import Clock, Timestamps
from heliograph.codecs.plain.cursor import format_cursor
from heliograph.errors import BadChannel, BadData, BadUserId, HeliographError
from heliograph.ports import Draft
from heliograph.protocol.envelope import Envelope, encode_envelope
from heliograph.protocol.identity import check_channel, check_user_id, personal_channel, user_of
from heliograph.protocol.kinds.kind import ChannelUpdate
from heliograph.protocol.kinds.registry import RUN, kind_of
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.position import Position
from heliograph.protocol.publication import check_data
from heliograph.protocol.run import RunUpdate, channel_of_run

_encode = msgspec.json.Encoder().encode
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # of a random UUID

MAX_KEY_BYTES = 255
MAX_LINE_CHARACTERS = 32_768  # of a log line: the outbox of a slow client holds few long ones


@dataclass(frozen=True, slots=True)
class Published:
    """The position of a publication in its channel. A repetition has the position of the first attempt.

    If the channel's namespace is ephemeral, `epoch` is None and `offset` 0. For a publisher over HTTP `message_id` is
    empty, because the server API does not return it.
    """

    channel: str
    message_id: str
    epoch: str | None
    offset: int

    @property
    def cursor(self) -> str:
        """The cursor from which a client continues after it; empty if it is not kept."""
        return "" if self.epoch is None else format_cursor({self.channel: Position(self.epoch, self.offset)})


class Drafting:
    """Make drafts and the script calls for them. `max_depth`: how deep arrays and objects may nest in data."""

    def __init__(self, keys: Keys, namespaces: Namespaces, max_depth: int, clock: Clock) -> None:
        self.keys = keys
        self.namespaces = namespaces
        self.clock = clock
        self._max_depth = max_depth
        self._calls = AppendCalls(keys)
        self._name = secrets.token_hex(4)
        self._timestamp = Timestamps(clock)

    def into(self, keys: Keys) -> "Drafting":
        """Return the same for another Redis of the cluster."""
        return Drafting(keys, self.namespaces, self._max_depth, self.clock)

    def publication(
        self,
        channel: str,
        data: object,
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> Draft:
        """Make a draft for a channel from anything that encodes to JSON (or from JSON, as `msgspec.Raw`)."""
        options = self.namespaces.of(_checked(channel))
        raw = data if isinstance(data, msgspec.Raw) else as_json(data)
        check_data(raw, self._max_depth)
        return self._draft(channel, raw, idempotency_key, kind_of(options).check(raw), tags)

    def for_user(
        self,
        user_id: str,
        data: object,
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> Draft:
        user_id = check_user_id(_checked_text(user_id, "a user id", BadUserId))
        return self.publication(personal_channel(user_id), data, idempotency_key, tags)

    def progress(
        self,
        run_id: str,
        state: str | None,
        progress: float | None,
        log: str | None,
        idempotency_key: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> Draft:
        """Make an update of a run; a field that is None keeps its value."""
        channel = check_run_id(run_id)
        if state is None and progress is None and log is None:
            raise BadData("an update of a run has a state, a progress or a log line, or several of them")
        percent = None if progress is None else as_number(progress)
        if percent is not None and not 0 <= percent <= 100:  # true for NaN too
            raise BadData(f"progress is in percent, 0 to 100; this is {progress!r}")
        if kind_of(self.namespaces.of(channel)) is not RUN:
            raise BadChannel(f"the settings say that {channel!r} is no run's channel (HELIOGRAPH_NAMESPACES)")
        update = RunUpdate(
            state=None if state is None else as_text(_checked_text(state, "a state", BadData)),
            progress=percent,
            message=None if log is None else as_line(_checked_text(log, "a log line", BadData)),
        )
        return self._draft(channel, msgspec.Raw(b"{}"), idempotency_key, update, tags)

    def lines(self, project_id: str | int, lines: Iterable[tuple[str, str]]) -> list[Draft]:
        """Make drafts of lines of a project's output, without their line ends, each with its stream's name.

        What is the same for all of them is found out once. Two texts are data that every reader can decode.
        """
        channel = _checked(f"logs:{project_id}")
        kind = kind_of(self.namespaces.of(channel))
        streams: dict[str, str] = {}
        drafts: list[Draft] = []
        for line, stream in lines:
            text = as_line(_checked_text(line, "a line", BadData))
            name = streams.get(_checked_text(stream, "a stream's name", BadData))
            if name is None:
                name = streams[stream] = as_text(stream)
            raw = msgspec.Raw(_encode({"line": text, "stream": name}))
            drafts.append(self._draft(channel, raw, None, kind.check(raw), None))
        return drafts

    def is_kept(self, draft: Draft) -> bool:
        return not self.namespaces.of(draft.channel).ephemeral

    def call(self, draft: Draft) -> Call:
        """Return keys and arguments for the append script. They say in which second this publisher makes them."""
        due = f"{self._name}.{int(self.clock.monotonic())}"
        return self._calls.of(draft, self.namespaces.of(draft.channel), lease="", due=due)

    def passing(self, draft: Draft) -> tuple[str, bytes]:
        """Return the bus channel and the envelope of a draft that is not kept."""
        user_id = user_of(draft.channel)
        envelope = Envelope(
            message=draft.data,
            target_user_id=user_id,
            channel=draft.channel if user_id is None else None,
            message_id=draft.message_id,
            sent_at=draft.sent_at,
            tags=draft.tags,
        )
        return self.bus_channel_of(draft), encode_envelope(envelope)

    def announcements(self, drafts: Sequence[Draft], answers: Sequence[list[Any]]) -> list[tuple[str, bytes]]:
        """Return bus channels and envelopes of drafts that `store` has kept now, without repetitions."""
        return [
            (self.bus_channel_of(draft), answer[1])
            for draft, answer in zip(drafts, answers, strict=True)
            if len(answer) > 1
        ]

    def bus_channel_of(self, draft: Draft) -> str:
        keys, channel = self.keys, draft.channel
        return keys.bus_channel if user_of(channel) is not None else keys.bus_channel_of(channel)

    def _draft(
        self,
        channel: str,
        data: msgspec.Raw,
        key: str | None,
        update: ChannelUpdate | None,
        tags: dict[str, str] | None,
    ) -> Draft:
        message_id = _message_id()
        return Draft(
            channel=channel,
            data=data,
            message_id=message_id,
            sent_at=self._timestamp(),
            update=update,
            idempotency_key=_checked_key(key) if key is not None else message_id,
            tags=tags,
        )


def published(draft: Draft, answer: bytes | list[bytes] | None) -> Published:
    """Return the caller's result. `answer` is that of the append or store script; None if the draft is not kept."""
    if answer is None:
        return Published(draft.channel, draft.message_id, None, 0)
    result = read_append_answer(answer if isinstance(answer, bytes) else answer[0], draft)
    return Published(draft.channel, result.message_id, result.position.epoch, result.position.offset)


def check_run_id(run_id: str) -> str:
    """Return the channel of the run.

    Raises:
        BadChannel: the id is empty, longer than 508 bytes of UTF-8, or has control characters.
    """
    if not _checked_text(run_id, "a run id", BadChannel):
        raise BadChannel("a run id must not be empty")
    return check_channel(channel_of_run(run_id))


def as_text(text: str) -> str:
    """Return the text with halves of surrogate pairs, which are not valid Unicode, written as escapes."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def as_line(line: str) -> str:
    """Return a line as it is published: without its end, valid, and cut at MAX_LINE_CHARACTERS."""
    line = as_text(line.removesuffix("\n").removesuffix("\r"))
    if len(line) <= MAX_LINE_CHARACTERS:
        return line
    return f"{line[:MAX_LINE_CHARACTERS]}… ({len(line) - MAX_LINE_CHARACTERS} characters more)"


def as_number(value: object) -> float:
    """Convert any kind of number (NumPy's scalars, `Decimal`, `Fraction`) to one that JSON has.

    Raises:
        BadData: it is not a number.
    """
    if isinstance(value, bool | str | bytes):
        raise BadData(f"expected a number, not {value!r}")
    if type(value) is int or type(value) is float:
        return value
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001, S110 - whatever a foreign type raises: it is no whole number
        pass
    try:
        return float(value)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - as above
        raise BadData(f"expected a number, not {type(value).__name__}") from None


def as_json(data: object) -> msgspec.Raw:
    """Encode data as JSON; numbers of other libraries become numbers.

    Raises:
        BadData: it cannot be encoded.
    """
    try:
        return msgspec.Raw(msgspec.json.encode(data, enc_hook=_plain))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise BadData(f"the data cannot be written as JSON: {error}") from None


def described(error: object) -> str:
    """Return one line about an exception: its class, and the first line of its text that is not empty."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whatever a broken __str__ raises
        text = ""
    text = next((line for line in text.splitlines() if line.strip()), "")
    if not isinstance(error, BaseException):
        return text
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _message_id() -> str:
    """Return what `uuid.uuid4().hex` does, in a third of the time."""
    digits = os.urandom(16).hex()
    return f"{digits[:12]}4{digits[13:16]}{_VARIANT[digits[16]]}{digits[17:]}"


def _checked(channel: str) -> str:
    user_id = user_of(_checked_text(channel, "a channel's name", BadChannel))
    if user_id is not None:
        check_user_id(user_id)
    return check_channel(channel)


def _checked_text(text: object, what: str, error: type[HeliographError]) -> str:
    if not isinstance(text, str):
        raise error(f"{what} is text, not {type(text).__name__} (this is {text!r})")
    return text


def _checked_key(key: str) -> str:
    try:
        size = len(_checked_text(key, "an idempotency key", BadData).encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= MAX_KEY_BYTES:
        raise BadData(f"an idempotency key is valid Unicode of 1 to {MAX_KEY_BYTES} bytes of UTF-8")
    return key


def _plain(value: object) -> object:
    """Convert a value of a type that JSON does not know: to text or to a number."""
    if isinstance(value, str):
        return str.__str__(value)
    if hasattr(value, "dtype") and hasattr(value, "item"):
        return value.item()  # NumPy's scalars, booleans among them
    if hasattr(value, "__float__"):
        return as_number(value)
    raise TypeError(f"objects of type {type(value).__name__} are not JSON")
