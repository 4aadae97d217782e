"""What an audit runs: a topology, what is demanded of it, and how often it is broken in which ways."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

ACKS: Final = ("memory", "disk", "replica", "managed")
PROGRAMS: Final = {"redis": "redis-server", "valkey": "valkey"}  # as `tests/support/redis_server.py` names them


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    `server`: which program Redis is. `break_every_s`: by name, how often something is broken, in the mean; empty:
    everything, as often as usual. `may_lose`: whether what was acknowledged may be lost, if clients are told; None:
    what the topology promises in this mode of acknowledgement. `unavailable_s`, `refused_s`, `stays_ready`: see
    `history.Run`. `rate`: publications a second of each of the senders. `two_sides`: some replicas stand on the side
    of the network that is cut off. `verdicts`: for how many random messages to ask what became of them.
    """

    topology: str = "single"
    server: str = "redis"
    ack: str = "memory"
    break_every_s: Mapping[str, float] = field(default_factory=dict)
    may_lose: bool | None = None
    unavailable_s: float | None = None
    refused_s: float | None = None
    stays_ready: bool = False
    seconds: float = 60.0
    seed: int = 0
    rate: float = 30.0
    subscribers: int = 12
    two_sides: bool = False
    verdicts: int = 0
    experiment: str | None = None

    def but(self, **changes: Any) -> "Plan":
        """Return the plan with these changes; those that are None are no changes."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


EXPERIMENTS: Final[Mapping[str, tuple[str, Plan]]] = {
    "F1": (
        "of three shards with a replica each, a random master dies every minute",
        Plan("shards-sentinel", break_every_s={"kill": 60}, unavailable_s=3.0, seconds=600),
    ),
    "F2": (
        "a master hangs for 20 s, is replaced, and thaws",
        Plan("sentinel", break_every_s={"freeze": 15}, unavailable_s=3.0, seconds=300),
    ),
    "F3": (
        "neither the Sentinels nor the replicas reach the master, but programs do",
        Plan("sentinel", break_every_s={"cut": 15}, unavailable_s=3.0, seconds=300, two_sides=True),
    ),
    "F4": (
        "the replica that is promoted lags by half a second",
        Plan("sentinel", break_every_s={"lag": 30}, unavailable_s=3.0, seconds=300),
    ),
    "F5": (
        "every slot of a Redis Cluster with data moves in turn",
        Plan("cluster", break_every_s={"slots": 1}, may_lose=False, unavailable_s=1.0, seconds=300),
    ),
    "F6": (
        "the masters of a Redis Cluster are replaced in order, one every 20 s",
        Plan("cluster-replicas", break_every_s={"replace": 20}, may_lose=False, unavailable_s=1.0, seconds=300),
    ),
    "F7": (
        "replicas of another layout join three shards",
        Plan("shards", break_every_s={"layout": 5}, may_lose=False, unavailable_s=1.0, stays_ready=True, seconds=180),
    ),
    "F8": (
        "one of three shards is dead for a minute",
        Plan("shards", break_every_s={"dead": 30}, refused_s=2.0, stays_ready=True, seconds=180),
    ),
    "F9": (
        "one Redis loses its last second, and with it the second device of a user",
        Plan("single", break_every_s={"forget": 5}, may_lose=True, seconds=180),
    ),
}
