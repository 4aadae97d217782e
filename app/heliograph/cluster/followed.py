"""A channel that this replica follows, and its pending subscriptions."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from heliograph.hub.connection import Connection
from heliograph.protocol.identity import user_of
from heliograph.protocol.kinds.kind import ChannelKind
from heliograph.protocol.operations import Incomplete, RequestId
from heliograph.protocol.position import Position
from heliograph.protocol.subscription import NO_OPTIONS, SubscribeOptions

if TYPE_CHECKING:
    import asyncio

    from heliograph.cluster.deltas import Deltas
    from heliograph.protocol.events import Subscribed
    from heliograph.protocol.publication import Publication
    from heliograph.protocol.sequence import Sequence

MOST_HELD = 1024  # live publications kept for a connection that catches up; older ones it reads from the log


class Followed:
    """One channel that this replica follows."""

    __slots__ = (
        "deltas",
        "early",
        "idle_since",
        "is_users",
        "joining",
        "kind",
        "name",
        "seen_top",
        "sequence",
        "since",
    )

    def __init__(self, name: str, kind: ChannelKind, now: float) -> None:
        self.name = name
        self.kind = kind
        self.since = now  # monotonic seconds
        self.is_users = user_of(name) is not None
        self.sequence: Sequence | None = None  # None until the channel's position was read from the log
        self.early: list[Publication] = []  # publications that the bus brought before that
        self.joining: dict[Connection, PendingJoin] = {}
        self.deltas: Deltas | None = None  # while somebody here gets them
        self.seen_top: Position | None = None  # the log's last position at the last heartbeat
        self.idle_since: float | None = None  # since when there is no subscriber here; monotonic seconds


class PendingJoin:
    """A pending subscription: the client catches up, or waits until the log can be read."""

    __slots__ = (
        "announce",
        "connection",
        "encoding",
        "followed",
        "held",
        "incomplete",
        "is_over",
        "on_joined",
        "options",
        "position",
        "replay",
        "request_id",
        "since",
        "task",
        "was_on",
    )

    def __init__(
        self,
        connection: Connection,
        followed: Followed,
        since: Position | None = None,
        *,
        replay: bool = False,
        request_id: RequestId | None = None,
        options: SubscribeOptions = NO_OPTIONS,
        on_joined: Callable[[], object] | None = None,
    ) -> None:
        self.connection = connection
        self.followed = followed
        self.since = since
        self.replay = replay
        self.request_id = request_id
        self.options = options
        # That of the subscription: with deltas it begins with a whole publication.
        own, whole = connection.encoding, connection.encoding.whole
        self.encoding = own if options.delta is None or whole is None else whole
        self.on_joined = on_joined
        self.position: Position | None = None  # the client's position after everything that it was sent
        self.held: deque[Publication] = deque(maxlen=MOST_HELD)  # the latest publications that came meanwhile
        self.incomplete = Incomplete.DELIVER_REST
        self.announce: Callable[[Subscribed], object] | None = None  # gets `subscribed` instead of the client
        self.was_on = False  # it was subscribed, and fell behind in a repair
        self.is_over = False  # the client is subscribed, or was taken off the channel
        self.task: asyncio.Task[None] | None = None  # the retry


def just_before(position: Position) -> Position:
    """Return the position before `position`."""
    return Position(position.epoch, position.offset - 1)


def is_behind(position: Position, top: Position | None) -> bool:
    return top is None or position.epoch != top.epoch or position.offset < top.offset


def has_reached(position: Position, other: Position) -> bool:
    return position.epoch == other.epoch and position.offset >= other.offset


def is_after(position: Position, other: Position) -> bool:
    return position.epoch == other.epoch and position.offset > other.offset
