"""Commands on a replica without Redis."""

from heliograph.ports import CommandEntry
from heliograph.protocol.envelope import Envelope


class NoCommands:
    """A `CommandLog` of a single replica, which has executed the command itself."""

    async def append(self, envelope: Envelope) -> None:
        pass

    async def after(self, entry: str | None, age_s: float) -> list[CommandEntry]:
        return []

    async def blocked_users(self) -> dict[str, float]:
        return {}
