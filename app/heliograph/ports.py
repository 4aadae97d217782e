"""The promises that every backend keeps. The contract tests hold all of them to these words."""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final, NamedTuple, Protocol

import msgspec

from heliograph.errors import BusUnavailable, OverBudget
from heliograph.protocol.budget import Charge
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.events import Delivery
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.run import RunState, RunUpdate
from heliograph.telemetry import BusStats

IDEMPOTENCY_TTL_S: Final = 300  # for how long a repetition is recognised
COMMAND_TTL_S: Final = 3600  # longer than a replica's connections outlive its link to Redis, in all likelihood
META_TTL_S: Final = 86_400  # a log's epoch and offset outlive its publications by so long ...
CLIENT_META_TTL_S: Final = 3600  # ... or so, if it holds nothing that a server has published
READ_TTL_S: Final = 60  # how long they are kept where somebody has read and nobody ever published
PAGE_BYTES: Final = 131_072  # read from a log at once, if nothing else is set


class ReplicaInfo(msgspec.Struct, frozen=True):
    """What a replica says of itself with each renewal of its lease.

    One of an older version leaves out what came later. None: it cannot say (it has no bus, or has heard nothing).
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
    bus_lag_ms: float | None = None  # from publishing to hearing it here
    canary_age_ms: float | None = None  # since it last heard itself
    channels: int = 0  # that connections listen to
    subscriptions: int = 0  # of all connections to all channels
    reason: str = ""  # why it is not ready, or degraded: see `Node.reason`


def new_node_id() -> str:
    """A name for a replica, unlike any other's and any that it had before."""
    return random.randbytes(8).hex()  # noqa: S311 - a name, not a secret


def lease_name(node_id: str, number: int) -> str:
    """The name of the lease that a replica takes as its `number`th: none is used twice."""
    return f"{node_id}.{number}"


def node_of(lease: str) -> str:
    """The replica that has taken the lease; empty if its name is of another kind."""
    return lease.rpartition(".")[0]


class Fault(StrEnum):
    """Why a server does not do what is asked of it."""

    UNREACHABLE = "redis_unreachable"
    READ_ONLY = "redis_read_only"
    MEMORY_FULL = "redis_memory_full"
    DENIED = "redis_denied"
    REFUSED = "redis_refused"


@dataclass(frozen=True, slots=True)
class ProbeFailure:
    """`text`: what it said, for operators."""

    fault: Fault
    text: str


class MemoryGauge(Protocol):
    """How full the memory is of a server that keeps what is kept."""

    async def share(self) -> float | None:
        """Return the part of its memory limit that is used; None if it has no limit, or does not say.

        Raises:
            BusUnavailable: not now.
        """
        ...


class Probe(Protocol):
    """A server that is to take what is written. It answers within its time-outs, whatever happens."""

    async def probe(self) -> ProbeFailure | None:
        """Rehearse what is asked of it; None if it did all of that."""
        ...


@dataclass(frozen=True, slots=True)
class Renewal:
    """`held`: the lease was still ours. `expired`: leases of others that nobody renewed in time."""

    held: bool
    expired: tuple[str, ...] = ()


class DirectoryBackend(Protocol):
    """Which replicas hold which user, each entry under the lease of the replica that made it.

    All calls may raise BusUnavailable; a call that did may or may not have been carried out, and each can be
    repeated without harm.
    """

    async def take(self, lease: str, info: ReplicaInfo, ttl_s: float) -> None:
        """Begin a new lease, alive for `ttl_s` seconds from now. A lease's name is never used twice."""
        ...

    async def renew(self, lease: str, info: ReplicaInfo, ttl_s: float) -> Renewal:
        """Keep the lease for `ttl_s` seconds from now, even if it ran out.

        It is not held if somebody began to reap it, or if what was entered under it may have been lost.
        """
        ...

    async def hold(self, lease: str, connections: Mapping[str, int]) -> dict[str, int] | None:
        """Say how many connections of each user this lease has now (0: none); returns how many all leases have.

        A lease is named by `lease_name`: what stands under others of that replica is the same
        connections once more, and does not count.

        None, and nothing is entered, if the lease is not held any more: whoever reaped it would not come again.
        """
        ...

    async def holders(self, user_id: str) -> dict[str, int]:
        """The user's connections by lease, empty when the user is nowhere."""
        ...

    async def doom(self, lease: str) -> None:
        """Begin to reap the lease: from now on it can neither be renewed nor written under."""
        ...

    async def reap(self, lease: str) -> int:
        """Forget the lease and every entry under it; returns how many users that were.

        From its first step on the lease cannot be renewed; a reaping that broke off is finished by the next.
        """
        ...

    async def replicas(self) -> list[ReplicaInfo]:
        """The replicas whose lease is alive, by name."""
        ...


