"""All names of keys and bus channels in Redis: no other file builds one."""

from dataclasses import dataclass
from typing import Final

from heliograph.protocol.identity import personal_channel

LIFECYCLE_STREAM: Final = "events"


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one installation: its keys begin with `prefix`, its bus channels with `bus_channel`.

    Every replica listens on the shared `bus_channel` itself. The names of the others begin with it. The scripts
    `append` and `relay` build the names of inboxes like `inbox`.
    """

    prefix: str
    bus_channel: str

    def in_slot(self, tag: str) -> "Keys":
        """Return the names of one virtual shard of a cluster: all are in the slot of the tag, the first in braces."""
        return Keys(f"{self.prefix}{{{tag}}}:", f"{{{tag}}}{self.bus_channel}")

    def bus_channel_of(self, channel: str) -> str:
        """The bus channel of replicas that follow a public channel."""
        return f"{self.bus_channel}:{channel}"

    def own_bus_channel(self, node_id: str) -> str:
        """The bus channel on which a replica hears only itself."""
        return f"{self.bus_channel}@{node_id}"

    def inbox(self, node_id: str) -> str:
        """The bus channel for envelopes to one replica only (`BusSettings.routing`)."""
        return f"{self.bus_channel}@{node_id}:in"

    def holders(self, user_id: str) -> str:
        """Hash: lease -> its number of connections of the user."""
        return f"{self.prefix}{{{personal_channel(user_id)}}}:holders"

    def held_by(self, lease: str) -> str:
        """Set: the users that a lease holds, so that they can be forgotten with it."""
        return f"{self.prefix}lease:{lease}:users"

    def meta(self, channel: str) -> str:
        """Hash: the log's epoch, the offset of its last publication, the server that it was written under."""
        return f"{self.prefix}{{{channel}}}:meta"

    def channel_of_meta(self, meta: str) -> str:
        """Return the channel for which `meta` returns this name."""
        return meta.removeprefix(self.prefix + "{").removesuffix("}:meta")

    def stream(self, channel: str) -> str:
        """Stream: publications of servers on the channel, each under its offset."""
        return f"{self.prefix}{{{channel}}}:log"

    def client_stream(self, channel: str) -> str:
        """Stream: publications of clients, likewise; it is trimmed apart from `stream`."""
        return f"{self.prefix}{{{channel}}}:clients"

    def state(self, channel: str) -> str:
        """Hash: a run's latest state and progress, JSON."""
        return f"{self.prefix}{{{channel}}}:state"

    def tail(self, channel: str) -> str:
        """List: a run's last messages, JSON."""
        return f"{self.prefix}{{{channel}}}:tail"

    def idempotency(self, channel: str, key: str, owner: str | None = None) -> str:
        """String: the answer to the first publication with this idempotency key.

        `owner`: the user who owns the key; None: a server. A user id has no line end, so no two owners share a name.
        """
        if owner is None:
            return f"{self.prefix}{{{channel}}}:idempotency:{key}"
        return f"{self.prefix}{{{channel}}}:idempotency-of:{owner}\n{key}"

    def budget(self, user_id: str) -> str:
        """Hash: what a user's clients have written in the present window."""
        return f"{self.prefix}{{{personal_channel(user_id)}}}:budget"

    def receipts(self, user_id: str) -> str:
        """Hash: device and channel -> what the device has received, and when."""
        return f"{self.prefix}{{{personal_channel(user_id)}}}:receipts"

    def presence(self, channel: str) -> str:
        """Hash: user -> connections on the channel."""
        return f"{self.prefix}{{{channel}}}:presence"

    def clients(self, channel: str) -> str:
        """Hash: client -> its record, JSON."""
        return f"{self.prefix}{{{channel}}}:present"

    def clients_by(self, lease: str) -> str:
        """Set: channel, user and client of a lease, so that they can be forgotten with it."""
        return f"{self.prefix}lease:{lease}:present"

    def present_by(self, lease: str) -> str:
        """Hash: channel and user -> connections of a lease, so that they can be forgotten with it."""
        return f"{self.prefix}lease:{lease}:presence"

    def channel_counts(self, lease: str) -> str:
        """Hash: channel -> subscribed connections of a lease's replica."""
        return f"{self.prefix}lease:{lease}:channels"

    def shard(self, stream: str, shard: int) -> str:
        """Stream: one shard of a sharded stream."""
        return f"{self.prefix}{{stream:{stream}}}:{shard}"

    def dead_letters(self, stream: str) -> str:
        """Stream: entries of a sharded stream that no worker could handle, each with the reason."""
        return f"{self.prefix}{{stream:{stream}}}:dead"

    @property
    def lifecycle(self) -> tuple[str, str, str, str]:
        """The stream of lifecycle events, and what belongs to it; see `lua/_lifecycle.lua`.

        Stream: the events. Hash: the last number, the server that they were written under, when they last were.
        Sorted set: subject -> since when it is absent (ms). Hash: subject -> the replica that it was last with.
        """
        name = f"{self.prefix}{{stream:{LIFECYCLE_STREAM}}}"
        return self.shard(LIFECYCLE_STREAM, 0), f"{name}:about", f"{name}:absent", f"{name}:last-with"

    @property
    def untaken(self) -> str:
        """Sorted set: meta of a user's channel -> when its first message is due that nobody has taken (ms).

        Only if such messages are told; see `lua/_untaken.lua`.
        """
        return f"{self.prefix}{{stream:{LIFECYCLE_STREAM}}}:untaken"

    def occupants(self, channel: str) -> str:
        """Hash: lease -> 1 if its replica has subscribers of the channel (only if lifecycle events are told)."""
        return f"{self.prefix}{{{channel}}}:occupants"

    @property
    def webhook_pusher(self) -> str:
        """String: the replica that pushes lifecycle events to the user's backend."""
        return f"{self.prefix}{{stream:{LIFECYCLE_STREAM}}}:pusher"

    def latest(self, stream: str, key: str) -> str:
        """Hash: the latest state of a key of a sharded stream, and the entry that set it."""
        return f"{self.prefix}{{stream:{stream}}}:latest:{key}"

    @property
    def bus_sequences(self) -> str:
        """Hash: how many kept publications for users have gone out on the `shared` bus channel, and to each inbox."""
        return f"{self.prefix}bus:sequences"

    def ticket(self, name: str) -> str:
        """String: the identity behind a ticket, JSON."""
        return f"{self.prefix}ticket:{name}"

    @property
    def commands(self) -> str:
        """Stream: commands for users' connections, for replicas that the bus did not reach."""
        return f"{self.prefix}commands"

    @property
    def server(self) -> str:
        """Hash: the name of the present run of the Redis server, and of the run that was found to have lost data."""
        return f"{self.prefix}server"

    def script_owner(self, owner: str, number: int) -> str:
        """String: the holder of that name and number, whose scripts carry them."""
        return f"{self.prefix}script-owner:{owner}:{number}"

    def probe(self, name: str) -> str:
        """Hash: the number of write probes of the replica with that name."""
        return f"{self.prefix}probe:{name}"

    def probe_log(self, name: str) -> str:
        """Stream: the last write probe."""
        return f"{self.prefix}probe:{name}:log"

    def probe_scratch(self, name: str) -> str:
        """Scratch key of a write probe; deleted at its end."""
        return f"{self.prefix}probe:{name}:scratch"

    @property
    def blocked_users(self) -> str:
        """Sorted set: user -> end of the block (ms since the epoch by Redis' clock)."""
        return f"{self.prefix}blocked-users"

    @property
    def leases(self) -> str:
        """Sorted set: lease -> expiry (ms since the epoch by Redis' clock; 0: being reaped)."""
        return f"{self.prefix}leases"

    @property
    def replicas(self) -> str:
        """Hash: lease -> the report of its replica, JSON."""
        return f"{self.prefix}replicas"

    @property
    def settled_at(self) -> str:
        """The server's name, a dot, and when the directory under it becomes reliable (ms since the epoch).

        That is some time after it started empty, or after the server may have lost entries.
        """
        return f"{self.prefix}directory:settled"

    @property
    def run_leases(self) -> str:
        """Sorted set: run id -> expiry of its worker's lease (ms since the epoch by Redis' clock)."""
        return f"{self.prefix}runs:leases"
