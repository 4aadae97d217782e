"""All names in Redis, of keys and of bus channels: no other file makes one up."""

from dataclasses import dataclass

from heliograph.protocol.identity import personal_channel


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one installation: its keys begin with `prefix`, its bus channels with `bus_channel`.

    Every replica listens on `bus_channel` itself, which is shared. The names of the others begin with it. The scripts
    `append` and `relay` write the names of inboxes as `inbox` does.
    """

    prefix: str
    bus_channel: str

    def bus_channel_of(self, channel: str) -> str:
        """The bus channel of those who follow a public channel."""
        return f"{self.bus_channel}:{channel}"

    def own_bus_channel(self, node_id: str) -> str:
        """The bus channel on which a replica hears itself, and nobody else."""
        return f"{self.bus_channel}@{node_id}"

    def inbox(self, node_id: str) -> str:
        """The bus channel for what is sent to one replica alone (`BusSettings.routing`)."""
        return f"{self.bus_channel}@{node_id}:in"

    def holders(self, user_id: str) -> str:
        """Hash: lease -> how many connections of the user it has."""
        return f"{self.prefix}{{{personal_channel(user_id)}}}:holders"

    def held_by(self, lease: str) -> str:
        """Set: the users that a lease holds, so that they can be forgotten with it."""
        return f"{self.prefix}lease:{lease}:users"

    def meta(self, channel: str) -> str:
        """Hash: the log's epoch, the offset of its last publication, the server it was written under."""
        return f"{self.prefix}{{{channel}}}:meta"

    def stream(self, channel: str) -> str:
        """Stream: what servers have published on the channel, each publication under its offset."""
        return f"{self.prefix}{{{channel}}}:log"

    def client_stream(self, channel: str) -> str:
        """Stream: what clients have published or sent, likewise; it is trimmed apart from `stream`."""
        return f"{self.prefix}{{{channel}}}:clients"

    def state(self, channel: str) -> str:
        """Hash: a run's latest state and progress, JSON."""
        return f"{self.prefix}{{{channel}}}:state"

    def tail(self, channel: str) -> str:
        """List: a run's last messages, JSON."""
        return f"{self.prefix}{{{channel}}}:tail"

    def idempotency(self, channel: str, key: str, owner: str | None = None) -> str:
        """String: what the first publication with this idempotency key was answered.

        `owner`: the user whose key it is; None: a server's. A user id has no line end, so no two owners share a name.
        """
        if owner is None:
            return f"{self.prefix}{{{channel}}}:idempotency:{key}"
        return f"{self.prefix}{{{channel}}}:idempotency-of:{owner}\n{key}"

    def budget(self, user_id: str) -> str:
        """Hash: what a user's clients have written lately."""
        return f"{self.prefix}{{{personal_channel(user_id)}}}:budget"

    def presence(self, channel: str) -> str:
        """Hash: user -> connections, of those who are on the channel."""
        return f"{self.prefix}{{{channel}}}:presence"

    def present_by(self, lease: str) -> str:
        """Hash: channel and user -> connections, of what a lease has entered, so that it can be forgotten with it."""
        return f"{self.prefix}lease:{lease}:presence"

    def channel_counts(self, lease: str) -> str:
        """Hash: channel -> how many connections of a lease's replica listen to it."""
        return f"{self.prefix}lease:{lease}:channels"

    def shard(self, stream: str, shard: int) -> str:
        """Stream: one of those that make up a sharded stream."""
        return f"{self.prefix}{{stream:{stream}}}:{shard}"

    def dead_letters(self, stream: str) -> str:
        """Stream: the entries of a sharded stream that nobody could handle, each with the reason."""
        return f"{self.prefix}{{stream:{stream}}}:dead"

    def latest(self, stream: str, key: str) -> str:
        """Hash: the latest state of a key of a sharded stream, and the entry that brought it."""
        return f"{self.prefix}{{stream:{stream}}}:latest:{key}"

    @property
    def bus_sequences(self) -> str:
        """Hash: how many kept publications for users have gone out on the `shared` bus channel, and to each inbox."""
        return f"{self.prefix}bus:sequences"

    def ticket(self, name: str) -> str:
        """String: whom a ticket stands for, JSON."""
        return f"{self.prefix}ticket:{name}"

    @property
    def commands(self) -> str:
        """Stream: what replicas were told to do with users' connections, for those that the bus did not reach."""
        return f"{self.prefix}commands"

    @property
    def server(self) -> str:
        """Hash: the name of the present run of the Redis server, and of the one that was found to have lost data."""
        return f"{self.prefix}server"

    def script_owner(self, owner: str, number: int) -> str:
        """String: who goes by that name and number, and has the scripts that carry them."""
        return f"{self.prefix}script-owner:{owner}:{number}"

    def probe(self, name: str) -> str:
        """Hash: how often the replica of that name has tried out whether Redis takes what it writes."""
        return f"{self.prefix}probe:{name}"

    def probe_log(self, name: str) -> str:
        """Stream: its last try."""
        return f"{self.prefix}probe:{name}:log"

    def probe_scratch(self, name: str) -> str:
        """Whatever a try needs; gone when it ends."""
        return f"{self.prefix}probe:{name}:scratch"

    @property
    def blocked_users(self) -> str:
        """Sorted set: user -> until when they are kept out (ms since the epoch by Redis' clock)."""
        return f"{self.prefix}blocked-users"

    @property
    def leases(self) -> str:
        """Sorted set: lease -> when it runs out (ms since the epoch by Redis' clock; 0: being reaped)."""
        return f"{self.prefix}leases"

    @property
    def replicas(self) -> str:
        """Hash: lease -> what its replica says of itself, JSON."""
        return f"{self.prefix}replicas"

    @property
    def settled_at(self) -> str:
        """The server's name, a dot, and from when the directory may be believed under it (ms since the epoch).

        That is a while after it began empty, or after the server may have lost entries.
        """
        return f"{self.prefix}directory:settled"

    @property
    def run_leases(self) -> str:
        """Sorted set: run id -> until when its worker is believed to live (ms since the epoch by Redis' clock)."""
        return f"{self.prefix}runs:leases"
