"""Lifecycle events: what the cluster tells the user's backend about users and channels. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol, Self

import msgspec


class Kind(StrEnum):
    """What has happened."""

    USER_ONLINE = "user_online"
    USER_OFFLINE = "user_offline"
    CHANNEL_OCCUPIED = "channel_occupied"
    CHANNEL_VACATED = "channel_vacated"
    SUBSCRIBED = "subscribed"
    UNSUBSCRIBED = "unsubscribed"
    MESSAGE_UNDELIVERED = "message_undelivered"
    GAP = "gap"  # between `from_ms` and `until_ms` events may be missing


# The kinds that a setting switches on. A gap is always told.
SELECTABLE = tuple(kind for kind in Kind if kind is not Kind.GAP)


class Entry(Protocol):
    """An entry of the stream of events, such as a `StreamEntry`."""

    @property
    def id(self) -> str: ...

    @property
    def fields(self) -> Mapping[str, bytes]: ...


class LifecycleEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change. All times are in milliseconds since the epoch, by Redis' clock.

    Args:
        id: the id in the stream of its Redis. There ids grow, and none is used twice.
        seq: counts the events of a stream, without holes. It starts again after a loss, which a `gap` tells.
        event: one of `Kind`. A later version may know more.
        at_ms: when it happened. A user who has gone is told of after the grace, and was gone since then.
        replica: the name of the replica that the connection was on; empty if nobody knows.
        user: of user_…, …subscribed and message_…. channel: of channel_…, …subscribed and message_….
        epoch, offset: of message_undelivered: the message's position in its channel.
        message_id, kept_at_ms: likewise, and when it was kept.
        count: of message_undelivered instead of those two: so many messages up to that position, which the log does
            not have any more.
        from_ms, until_ms: of a gap. 0: since ever.
    """

    id: str
    seq: int
    event: str
    at_ms: int
    replica: str = ""
    user: str | None = None
    channel: str | None = None
    epoch: str | None = None
    offset: int | None = None
    message_id: str | None = None
    kept_at_ms: int | None = None
    count: int | None = None
    from_ms: int | None = None
    until_ms: int | None = None

    @classmethod
    def read(cls, entry: Entry) -> Self:
        """Return the event of an entry of the stream.

        Raises:
            msgspec.ValidationError: it is no lifecycle event.
        """
        fields = {name: value.decode() for name, value in entry.fields.items()}
        return msgspec.convert({"id": entry.id, **fields}, cls, strict=False)


class EventBatch(msgspec.Struct, frozen=True):
    """The body of a webhook: events in order."""

    events: list[LifecycleEvent]
