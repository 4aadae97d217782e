"""What a publisher wants to say, checked and in the form that the cluster's own scripts take. Pure."""

import operator
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from heliograph.backends.redis.call_batch import Call
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.log import AppendCalls, read_appended
from heliograph.backends.redis.run_leases import RUN_PREFIX
from heliograph.clock import Clock, iso8601
from heliograph.errors import BadChannel, BadData, BadUserId, HeliographError
from heliograph.ports import Draft
from heliograph.protocol.envelope import Envelope, encode_envelope
from heliograph.protocol.identity import check_channel, check_user_id, personal_channel, user_of
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.position import Position, format_cursor
from heliograph.protocol.publication import check_data
from heliograph.protocol.run import RunUpdate, check_update

MAX_KEY_BYTES = 255
MAX_LINE_CHARACTERS = 32_768  # of a log line: a client that is behind may not hold many of them


@dataclass(frozen=True, slots=True)
class Published:
    """Where a publication stands in its channel. Of a repetition, it is the place of the first try.

    `epoch` is None and `offset` 0 where nothing is kept (the channel's namespace is ephemeral). `message_id` is empty
    where a publisher went over HTTP: the server API does not tell it.
    """

    channel: str
    message_id: str
    epoch: str | None
    offset: int

    @property
    def cursor(self) -> str:
        """For a client that wants what follows; empty where nothing is kept."""
        return "" if self.epoch is None else format_cursor({self.channel: Position(self.epoch, self.offset)})


class Drafting:
    """Makes drafts and the calls for them. `max_depth`: how deep arrays and objects may nest in data."""

    def __init__(self, keys: Keys, bus_channel: str, namespaces: Namespaces, max_depth: int, clock: Clock) -> None:
        self.keys = keys
        self.bus_channel = bus_channel
        self.namespaces = namespaces
        self.clock = clock
        self._max_depth = max_depth
        self._calls = AppendCalls(keys, bus_channel)

    def publication(self, channel: str, data: object, idempotency_key: str | None = None) -> Draft:
        """Anything that encodes to JSON (or JSON itself, as `msgspec.Raw`) for a channel."""
        options = self.namespaces.of(_checked(channel))
        raw = data if isinstance(data, msgspec.Raw) else as_json(data)
        check_data(raw, self._max_depth)
        return self._draft(channel, raw, idempotency_key, check_update(raw) if options.run else None)

    def for_user(self, user_id: str, data: object, idempotency_key: str | None = None) -> Draft:
        user_id = check_user_id(_checked_text(user_id, "a user id", BadUserId))
        return self.publication(personal_channel(user_id), data, idempotency_key)

    def progress(
        self,
        run_id: str,
        state: str | None,
        progress: float | None,
        log: str | None,
        idempotency_key: str | None = None,
    ) -> Draft:
        """An update of a run; what is None stays as it was."""
        channel = check_run_id(run_id)
        if state is None and progress is None and log is None:
            raise BadData("an update of a run has a state, a progress or a log line, or several of them")
        percent = None if progress is None else as_number(progress)
        if percent is not None and not 0 <= percent <= 100:  # NaN is not, either
            raise BadData(f"progress is in percent, 0 to 100; this is {progress!r}")
        if not self.namespaces.of(channel).run:
            raise BadChannel(f"the settings say that {channel!r} is no run's channel (HELIOGRAPH_NAMESPACES)")
        update = RunUpdate(
            state=None if state is None else as_text(_checked_text(state, "a state", BadData)),
            progress=percent,
            message=None if log is None else as_line(_checked_text(log, "a log line", BadData)),
        )
        return self._draft(channel, msgspec.Raw(b"{}"), idempotency_key, update)

    def line(self, project_id: str | int, line: str, stream: str, idempotency_key: str | None = None) -> Draft:
        """A line of a project's output; its line end is left out."""
        data = {
            "line": as_line(_checked_text(line, "a line", BadData)),
            "stream": as_text(_checked_text(stream, "a stream's name", BadData)),
        }
        return self.publication(f"logs:{project_id}", data, idempotency_key)

    def is_kept(self, draft: Draft) -> bool:
        return not self.namespaces.of(draft.channel).ephemeral

    def call(self, draft: Draft) -> Call:
        """Keys and arguments of the append script."""
        return self._calls.of(draft, self.namespaces.of(draft.channel), lease="")

    def passing(self, draft: Draft) -> tuple[str, bytes]:
        """The bus channel and the envelope of a draft that is not kept."""
        user_id = user_of(draft.channel)
        envelope = Envelope(
            message=draft.data,
            target_user_id=user_id,
            channel=draft.channel if user_id is None else None,
            message_id=draft.message_id,
            sent_at=draft.sent_at,
        )
        return self.bus_channel_of(draft), encode_envelope(envelope)

    def announcements(self, drafts: Sequence[Draft], answers: Sequence[list[Any]]) -> list[tuple[str, bytes]]:
        """Bus channels and envelopes of what the `store` script has kept now; a repetition was announced before."""
        return [
            (self.bus_channel_of(draft), answer[1])
            for draft, answer in zip(drafts, answers, strict=True)
            if len(answer) > 1
        ]

    def bus_channel_of(self, draft: Draft) -> str:
        return self.bus_channel if user_of(draft.channel) is not None else f"{self.bus_channel}:{draft.channel}"

    def _draft(self, channel: str, data: msgspec.Raw, key: str | None, update: RunUpdate | None) -> Draft:
        return Draft(
            channel=channel,
            data=data,
            message_id=uuid.uuid4().hex,
            sent_at=iso8601(self.clock.now()),
            update=update,
            idempotency_key=_checked_key(key) if key is not None else uuid.uuid4().hex,
        )