@dataclass(frozen=True, slots=True)
class PresenceEntry:
    """How many connections of a user are on a channel. `announced`: who listens is told of a join or a leave."""

    channel: str
    user: str
    connections: int
    announced: bool


class PresenceBackend(Protocol):
    """Who is on which channel, each entry under the lease of a replica. All calls may raise BusUnavailable."""

    async def enter(self, lease: str, entries: Sequence[PresenceEntry]) -> bool:
        """Say how many connections this lease has now; False if the lease is not held any more."""
        ...

    async def members(self, channel: str) -> dict[str, int]:
        """The users on the channel, with the connections they have under all leases."""
        ...

    async def reap(self, lease: str, announced: Callable[[str], bool]) -> None:
        """Forget every entry under the lease; announce who is gone with it, on the channels that are `announced`."""
        ...


class ChannelCountsBackend(Protocol):
    """How many connections listen to which channel, under the lease of each replica.

    All calls may raise BusUnavailable.
    """

    async def enter(self, lease: str, counts: Mapping[str, int]) -> bool:
        """Say how many connections there are now (0: none) on these channels; False if the lease is not held."""
        ...

    async def counts(self) -> dict[str, dict[str, int]]:
        """Lease -> channel -> connections."""
        ...

    async def forget(self, lease: str) -> None:
        """Forget everything under the lease."""
        ...


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A publication that has no place in a log yet. For a run `update` stands in for the data."""

    channel: str
    data: msgspec.Raw
    message_id: str
    sent_at: str
    sender: str | None = None
    origin: str | None = None
    node_id: str | None = None
    update: RunUpdate | None = None
    idempotency_key: str | None = None
    client: str | None = None  # the user whose client wrote it, whose the key is too; None: a server did
    charge: Charge | None = None  # what to charge that user's budget with, if this is kept

    def publication(self, data: msgspec.Raw, position: Position) -> Publication:
        """What has become of it: `data` as the log has taken it, at that position."""
        return Publication(self.channel, data, self.message_id, self.sent_at, self.sender, self.origin, position)


class AppendResult(msgspec.Struct, frozen=True, gc=False):
    """Where a publication stands now.

    `published`: the bus brings it to every replica, this one too. Otherwise `data` is what to deliver here.
    """

    position: Position
    delivery: Delivery
    published: bool
    message_id: str
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A channel at one moment: where it stands, and what was read.

    `complete`: nothing is missing between the position asked for and the last publication read. Otherwise
    `publications` are those that are still kept, in order and with gaps; if the position is none of this epoch's,
    those that are certain to have come after it. More may follow if `publications` does not reach `position`: the log
    gives so many bytes at once as it was told to, or one publication. `run`: the latest of a run, if that was asked
    for and there is any.
    """

    position: Position
    complete: bool
    publications: list[Publication]
    run: RunState | None = None

    @property
    def start(self) -> Position:
        """Where a reader stands that is to be told `publications` next: if `complete`, where it has asked from."""
        first = self.publications[0].position if self.publications else None
        return self.position if first is None else Position(first.epoch, first.offset - 1)


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What to read with `Log.read`: what stands after `after`; everything that is kept; or nothing.

    `is_own`: `after` is what this replica was told itself, and not what a client says. A log that ends before that
    has lost its end: it begins a new epoch, for everybody.
    """

    channel: str
    after: Position | None = None
    replay: bool = False
    limit: int = 500
    with_run: bool = False
    is_own: bool = False


class BusSequences(NamedTuple):
    """Publications on the shared bus channel, and in this replica's own inbox."""

    shared: int
    own: int


