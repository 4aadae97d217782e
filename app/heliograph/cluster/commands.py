"""What a server says about a user's connections, carried out on this replica: once, and also if the bus has lost it.

The bus brings a command at once. It is a hint: while it is down a command passes by. So commands are kept for a
while, and each replica looks for those that it has not heard, every second and as soon as it is subscribed again.
"""

import asyncio
import logging
import math

from msgspec import UNSET

from heliograph.clock import Clock
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.errors import BadEnvelope, BusUnavailable
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.ports import CommandReader
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.command import DisconnectUser, UnsubscribeUser
from heliograph.protocol.envelope import Envelope, decode_envelope
from heliograph.tasks import end

logger = logging.getLogger(__name__)

LOOK_S = 1.0  # how often to look for commands that the bus did not bring
READ_BLOCKED_S = 60.0  # how often the list of blocked users is read; what is new in between comes by command
BLOCKED = "the server keeps this user out for a while"
MOST_REMEMBERED = 10_000  # commands of which is known that they were carried out


class Commands:
    """This replica's part in carrying out commands. It can read those that were kept, and cannot give any."""

    def __init__(self, hub: Hub, log: CommandReader, blocked: BlockedUsers, *, node_id: str, clock: Clock) -> None:
        self._hub = hub
        self._blocked = blocked
        self._log = log
        self._node_id = node_id
        self._clock = clock
        self._began_at = clock.monotonic()  # nobody was connected before, so no older command matters
        self._entry: str | None = None  # the last that was found where they are kept
        self._done: dict[str, None] = {}  # the latest that were carried out: the bus and the look both bring them
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
        """The bus subscription began again: commands may have passed by."""
        self._blocked_read_at = -math.inf
        self._due.set()

    def receive(self, envelope: Envelope) -> int:
        """Carry out what the bus has brought; on how many connections."""
        return self._once(envelope, age_s=0.0)

    def carry_out(self, envelope: Envelope, age_s: float = 0.0) -> int:
        """Carry out the command on every connection that was there when it was given; on how many."""
        command = envelope.command
        if isinstance(command, DisconnectUser) and command.block_s is not UNSET:
            lifts = command.block_s == 0
            self._blocked.block(envelope.target_user_id or "", 0 if lifts else max(0.0, command.block_s - age_s))
        given_at = self._clock.monotonic() - age_s
        meant = [each for each in self._hub.connections_of(envelope.target_user_id or "") if each.since <= given_at]
        for connection in meant:
            _carry_out(envelope, connection)
        return len(meant)

    def _once(self, envelope: Envelope, age_s: float) -> int:
        if envelope.node_id == self._node_id or envelope.message_id in self._done:
            return 0  # our own was carried out here before it was told
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
            for told in found:
                self._entry = told.entry
                try:
                    envelope = decode_envelope(told.payload)
                except BadEnvelope as error:
                    logger.warning("skipped a kept command that cannot be decoded (%s)", error)
                    continue
                if envelope.command is not None and self._once(envelope, told.age_s):
                    logger.info("executed a command that the bus did not deliver, %.1f s late", told.age_s)
        if self._clock.monotonic() - self._blocked_read_at > READ_BLOCKED_S:
            await self._read_blocked_users()

    async def _read_blocked_users(self) -> None:
        self._blocked_read_at = self._clock.monotonic()  # before it is asked for: track may be lost meanwhile
        try:
            kept = await self._log.blocked_users()
        except BusUnavailable:
            self._blocked_read_at = -math.inf
            raise
        for user in self._blocked.merge(kept):
            for connection in list(self._hub.connections_of(user)):
                connection.close(CloseCode.FORCED, BLOCKED)


def _carry_out(envelope: Envelope, connection: Connection) -> None:
    match envelope.command:
        case DisconnectUser(code=code, reason=reason):
            connection.close(code, reason)
        case UnsubscribeUser(channel=channel) if connection.on_unsubscribed_by_server is not None:
            connection.on_unsubscribed_by_server(channel)
