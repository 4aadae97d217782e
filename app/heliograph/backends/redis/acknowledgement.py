"""When a kept message counts as acknowledged: `HELIOGRAPH_REDIS__ACK`. Pure; docs/operations.md has the promises."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.script_texts import is_certain
from heliograph.shared_settings import AckMode

Command = tuple[str | bytes | int, ...]

NOT_DURABLE: Final = "NOTDURABLE"  # the code of Redis' answer to a call that would keep something
CONFIRM_PART: Final = 0.7  # of a command's time-out: how long replicas of Redis may take to confirm


class Unconfirmed(RedisError):
    """The call was carried out, but too few replicas of Redis have said in time that they have it too."""


def unsure(error: Exception) -> Unconfirmed:
    """Return the error of a call that was carried out, whatever became of the confirmation."""
    return error if isinstance(error, Unconfirmed) else Unconfirmed(f"kept, but not confirmed: {error}")


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The mode of one Redis server. `replicas`: how many must confirm, in mode `replica`."""

    mode: AckMode = "memory"
    replicas: int = 1

    @property
    def confirms(self) -> bool:
        """True if replicas of Redis must confirm what is kept."""
        return self.mode == "replica"

    def is_certain(self, config: Mapping[Any, Any], replication: Mapping[str, Any]) -> bool:
        """Return whether the server has everything that it has acknowledged, whatever happened to it.

        `config`, `replication`: see `script_texts.is_certain`; each is empty if the server does not tell.
        """
        return self.mode == "managed" or (bool(replication) and is_certain(config, replication))

    def refusal(self, config: Mapping[Any, Any]) -> str | None:
        """Return why nothing may be kept on a server with this configuration; None if it may."""
        if self.mode != "disk":
            return None
        if not config:
            return (
                "HELIOGRAPH_REDIS__ACK is 'disk', but this server does not tell whether it keeps that: "
                "give its user +config|get, or use 'managed' if the service says that it is durable"
            )
        found = {name: config.get(name) for name in ("appendonly", "appendfsync")}
        if found == {"appendonly": "yes", "appendfsync": "always"}:
            return None
        settings = " and ".join(f"{name} {value!r}" for name, value in found.items())
        return (
            f"HELIOGRAPH_REDIS__ACK is 'disk', but this server has {settings}: "
            "set appendonly yes and appendfsync always there, or use 'memory'"
        )

    def confirmation(self, keys: Keys, wait_s: float) -> tuple[Command, Command]:
        """Return the commands that follow calls on their connection. The second returns how many replicas have them.

        `wait_s`: how long it waits until enough have. WAIT promises something of the connection's own writes only,
        and the repetition of a publication writes nothing: so the first command does.
        """
        return ("HSET", keys.server, "confirmed", 1), ("WAIT", self.replicas, int(wait_s * 1000))

    def check(self, confirmed: int) -> Unconfirmed | None:
        """Return the error if too few replicas have confirmed."""
        if confirmed >= self.replicas:
            return None
        return Unconfirmed(
            f"kept, but not confirmed: {confirmed} of {self.replicas} replicas of Redis had it in time"
        )


IN_MEMORY: Final = Acknowledgement()