class LogReader(Protocol):
    """The kept publications of all channels, to be read. All calls may raise BusUnavailable."""

    async def read(self, requests: Sequence[ReadRequest]) -> list[ReadResult]:
        """Say where channels stand and read what was asked for, each channel at one moment.

        Of a channel on which nothing was published this keeps nothing longer than READ_TTL_S: see `listen`.
        """
        ...

    async def listen(self, channels: Mapping[str, float]) -> None:
        """Keep the place of these channels for so many seconds more, where nothing was published yet."""
        ...

    async def bus_sequences(self) -> BusSequences:
        """How many kept publications for users have gone out on the bus so far, where this replica hears of them."""
        ...

    async def tops(self, channels: Sequence[str]) -> list[Position | None]:
        """Where channels stand, without touching them; None where there is no log that can be relied on."""
        ...


# How the answer to an append is taken.
OnAppended = Callable[[AppendResult | BusUnavailable | OverBudget], object]


class Log(LogReader, Protocol):
    """The kept publications of all channels, in order, each channel for itself."""

    def submit(self, draft: Draft, options: Namespace, lease: str, done: OnAppended) -> None:
        """As `append`, without waiting: `done` is called with the answer, in the order of calls."""
        ...

    async def append(self, draft: Draft, options: Namespace, lease: str) -> AppendResult:
        """Give the draft its place, keep it and publish it, all of it or nothing.

        To a user it is not published if `lease` alone is known to hold the user: whoever asks delivers it then.
        The history's size is that of what servers have published, and once more that of what clients have.

        A draft whose idempotency key (of the same client or of servers, on the same channel) was seen within
        IDEMPOTENCY_TTL_S is answered as the first one was.

        Raises:
            BusUnavailable: refused (memory full, a fault of Redis): nothing has happened. After a time-out it may
                have happened; with an idempotency key the call can be repeated.
            OverBudget: the draft is a client's, whose user has written as much as they may. Nothing has happened.
        """
        ...


@dataclass(frozen=True, slots=True)
class Emission:
    """What a client says to the workers behind the cluster. `emitted_at`: ISO 8601 in UTC."""

    event: str
    data: msgspec.Raw
    user: str
    session: str | None
    replica: str
    emitted_at: str
    message_id: str
    charge: Charge | None = None  # what to charge the user's budget with


