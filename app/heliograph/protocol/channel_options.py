"""The options of the channels of one namespace. Pure, and without packages that only a server needs."""

import json
import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Self

from heliograph.errors import BadSetting

_TRUE: Final = frozenset(("1", "true", "yes", "on", "t", "y"))
_FALSE: Final = frozenset(("0", "false", "no", "off", "f", "n"))


class BadOption(BadSetting):
    """An invalid option. `option`: its name; `why`: what is wrong, without the value."""

    def __init__(self, option: str, why: str) -> None:
        super().__init__(f"{option}: {why}" if option else why)
        self.option = option
        self.why = why


def _number(default: float, description: str, **bounds: float) -> Any:
    """Declare a number within `ge`, `gt` and `le`; a whole one if its default is."""
    return field(default=default, metadata={"description": description, **bounds})


def _flag(default: bool | None, description: str) -> Any:
    return field(default=default, metadata={"description": description})


def _choice(default: str, description: str, *choices: str) -> Any:
    """Declare a text that is one of the choices."""
    return field(default=default, metadata={"description": description, "choices": choices})


def _choices(description: str, *choices: str) -> Any:
    """Declare any number of the choices; none by default."""
    return field(default=(), metadata={"description": description, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """The options of the channels of one namespace.

    It remembers which options were given: only those replace the options of a built-in namespace.

    Raises:
        BadOption: a value is not valid.
    """

    history_size: int = _number(100, "publications kept, at least", ge=1, le=1_000_000)
    history_ttl_s: float = _number(300.0, "how long they are kept after the last one", gt=0)
    ephemeral: bool = _flag(False, "nothing is kept: no cursor, no recovery, at most once")
    replay: bool = _flag(False, "a subscriber without a cursor gets everything that is kept")
    presence: bool = _flag(False, "the cluster keeps who is on the channel")
    join_leave: bool = _flag(False, "subscribers get `join` and `leave`; needs presence")
    force_push_join_leave: bool = _flag(
        False, "with join_leave: clients of SDKs get each client's join and leave without asking for it"
    )
    subscription_events: bool = _flag(
        False, "who subscribes and unsubscribes is a lifecycle event for your backend; needs presence"
    )
    undelivered_after_s: float = _number(
        0.0,
        "for the namespace # only: a message that no device has taken after this time is the lifecycle event "
        "message_undelivered; 0: none is",
        ge=0,
    )
    client_subscribe: bool | None = _flag(
        None, "clients may subscribe and read the history; unset: in open mode only"
    )
    client_publish: bool | None = _flag(None, "clients may publish; unset: in open mode only")
    client_send: bool | None = _flag(
        None, "for the namespace # only: clients may send to any user; unset: in open mode only"
    )
    subscribe_hook: bool | None = _flag(
        None, "the subscribe hook decides who may read; unset: if there is one, unless client_subscribe is false"
    )
    publish_hook: bool | None = _flag(
        None, "the publish hook decides who may publish; unset: if there is one, unless client_publish is false"
    )
    allow_publish_for_subscriber: bool = _flag(False, "clients that are subscribed may publish")
    allow_history_for_client: bool | None = _flag(
        None, "clients may read the history; false: none may, whatever its token says; unset: those who may subscribe"
    )
    allow_history_for_subscriber: bool = _flag(False, "clients that are subscribed may read the history")
    allow_presence_for_client: bool | None = _flag(
        None, "clients may read presence; false: none may, whatever its token says; unset: those who may subscribe"
    )
    allow_presence_for_subscriber: bool = _flag(False, "clients that are subscribed may read presence")
    allow_user_limited_channels: bool = _flag(
        False, "a channel such as `dialog:1#alice,bob` is for the users that its name lists, and nobody else"
    )
    force_recovery_mode: str = _choice(
        "stream",
        "what a client that comes back gets: every message that it missed, or (cache) the latest one only, which new "
        "subscribers get too",
        "stream",
        "cache",
    )
    allowed_delta_types: tuple[str, ...] = _choices(
        "compression by differences that clients of SDKs may ask for, as a list", "fossil"
    )
    run: bool = _flag(False, "publications are a run's updates; its latest state is kept too")
    final_ttl_s: float = _number(3600.0, "how long a run is kept after its end", gt=0)

    if not TYPE_CHECKING:  # type checkers read the generated __init__

        def __new__(cls, **given: object) -> Self:
            made = super().__new__(cls)
            object.__setattr__(made, "_given", frozenset(given))
            return made

    def __post_init__(self) -> None:
        for option in fields(self):
            object.__setattr__(self, option.name, _checked(option, getattr(self, option.name)))

    def given(self) -> dict[str, Any]:
        """Return the options that were given to the constructor, by name."""
        names: frozenset[str] = self._given  # type: ignore[attr-defined] # set by __new__
        return {option.name: getattr(self, option.name) for option in fields(self) if option.name in names}

    @classmethod
    def read(cls, options: object) -> Self:
        """Create one from a JSON object; text is read as a number or a flag.

        Raises:
            BadOption: it is not an object, an option is unknown, or a value is not valid.
        """
        if not isinstance(options, Mapping):
            raise BadOption("", "must be a JSON object")
        known = {option.name for option in fields(cls)}
        for name in options:
            if name not in known:
                raise BadOption(str(name), "there is no such setting (see `heliograph settings`)")
        return cls(**options)


def _checked(option: "Field[Any]", value: object) -> object:
    """Return the value as the option's type."""
    choices = option.metadata.get("choices", ())
    if isinstance(option.default, str):
        if value not in choices:
            raise BadOption(option.name, f"must be one of {', '.join(choices)}")
        return value
    if isinstance(option.default, tuple):
        if not isinstance(value, list | tuple) or any(each not in choices for each in value):
            raise BadOption(option.name, f"must be a list of {', '.join(choices)}")
        return tuple(dict.fromkeys(value))
    if isinstance(option.default, bool) or option.default is None:
        return None if value is None and option.default is None else as_flag(option.name, value)
    return as_number(option.name, value, is_whole=isinstance(option.default, int), **_bounds(option))


def options_table() -> str:
    """Return all options with their defaults and meanings, as a Markdown table."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in fields(Namespace):
        default = "" if option.default is None else f"`{json.dumps(option.default)}`"
        rows.append(f"| `{option.name}` | {default} | {option.metadata['description']} |")
    return "\n".join(rows)


def _bounds(option: "Field[Any]") -> dict[str, float]:
    return {name: option.metadata[name] for name in ("ge", "gt", "le") if name in option.metadata}


def as_flag(name: str, value: object) -> bool:
    """Return a flag, from a flag or a text. Raises BadOption."""
    if isinstance(value, bool):
        return value
    written = str(value).lower() if isinstance(value, int | str) else ""
    if written in _TRUE or written in _FALSE:
        return written in _TRUE
    raise BadOption(name, "must be true or false")


def as_number(
    name: str,
    value: object,
    *,
    is_whole: bool,
    ge: float = -math.inf,
    gt: float = -math.inf,
    le: float = math.inf,
) -> float:
    """Return a number within its bounds, from a number or a text. Raises BadOption."""
    kind = int if is_whole else float
    what = "a whole number" if is_whole else "a number"
    if ge > -math.inf:
        what += f" of at least {ge:g}"
    if gt > -math.inf:
        what += f" above {gt:g}"
    if le < math.inf:
        what += f" and at most {le:.0f}"
    try:
        number = kind(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not math.isfinite(number) or (not isinstance(value, str) and number != value):
        raise BadOption(name, f"must be {what}")
    if not (ge <= number <= le and number > gt):
        raise BadOption(name, f"must be {what}")
    return number
