"""The promises of every backend. The contract tests hold each backend to them."""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final, NamedTuple, Protocol

import msgspec

from heliograph.errors import BusUnavailable, OverBudget
from heliograph.protocol.budget import Charge
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.events import Delivery
from heliograph.protocol.kinds.kind import ChannelState, ChannelUpdate
from heliograph.protocol.lifecycle import LifecycleEvent
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.telemetry import BusStats

IDEMPOTENCY_TTL_S: Final = 300  # how long a repetition is recognised
COMMAND_TTL_S: Final = 3600  # a replica's connections probably never outlive its link to Redis for this long
META_TTL_S: Final = 86_400  # how long a log's epoch and offset outlive its publications
CLIENT_META_TTL_S: Final = 3600  # the same for a log without publications of servers
READ_TTL_S: Final = 60  # the same for a log that was read and never written
PUSHER_TTL_S: Final = 5.0  # how long after the end of a pusher of lifecycle events another takes over
MOST_RECEIPTS: Final = 500  # positions of one user's devices that are kept
PAGE_BYTES: Final = 131_072  # read from a log at once, by default


class ReplicaInfo(msgspec.Struct, frozen=True):
    """What a replica reports with each renewal of its lease.

    An older version leaves newer fields out. None: unknown (it has no bus, or has received nothing).
    """

    name: str
    node_id: str
    ready: bool
    draining: bool
    connections: int
    users: int
    started_at: str
    renewed_at: float  # seconds since the epoch, by that replica's clock
    version: str
    messages_in_per_second: float = 0.0  # operations of clients, over the last two seconds
    messages_out_per_second: float = 0.0  # messages to connections, likewise
    bus_lag_ms: float | None = None  # from publishing to receiving it here
    canary_age_ms: float | None = None  # since its canary last came back
    channels: int = 0  # channels with subscribers here
    subscriptions: int = 0  # of all connections to all channels
    reason: str = ""  # why it is not ready, or degraded: see `Node.reason`


def new_node_id() -> str:
    """Return a new id for a replica, different at each start."""
    return random.randbytes(8).hex()  # noqa: S311 - a name, not a secret


def lease_name(node_id: str, number: int) -> str:
    """Return the name of a replica's lease number `number`: none is used twice."""
    return f"{node_id}.{number}"


def node_of(lease: str) -> str:
    """Return the replica that has taken the lease; empty if the name has another form."""
    return lease.rpartition(".")[0]


class Fault(StrEnum):
    """Why a server refuses or fails."""

    UNREACHABLE = "redis_unreachable"
    READ_ONLY = "redis_read_only"
    MEMORY_FULL = "redis_memory_full"
    DENIED = "redis_denied"
    NOT_DURABLE = "redis_not_durable"
    UNCONFIRMED = "redis_unconfirmed"
    REFUSED = "redis_refused"
    LAYOUT = "redis_layout"


@dataclass(frozen=True, slots=True)
class ProbeFailure:
    """`text`: the server's own text, for operators."""

    fault: Fault
    text: str


class MemoryGauge(Protocol):
    """How full the memory of the server for kept messages is."""

    async def share(self) -> float | None:
        """Return the part of its memory limit that is used; None if it has no limit, or does not say.

        Raises:
            BusUnavailable: not now.
        """
        ...


class Probe(Protocol):
    """A server that must accept writes. It answers within its time-outs, whatever happens."""

    async def probe(self) -> ProbeFailure | None:
        """Try a replica's real work on it; None if all of it succeeded."""
        ...


@dataclass(frozen=True, slots=True)
class Renewal:
    """`held`: the lease was still ours. `expired`: leases of others that were not renewed in time."""

    held: bool
    expired: tuple[str, ...] = ()