class Emissions(Protocol):
    """Where emissions are kept until a worker has handled them, those of one user in order."""

    async def append(self, emission: Emission) -> None:
        """Keep it; once this returns, some worker of each group is given it, at least once.

        Raises:
            OverBudget: the user's clients have written as much as they may.
            StorageFull: there is no room but that of what the workers have not handled yet.
            BusUnavailable: it is not kept (after a time-out: it may be).
        """
        ...


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A command as it was kept: under which name, in which envelope, how many seconds ago."""

    entry: str
    payload: bytes
    age_s: float


class CommandReader(Protocol):
    """The commands that replicas were given of late, oldest first. All calls may raise BusUnavailable."""

    async def after(self, entry: str | None, age_s: float) -> list[CommandEntry]:
        """Those behind `entry`; without one, those since `age_s` seconds before the first such call.

        More may follow.
        """
        ...

    async def blocked_users(self) -> dict[str, float]:
        """The users who are kept out, and for how many seconds more."""
        ...


class CommandLog(CommandReader, Protocol):
    """Where commands are kept, so that a replica which the bus does not reach finds them."""

    async def append(self, envelope: Envelope) -> None:
        """Publish the command to all replicas and keep it for COMMAND_TTL_S, a block for as long as it lasts.

        Raises:
            BusUnavailable: some replica may not hear of it. It may be told again without harm.
        """
        ...


class Tickets(Protocol):
    """What tickets stand for, under names that do not give the tickets away. All calls may raise BusUnavailable."""

    async def keep(self, name: str, value: bytes, ttl_s: float) -> None:
        """Keep the value for `ttl_s` seconds."""
        ...

    async def take(self, name: str) -> bytes | None:
        """Give the value and forget it: of all who ask, on all replicas, one gets it. None if there is none."""
        ...

    async def read(self, name: str) -> bytes | None:
        """Give the value and keep it. None if there is none."""
        ...

    async def count(self, name: str, ttl_s: float) -> int:
        """Count up, from 1, and begin anew when nobody has counted for `ttl_s` seconds."""
        ...


class BusState(Enum):
    """Where the bus is in its life. Only a RUNNING bus that hears its canary makes a replica ready."""

    DISABLED = auto()  # one replica without Redis
    NEW = auto()  # `initialize` has not succeeded yet
    INITIALIZED = auto()  # connected and subscribed, nobody reads
    RUNNING = auto()  # the listen loop has a subscribed connection
    LOST = auto()  # the listen loop is building a new connection


Handler = Callable[[Envelope], object]  # takes what the bus brings
OnRelayed = Callable[[Delivery | BusUnavailable | None], object]  # takes the answer to a publish


class Subscriptions(Protocol):
    """The bus, as far as one can listen with it: there is nothing here to publish with."""

    async def follow(self, channel: str) -> None:
        """Have what is published on the channel brought here; returns once that is so.

        Raises:
            BusUnavailable: not now. It is followed all the same as soon as there is a bus.
        """
        ...

    async def unfollow(self, channel: str) -> None:
        """Have it brought no longer."""
        ...


class Bus(Subscriptions, Protocol):
    """What replicas say to each other, at once and at most once: a hint, not a record.

    Whatever is published while this replica does not listen is gone, and nothing says so.
    """

    @property
    def enabled(self) -> bool:
        """False if this is the only replica: nobody else is there, and there is nothing to wait for."""
        ...

    @property
    def node_id(self) -> str:
        """This replica, as the others know it; new at each boot."""
        ...

    @property
    def stats(self) -> BusStats: ...

    @property
    def state(self) -> BusState: ...

    @property
    def ready(self) -> bool:
        """True if what is published arrives here."""
        ...

    @property
    def canary_age_s(self) -> float:
        """Seconds since this replica last heard itself; infinite if it never did."""
        ...

    @property
    def lag_s(self) -> float:
        """Seconds from publishing to hearing it here; infinite if that is not known."""
        ...

    async def initialize(self) -> None:
        """Connect and subscribe. Does nothing if that is done, or if the listener is at it.

        Raises:
            BusUnavailable: not now; the listener may be started all the same and goes on trying.
        """
        ...

    def start_listening(
        self,
        handler: Handler | None = None,
        *,
        on_resubscribed: Callable[[], object] | None = None,
        on_died: Callable[[str], object] | None = None,
    ) -> None:
        """Begin to hand over what is published, in order, in a task of its own. Does nothing if that goes on.

        `handler` is synchronous and must not block; without one what comes is counted, and dropped. `on_resubscribed`
        is called each time a subscription has begun: whatever was published before it may have been missed.
        `on_died` is told why, if the listener has ended by itself. What is left out stays as it was before.
        """
        ...

    async def stop_listening(self) -> None:
        """Hand over nothing more. Subscriptions stay, and listening may begin again."""
        ...

    async def close(self) -> None:
        """Stop listening and unsubscribe. May be called at any time, also twice; `initialize` begins anew."""
        ...

    def relay(self, envelope: Envelope, lease: str, done: OnRelayed) -> None:
        """As `publish`, without waiting: `done` is called with the answer, in the order of calls."""
        ...

    def relay_on(self, envelope: Envelope, done: OnRelayed) -> None:
        """Send an ephemeral envelope to every replica that follows its channel; then `done`, as for `relay`."""
        ...

    async def publish(self, envelope: Envelope, *, lease: str) -> Delivery | None:
        """Send the envelope to all replicas, unless the one that holds `lease` is known to hold the whole user.

        Returns how far it reaches; None if this is the only replica.

        Raises:
            BusUnavailable: the message went to nobody but the local connections, or nobody knows (a time-out).
        """
        ...


class Closable(Protocol):
    """What holds connections that are to be closed; it is good for more afterwards."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """All that a replica needs from outside. `probes`: of the server with the bus first, then of others.

    Two things are to be done now and then, by any number of replicas, where there is Redis; both may raise
    BusUnavailable. `sweep_emissions` drops what has been kept for long enough. `reap_lost_runs` publishes FAILED for
    each run that has lost its worker, and returns how many those were.
    """

    bus: Bus
    directory: DirectoryBackend
    presence: PresenceBackend
    channel_counts: ChannelCountsBackend
    log: Log
    emissions: Emissions
    commands: CommandLog
    tickets: Tickets
    probes: Sequence[Probe] = ()
    memory: MemoryGauge | None = None
    sweep_emissions: Callable[[], Awaitable[None]] | None = None
    reap_lost_runs: Callable[[], Awaitable[int]] | None = None
    servers: Sequence[Closable] = ()

    async def close(self) -> None:
        """Close the bus and then every server. May be called twice."""
        await self.bus.close()
        for server in self.servers:
            await server.close()
