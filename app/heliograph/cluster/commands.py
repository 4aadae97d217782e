"""Commands of a server for a user's connections: this replica executes each once, even if the bus loses it.

The bus brings a command at once, but while it is down commands are missed. So commands are kept for a while, and each
replica looks for those that it has not received, every second and as soon as it is subscribed again.
"""

import asyncio
import logging
import math
from collections.abc import Callable

from msgspec import UNSET

from heliograph.clock import Clock
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.errors import BadEnvelope, BusUnavailable
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.ports import CommandReader
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.command import (
    ALL_CONNECTIONS,
    BetweenReplicas,
    DisconnectUser,
    Only,
    Selection,
    UserCommand,
)
from heliograph.protocol.envelope import Envelope, decode_envelope
from heliograph.tasks import end

logger = logging.getLogger(__name__)

LOOK_S = 1.0  # how often to look for commands that the bus did not bring
READ_BLOCKED_S = 60.0  # how often the list of blocked users is read; commands bring new blocks in between
BLOCKED = "the server keeps this user out for a while"
MOST_REMEMBERED = 10_000  # executed commands that are remembered


class Commands:
    """This replica's part in executing commands. It can read kept commands, and cannot give any.

    `between_replicas` is called with what another replica says to this one: see `Forwarding` and `Questions`.
    """

    def __init__(
        self,
        hub: Hub,
        log: CommandReader,
        blocked: BlockedUsers,
        *,
        node_id: str,
        clock: Clock,
        between_replicas: Callable[[Envelope], object],
    ) -> None:
        self._hub = hub
        self._blocked = blocked
        self._log = log
        self._between_replicas = between_replicas
        self._node_id = node_id
        self._clock = clock
        self._began_at = clock.monotonic()  # there was no connection before, so older commands do not matter
        self._entry: str | None = None  # the last kept command that was read
        self._done: dict[str, None] = {}  # the latest executed commands: the bus and the log both bring them
        self._blocked_read_at = -math.inf  # monotonic seconds
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._look_loop(), name="commands-look")

    async def stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            await end([task])

    def lost_track(self) -> None:
        """Note that the bus subscription began again: commands may have been missed."""
        self._blocked_read_at = -math.inf
        self._due.set()

    def receive(self, envelope: Envelope) -> int:
        """Execute a command from the bus. Return on how many connections."""
        if isinstance(envelope.command, BetweenReplicas):
            self._between_replicas(envelope)
            return 0
        return self._once(envelope, age_s=0.0)

    def carry_out(self, envelope: Envelope, age_s: float = 0.0) -> int:
        """Execute the command on the selected connections that existed when it was given. Return on how many."""
        if envelope.command is None or isinstance(envelope.command, BetweenReplicas):
            return 0
        command, among = _parts_of(envelope.command)
        if isinstance(command, DisconnectUser) and command.block_s is not UNSET:
            lifts = command.block_s == 0
            self._blocked.block(envelope.target_user_id or "", 0 if lifts else max(0.0, command.block_s - age_s))
        given_at = self._clock.monotonic() - age_s
        meant = [
            each
            for each in self._hub.connections_of(envelope.target_user_id or "")
            if each.since <= given_at and among.has(each.id, each.id)
        ]
        for connection in meant:
            _carry_out(command, connection)
        return len(meant)

    def _once(self, envelope: Envelope, age_s: float) -> int:
        if envelope.node_id == self._node_id or envelope.message_id in self._done:
            return 0  # our own was executed here before it was published
        if envelope.message_id is not None:
            self._done[envelope.message_id] = None
            if len(self._done) > MOST_REMEMBERED:
                del self._done[next(iter(self._done))]
        return self.carry_out(envelope, age_s)

    async def _look_loop(self) -> None:
        while True:
            try:
                await self._look()
            except BusUnavailable as error:
                logger.debug("reading kept commands failed, retrying: %s", error)
            except Exception:
                logger.exception("reading kept commands failed with an unexpected error; retrying")
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()

    async def _look(self) -> None:
        while found := await self._log.after(self._entry, self._clock.monotonic() - self._began_at):
            for kept in found:
                self._entry = kept.entry
                try:
                    envelope = decode_envelope(kept.payload)
                except BadEnvelope as error:
                    logger.warning("skipped a kept command that cannot be decoded (%s)", error)
                    continue
                if envelope.command is not None and self._once(envelope, kept.age_s):
                    logger.info("executed a command that the bus did not deliver, %.1f s late", kept.age_s)
        if self._clock.monotonic() - self._blocked_read_at > READ_BLOCKED_S:
            await self._read_blocked_users()

    async def _read_blocked_users(self) -> None:
        self._blocked_read_at = self._clock.monotonic()  # before reading: the subscription may be lost meanwhile
        try:
            kept = await self._log.blocked_users()
        except BusUnavailable:
            self._blocked_read_at = -math.inf
            raise
        for user in self._blocked.merge(kept):
            for connection in list(self._hub.connections_of(user)):
                connection.close(CloseCode.FORCED, BLOCKED)


def _parts_of(command: UserCommand | Only) -> tuple[UserCommand, Selection]:
    """Return what to do, and on which connections."""
    return (command.command, command.selection) if isinstance(command, Only) else (command, ALL_CONNECTIONS)


def _carry_out(command: UserCommand, connection: Connection) -> None:
    if isinstance(command, DisconnectUser):
        connection.close(command.code, command.reason)
    elif connection.on_command is not None:
        connection.on_command(command)