class DirectoryBackend(Protocol):
    """Which replicas hold which user. Each entry belongs to the lease of its replica.

    All calls may raise BusUnavailable; such a call may or may not have been carried out, and may be repeated without
    harm.
    """

    async def take(self, lease: str, info: ReplicaInfo, ttl_s: float) -> None:
        """Begin a new lease, alive for `ttl_s` seconds from now. The name of a lease is never used twice."""
        ...

    async def renew(self, lease: str, info: ReplicaInfo, ttl_s: float) -> Renewal:
        """Keep the lease for `ttl_s` seconds from now, even if it has expired.

        It is not held any more if a replica began to reap it, or if its entries may have been lost.
        """
        ...

    async def hold(self, lease: str, connections: Mapping[str, int]) -> dict[str, int] | None:
        """Set how many connections of each user this lease has now (0: none). Return how many all leases have.

        A lease is named by `lease_name`. Entries under other leases of the same replica are the same connections once
        more, and do not count.

        Return None and enter nothing if the lease is not held any more: its reaper would not come again.
        """
        ...

    async def holders(self, user_id: str) -> dict[str, int]:
        """Return the user's connections by lease; empty if the user is not connected.

        No replica calls this: the scripts that publish look for themselves. It shows what the other calls promise.
        """
        ...

    async def users(self) -> set[str]:
        """Return the users who are online: all with a connection, under any lease.

        Where lifecycle events are told, a user who has just left is online until the offline event.
        """
        ...

    async def doom(self, lease: str) -> None:
        """Begin to reap the lease: from now on it can neither be renewed nor get entries."""
        ...

    async def reap(self, lease: str) -> int:
        """Forget the lease and every entry under it. Return how many users that were.

        From the first step on the lease cannot be renewed. The next call finishes one that broke off.
        """
        ...

    async def replicas(self) -> list[ReplicaInfo]:
        """Return the replicas with a live lease, by name."""
        ...


@dataclass(frozen=True, slots=True)
class PresenceEntry:
    """How many connections of a user are on a channel. `announced`: subscribers are told of joins and leaves.

    `clients`: the user's clients that have come (with their infos) or gone (None), by the ids of their sessions.
    """

    channel: str
    user: str
    connections: int
    announced: bool
    clients: Sequence[tuple[str, ClientInfo | None]] = ()


class Announcer(Protocol):
    """Tells the subscribers of a channel here who joins and leaves."""

    def user(self, channel: str, user: str, joined: bool) -> object: ...

    def client(self, channel: str, client: ClientInfo, joined: bool) -> object: ...


class PresenceBackend(Protocol):
    """Who is on which channel. Each entry belongs to the lease of a replica. All calls may raise BusUnavailable."""

    async def enter(self, lease: str, entries: Sequence[PresenceEntry]) -> bool:
        """Set how many connections this lease has now, and which; False if the lease is not held any more.

        The first connection of a user under all leases joins, the last one leaves. Each client does so for itself.
        """
        ...

    async def members(self, channel: str) -> dict[str, int]:
        """Return the users on the channel, with their connections under all leases."""
        ...

    async def clients(self, channel: str) -> dict[str, ClientInfo]:
        """Return the clients on the channel under all leases, by the ids of their sessions."""
        ...

    async def reap(self, lease: str, announced: Callable[[str], bool]) -> None:
        """Forget every entry under the lease; announce who leaves by that, on the `announced` channels."""
        ...


