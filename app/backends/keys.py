"""The names under which things stand in Redis. The braces keep a user's keys on one slot of a Redis Cluster."""

from dataclasses import dataclass

from app.protocol.identity import personal_channel


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys of one installation begin with `prefix`."""

    prefix: str

    def holders(self, user_id: str) -> str:
        """Hash: lease -> how many connections of the user it has."""
        return f"{self.prefix}{{{personal_channel(user_id)}}}:holders"

    def held_by(self, lease: str) -> str:
        """Set: the users that a lease holds, so that they can be forgotten with it."""
        return f"{self.prefix}lease:{lease}:users"

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
        """When the directory may be believed (ms since the epoch): a while after it began empty."""
        return f"{self.prefix}directory:settled_at"