def published(draft: Draft, answer: bytes | list[bytes] | None) -> Published:
    """What to tell the caller; `answer` is the append or store script's, None if the draft is not kept."""
    if answer is None:
        return Published(draft.channel, draft.message_id, None, 0)
    appended = read_appended(answer if isinstance(answer, bytes) else answer[0], draft)
    return Published(draft.channel, appended.message_id, appended.position.epoch, appended.position.offset)


def check_run_id(run_id: str) -> str:
    """The channel of the run.

    Raises:
        BadChannel: empty, too long (508 bytes of UTF-8 at the most) or with control characters.
    """
    if not _checked_text(run_id, "a run id", BadChannel):
        raise BadChannel("a run id must not be empty")
    return check_channel(f"{RUN_PREFIX}{run_id}")


def as_text(text: str) -> str:
    """The same, with what is no valid Unicode (halves of surrogate pairs) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_line(line: str) -> str:
    """One line as it is published: without its end, valid, and cut if it is longer than anyone reads."""
    line = as_text(line.removesuffix("\n").removesuffix("\r"))
    if len(line) <= MAX_LINE_CHARACTERS:
        return line
    return f"{line[:MAX_LINE_CHARACTERS]}… ({len(line) - MAX_LINE_CHARACTERS} characters more)"


def as_number(value: object) -> float:
    """A number as JSON has it, from whatever counts as one: NumPy's scalars, `Decimal`, `Fraction`.

    Raises:
        BadData: it is no number.
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
    """Write anything that can be written as JSON; numbers of other libraries as the numbers they are.

    Raises:
        BadData: it cannot be.
    """
    try:
        return msgspec.Raw(msgspec.json.encode(data, enc_hook=_plain))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise BadData(f"the data cannot be written as JSON: {error}") from None


def described(error: object) -> str:
    """One line about an exception: its class, and the first line of its text that is not empty."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whatever a broken __str__ raises
        text = ""
    text = next((line for line in text.splitlines() if line.strip()), "")
    if not isinstance(error, BaseException):
        return text
    name = type(error).__name__
    return f"{name}: {text}" if text else name


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
    """What stands for a value of a type that JSON does not know: text for text, a number for a number."""
    if isinstance(value, str):
        return str.__str__(value)
    if hasattr(value, "dtype") and hasattr(value, "item"):
        return value.item()  # NumPy's scalars, booleans among them
    if hasattr(value, "__float__"):
        return as_number(value)
    raise TypeError(f"objects of type {type(value).__name__} are not JSON")