class ChannelCountsBackend(Protocol):
    """How many connections are subscribed to which channel, under the lease of each replica.

    All calls may raise BusUnavailable.
    """

    async def enter(self, lease: str, counts: Mapping[str, int]) -> bool:
        """Set how many connections these channels have now (0: none); False if the lease is not held."""
        ...

    async def counts(self) -> dict[str, dict[str, int]]:
        """Return lease -> channel -> connections."""
        ...

    async def forget(self, lease: str) -> None:
        """Forget everything under the lease."""
        ...


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A publication without a position yet. `update`, if there is one, replaces the data."""

    channel: str
    data: msgspec.Raw
    message_id: str
    sent_at: str
    sender: str | None = None
    origin: str | None = None
    node_id: str | None = None
    update: ChannelUpdate | None = None
    idempotency_key: str | None = None
    client: str | None = None  # the user whose client wrote it, and who owns the key; None: a server
    charge: Charge | None = None  # the charge to that user's budget, if this is kept
    tags: dict[str, str] | None = None
    author: ClientInfo | None = None

    def publication(self, data: msgspec.Raw, position: Position) -> Publication:
        """Return the publication: `data` as the log has stored it, at that position."""
        return Publication(
            self.channel,
            data,
            self.message_id,
            self.sent_at,
            self.sender,
            self.origin,
            position,
            self.tags,
            self.author,
        )


class AppendResult(msgspec.Struct, frozen=True, gc=False):
    """The position of a publication.

    `published`: the bus brings it to every replica, this one too. Otherwise deliver `data` here.
    """

    position: Position
    delivery: Delivery
    published: bool
    message_id: str
    data: msgspec.Raw


class ReadResult(msgspec.Struct, frozen=True):
    """A channel at one moment: its position, and the publications that were read.

    `complete`: nothing that was acknowledged is missing between the requested position and the last publication read.
    That may be so in a later epoch than the requested one, where the log goes on at `start`. Otherwise
    `publications` are those that are still kept, in order and with gaps; if the position is from another epoch, those
    that certainly came after it. If `publications` does not reach `position`, more may follow: the log returns at
    most the configured number of bytes at once, or one publication. `state`: what the channel keeps
    beside its publications, if it was requested and exists.
    """

    position: Position
    complete: bool
    publications: list[Publication]
    state: ChannelState | None = None

    @property
    def start(self) -> Position:
        """Return the reader's position before `publications`: if `complete`, the requested one or what follows it."""
        first = self.publications[0].position if self.publications else None
        return self.position if first is None else Position(first.epoch, first.offset - 1)


class ReadRequest(msgspec.Struct, frozen=True):
    """What to read with `Log.read`: publications after `after`; everything that is kept; or nothing.

    `is_own`: `after` is a position that this replica has seen itself, and not a client's cursor. A log that ends
    before it has lost its end: it begins a new epoch, for everybody.
    """

    channel: str
    after: Position | None = None
    replay: bool = False
    limit: int = 500
    with_state: bool = False
    is_own: bool = False


class BusSequences(NamedTuple):
    """The numbers of publications on the shared bus channel, and in this replica's own inbox."""

    shared: int
    own: int


class LogReader(Protocol):
    """The kept publications of all channels, for reading. All calls may raise BusUnavailable."""

    async def read(self, requests: Sequence[ReadRequest]) -> list[ReadResult]:
        """Return the positions of channels, and read what was requested, each channel at one moment.

        For a channel without publications this keeps nothing longer than READ_TTL_S: see `listen`.
        """
        ...

    async def listen(self, channels: Mapping[str, float]) -> None:
        """Keep the position of channels without publications for so many seconds more."""
        ...

    async def bus_sequences(self) -> BusSequences:
        """Return how many kept publications for users have gone out on the bus channels of this replica so far."""
        ...

    async def tops(self, channels: Sequence[str]) -> list[Position | None]:
        """Return the positions of channels, without changing them; None if there is no reliable log."""
        ...


# The callback for the answer to an append.
OnAppended = Callable[[AppendResult | BusUnavailable | OverBudget], object]


class Log(LogReader, Protocol):
    """The kept publications of all channels, each channel in order."""

    def submit(self, draft: Draft, options: Namespace, lease: str, done: OnAppended) -> None:
        """Give the draft its position, keep it and publish it: all of it or nothing. Does not wait.

        A draft for a user is not published if only `lease` is known to hold the user: then the caller delivers it.
        The history's size holds for publications of servers, and separately for those of clients.

        If the idempotency key (of the same client or of servers, on the same channel) was seen within
        IDEMPOTENCY_TTL_S, the answer is that of the first draft.

        `done` is called with the answer, in the order of calls, perhaps before this returns. Instead of an
        AppendResult the answer may be:

        BusUnavailable: refused (memory full, an error in Redis): nothing has happened. After a time-out it may have
            been kept, and where copies must confirm it, it may be kept and not confirmed; with an idempotency key
            the call can be repeated.
        OverBudget: the draft is from a client whose user has used up the budget. Nothing has happened.
        """
        ...

    async def remove(self, channel: str) -> None:
        """Forget what is kept of the channel, a run's state too. Its position stays, and offsets go on.

        Raises:
            BusUnavailable: not removed; after a time-out it may have been.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeptPage:
    """Some channels, and the cursor for the rest; empty if there is no more."""

    channels: list[str]
    cursor: str


class KeptChannels(Protocol):
    """The channels of which publications are kept."""

    async def page(self, prefix: str, search: str, cursor: str, limit: int) -> KeptPage:
        """Return some of those whose name begins with `prefix` and has `search` in the rest of it, in any order.

        `cursor`: from an earlier page; empty for the first. A page has at most `limit` channels, perhaps none though
        there are more: it looks through a limited part of the server. A channel that is kept from the first page to
        the last is in one of them; in rare cases it is in two.

        Raises:
            BadCursor: no page has had this cursor.
            BusUnavailable: not now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Emission:
    """An event from a client for the workers behind the cluster. `emitted_at`: ISO 8601 in UTC."""

    event: str
    data: msgspec.Raw
    user: str
    session: str | None
    replica: str
    emitted_at: str
    message_id: str
    charge: Charge | None = None  # the charge to the user's budget


class Emissions(Protocol):
    """Emissions, kept until a worker has handled them; those of one user in order."""

    async def append(self, emission: Emission) -> None:
        """Keep the emission. After this returns, a worker of each group gets it, at least once.

        Raises:
            OverBudget: the user's clients have used up the budget.
            StorageFull: the stream is full of entries that the workers have not handled yet.
            BusUnavailable: it was not kept (after a time-out it may have been).
        """
        ...


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A kept command: its entry id, its envelope, and its age in seconds."""

    entry: str
    payload: bytes
    age_s: float


class CommandReader(Protocol):
    """Recent commands for replicas, oldest first. All calls may raise BusUnavailable."""

    async def after(self, entry: str | None, age_s: float) -> list[CommandEntry]:
        """Return the commands after `entry`; without it, those since `age_s` seconds before the first such call.

        More may follow.
        """
        ...

    async def blocked_users(self) -> dict[str, float]:
        """Return the blocked users, and for how many seconds more."""
        ...


class CommandLog(CommandReader, Protocol):
    """Keeps commands, so that a replica that the bus does not reach finds them."""

    async def append(self, envelope: Envelope) -> None:
        """Publish the command to all replicas, and keep it for COMMAND_TTL_S; a block for as long as it lasts.

        Raises:
            BusUnavailable: some replica may not get it. The command may be repeated without harm.
        """
        ...


class LifecycleFeed(Protocol):
    """The lifecycle events of one server, in order, for the one replica that passes them on.

    All calls may raise BusUnavailable.
    """

    async def own(self) -> bool:
        """Become the one that passes them on, or stay it for PUSHER_TTL_S more. False: another replica is."""
        ...

    async def disown(self) -> None:
        """Let another replica pass them on."""
        ...

    async def next(self, count: int) -> list[LifecycleEvent]:
        """Return at most `count` events, the oldest that were not acknowledged. They come again until they are.

        Events that were dropped meanwhile are left out: see `LifecycleEvent.seq`.
        """
        ...

    async def acknowledge(self, events: Sequence[LifecycleEvent]) -> None:
        """Note that these have been passed on."""
        ...

    async def bury(self, event: LifecycleEvent, reason: str) -> None:
        """Move an event to the dead letters, with the reason."""
        ...


class Tickets(Protocol):
    """Values of tickets, under names that do not reveal the tickets. All calls may raise BusUnavailable."""

    async def keep(self, name: str, value: bytes, ttl_s: float) -> None:
        """Keep the value for `ttl_s` seconds."""
        ...

    async def take(self, name: str) -> bytes | None:
        """Return the value and forget it: only one caller on all replicas gets it. None if there is none."""
        ...

    async def read(self, name: str) -> bytes | None:
        """Return the value and keep it. None if there is none."""
        ...

    async def count(self, name: str, ttl_s: float) -> int:
        """Count up from 1; start again after `ttl_s` seconds without a call."""
        ...


class Receipt(msgspec.Struct, frozen=True):
    """What a device of a user has received of a channel: everything up to `position`.

    `device`: as the client has named it; empty: it has not. `at`: when it said so, in seconds since the epoch, by the
    clock of its replica.
    """

    user: str
    device: str
    channel: str
    position: Position
    at: float


class Receipts(Protocol):
    """What the devices of users have received. All calls may raise BusUnavailable."""

    async def keep(self, receipts: Sequence[Receipt]) -> None:
        """Keep the receipts for a while after a user's last.

        The position of a device in a channel does not go back within an epoch. May be repeated without harm. A user
        has at most MOST_RECEIPTS: the oldest are forgotten first.
        """
        ...

    async def of(self, user_id: str) -> list[Receipt]:
        """Return what the user's devices have received, in any order."""
        ...


class Written(NamedTuple):
    """Messages of a user's own channel that were written to a connection: those above `after`, up to `up_to`.

    `device`: of the connection, as for a `Receipt`.
    """

    user: str
    device: str
    epoch: str
    after: int
    up_to: int


class Undelivered(Protocol):
    """Which messages to users nobody has taken, and the lifecycle events about them.

    All calls may raise BusUnavailable.
    """

    async def note(self, written: Sequence[Written]) -> None:
        """Note that messages were taken, because they were written. May be repeated without harm.

        A device that sends receipts takes messages with those, and not when they are written to it.
        """
        ...

    async def tell(self) -> int:
        """Tell the messages that nobody has taken in time. Return how many events that were.

        Any number of replicas may do so at the same time: every message is told once.
        """
        ...


class BusState(Enum):
    """The state of the bus. Only a RUNNING bus whose canary comes back makes a replica ready."""

    DISABLED = auto()  # one replica without Redis
    NEW = auto()  # `initialize` has not succeeded yet
    INITIALIZED = auto()  # connected and subscribed, but not read yet
    RUNNING = auto()  # the listen loop has a subscribed connection
    LOST = auto()  # the listen loop is opening a new connection


Handler = Callable[[Envelope], object]  # takes envelopes from the bus
OnRelayed = Callable[[Delivery | BusUnavailable | None], object]  # takes the answer to a publish
OnPosted = Callable[[int | BusUnavailable], object]  # takes the answer to `Bus.post`


class Subscriptions(Protocol):
    """The listening part of the bus: it has nothing to publish with."""

    async def follow(self, channel: str) -> None:
        """Follow the channel: its publications arrive here once this returns.

        Raises:
            BusUnavailable: not now. The channel is followed as soon as there is a bus.
        """
        ...

    async def unfollow(self, channel: str) -> None:
        """Stop following the channel."""
        ...


class Bus(Subscriptions, Protocol):
    """What replicas say to each other, at once and at most once: a hint, not a record.

    Whatever is published while this replica does not listen is gone, and nothing says so.
    """

    @property
    def enabled(self) -> bool:
        """False if this is the only replica."""
        ...

    @property
    def node_id(self) -> str:
        """The id of this replica for the others; new at each start."""
        ...

    @property
    def stats(self) -> BusStats: ...

    @property
    def state(self) -> BusState: ...

    @property
    def ready(self) -> bool:
        """True if publications arrive here."""
        ...

    @property
    def unheard_s(self) -> float:
        """Seconds since the canary last came back, over whichever connection; infinite if it never did."""
        ...

    @property
    def canary_age_s(self) -> float:
        """Seconds since the canary last came back over the present connection; infinite if it has not."""
        ...

    @property
    def lag_s(self) -> float:
        """Seconds from publishing to receiving it here; infinite if unknown."""
        ...

    async def initialize(self) -> None:
        """Connect and subscribe. Do nothing if that is done, or if the listener is doing it.

        Raises:
            BusUnavailable: not now; the listener may be started all the same, and retries.
        """
        ...

    def start_listening(
        self,
        handler: Handler | None = None,
        *,
        on_resubscribed: Callable[[], object] | None = None,
        on_died: Callable[[str], object] | None = None,
    ) -> None:
        """Begin to pass envelopes on, in order, in a task of its own. Do nothing if it already runs.

        `handler` is synchronous and must not block; without one, envelopes are counted and dropped. `on_resubscribed`
        is called at each new subscription: envelopes published before it may have been missed. `on_died` is called
        with the reason if the listener ends by itself. Arguments that are left out keep their earlier values.
        """
        ...

    async def stop_listening(self) -> None:
        """Stop passing envelopes on. Subscriptions stay, and listening may start again."""
        ...

    async def close(self) -> None:
        """Stop listening and unsubscribe. May be called at any time, also twice; `initialize` starts again."""
        ...

    def relay(self, envelope: Envelope, lease: str, done: OnRelayed) -> None:
        """Like `publish`, without waiting: `done` is called with the answer, in the order of calls."""
        ...

    def relay_on(self, envelope: Envelope, done: OnRelayed) -> None:
        """Send an ephemeral envelope to every replica that follows its channel; then call `done`, as for `relay`."""
        ...

    def post(self, node_id: str, envelope: Envelope, done: OnPosted) -> None:
        """Send the envelope to one other replica; then call `done` with how many have received it: 1, or 0."""
        ...

    async def publish(self, envelope: Envelope, *, lease: str) -> Delivery | None:
        """Send the envelope to all replicas, unless the holder of `lease` is known to hold the whole user.

        Replicas use `relay`. This name is a requirement, for programs that can await.

        Return how far it gets; None if this is the only replica.

        Raises:
            BusUnavailable: the message reached only local connections; after a time-out that is not certain.
        """
        ...


class Closable(Protocol):
    """An object with connections to close; it may be used again afterwards."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """Everything that a replica needs from outside. `probes`: first that of the server with the bus.

    With Redis, any number of replicas call some of them now and then; they may raise BusUnavailable.
    `sweep_emissions` drops emissions whose time to live is over. `reap_lost_runs` publishes FAILED for each run that
    has lost its worker, and returns how many. `tell_absences` tells the lifecycle events that have become due, and
    returns how many. `undelivered`: if the settings ask for that. `feeds`: the lifecycle events of each server, if
    they are told.
    """

    bus: Bus
    directory: DirectoryBackend
    presence: PresenceBackend
    channel_counts: ChannelCountsBackend
    log: Log
    kept_channels: KeptChannels
    emissions: Emissions
    commands: CommandLog
    tickets: Tickets
    receipts: Receipts
    probes: Sequence[Probe] = ()
    memory: MemoryGauge | None = None
    sweep_emissions: Callable[[], Awaitable[None]] | None = None
    reap_lost_runs: Callable[[], Awaitable[int]] | None = None
    tell_absences: Callable[[], Awaitable[int]] | None = None
    undelivered: Undelivered | None = None
    feeds: Sequence[LifecycleFeed] = ()
    servers: Sequence[Closable] = ()

    async def close(self) -> None:
        """Close the bus and then every server. May be called twice."""
        await self.bus.close()
        for server in self.servers:
            await server.close()
