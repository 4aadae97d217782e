"""The connection of a client that polls: it waits here between two polls, and its polls wait here for events."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from heliograph.auth.authenticator import Identity
from heliograph.codecs.plain.bookmark import Bookmark
from heliograph.errors import BusUnavailable, ErrorCode
from heliograph.hub.frames import Encoding, EventFrame
from heliograph.hub.outbox import Outbox, Outboxes
from heliograph.protocol.actions import JoinChannel
from heliograph.protocol.codes import CloseCode, is_final
from heliograph.protocol.events import Connected, InitialState, Subscribed, positions_after
from heliograph.protocol.identity import personal_channel
from heliograph.protocol.operations import Connect
from heliograph.protocol.peer import Peer
from heliograph.protocol.position import NOWHERE, Position, ReadPositions
from heliograph.transports.driver import Drivers
from heliograph.transports.poll_key import PollKey
from heliograph.transports.remote_client import Disconnected

logger = logging.getLogger(__name__)

ENDED: Final[Mapping[int, ErrorCode]] = {
    CloseCode.EXPIRED: ErrorCode.INVALID_TOKEN,
    CloseCode.FORCED: ErrorCode.NOT_ALLOWED,
    CloseCode.INTERNAL_ERROR: ErrorCode.INTERNAL,
}  # answers to a poll whose connection was closed while it waited


def refusal_after(code: int) -> ErrorCode | None:
    """Return what a poll is refused with after its connection was closed with `code`; None: the client continues."""
    return ENDED.get(code) or (ErrorCode.NOT_ALLOWED if is_final(code) else None)


OnCollected = Callable[[list[msgspec.Raw] | BusUnavailable | Disconnected], object]


class PollConnection:
    """The connection of a client that polls, and the `Sink` with the events that it has not got yet."""

    def __init__(
        self,
        drivers: Drivers,
        outboxes: Outboxes,
        encoding: Encoding[EventFrame],
        asked: PollKey,
        peer: Peer,
        tasks: set[asyncio.Task[None]],
        *,
        most_bytes: int,
        most_channels: int,
    ) -> None:
        self.closed: tuple[int, str] | None = None
        self._trace = outboxes.trace
        self._most_bytes = most_bytes
        self._most_channels = most_channels
        self._outbox: Outbox[EventFrame] = outboxes.new(self)
        self.driver = drivers.new(encoding, self._outbox, peer=peer, channels=asked.channels)
        self._known: ReadPositions = NOWHERE  # the client's stated positions
        self._replays = False  # its own channel starts with everything that is kept, after `subscribed`
        self._tasks = tasks
        self._joining: asyncio.Task[None] | None = None  # as long as it runs
        self._failure: BusUnavailable | None = None  # why its events cannot be read
        self._frames: list[EventFrame] = []
        self._bytes = 0
        self._news = 0  # how many of the waiting events the client must see
        self._bookmark = Bookmark()
        self._done: OnCollected | None = None  # of the poll that waits
        self._is_time_up = False  # it waits for the joins only, if at all
        self._waits_until: asyncio.TimerHandle | None = None
        self._parked_until: asyncio.TimerHandle | None = None
        self._on_end: Callable[[], None] | None = None

    @property
    def cursor(self) -> str:
        """The client's positions, after everything that it got."""
        return str(self._bookmark)

    # -- the connection

    async def begin(self, connect: Connect, identity: Identity) -> None:
        """Connect, and begin to join the channels.

        Raises:
            Disconnected: the client is not let in.
            BadCursor: its cursor is not valid.
        """
        self._known = connect.since.read(self._most_channels)
        self._replays = connect.replay
        joins = await self.driver.enter(connect, identity)
        self._joining = asyncio.create_task(self._join_all(joins), name="poll-join")
        self._tasks.add(self._joining)
        self._joining.add_done_callback(self._tasks.discard)
        self._joining.add_done_callback(self._joined)

    async def _join_all(self, joins: Sequence[JoinChannel]) -> None:
        try:
            for join in joins:
                await self.driver.join(join)
        except BusUnavailable as error:
            self._failure = error
        except Exception:
            logger.exception(
                "a poll failed with an unexpected error; its connection is closed", extra=self.driver.about
            )
            self.driver.connection.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            if self.closed is not None:
                self.driver.end()

    def _joined(self, task: asyncio.Task[None]) -> None:
        self._joining = None
        self._look()

    def end(self) -> None:
        """Disconnect; a poll that waits is not answered. May be called more than once."""
        self._unpark()
        self._done = None
        self._finish([])
        if self._joining is not None:
            self._joining.cancel()
        self._outbox.close(CloseCode.INTERNAL_ERROR, "nobody polls any more")
        if self._frames:
            self._trace.ended(self.driver.connection.id, self._frames)
        self.driver.end()

    # -- between polls

    def park(self, for_s: float, on_end: Callable[[], None]) -> None:
        """Wait for the next poll for at most `for_s`. `on_end` is called at the end of the wait."""
        self._outbox.pause(self._bytes)
        self._on_end = on_end
        self._parked_until = asyncio.get_running_loop().call_later(for_s, self.end)

    def _unpark(self) -> None:
        if self._parked_until is not None:
            self._parked_until.cancel()
            self._parked_until = None
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()

    # -- as a sink

    def write(self, frames: list[EventFrame]) -> None:
        for frame in frames:
            self._frames.append(frame)
            self._bytes += len(frame)
            self._news += self._is_news(frame)
        self._look()

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
        if self._parked_until is not None:
            self.end()
        else:
            self._look()  # a poll that waits is refused, and may let the next one be refused too

    def _is_news(self, frame: EventFrame) -> bool:
        """Return whether the client must see it. That it resumes from its own position is not news."""
        event = frame.event
        match event:
            case Connected():
                if not self._replays and personal_channel(event.user) not in event.positions:
                    self._failure = BusUnavailable("where your own channel stands cannot be read")
                return False
            case Subscribed():
                # The frame with a run's state does not name the run: the frame before it does.
                return not (event.recovered and self._knows(event.channel, event.position))
            case InitialState():
                return not self._knows(event.channel, event.position)
            case _:
                return True

    def _knows(self, channel: str, position: Position) -> bool:
        """Return whether the client has stated this position."""
        return self._known.position_in(channel) == position

    # -- polls

    def collect(self, wait_s: float, done: "OnCollected") -> None:
        """Call `done` with the waiting events; if there are none, with the next ones, or none after `wait_s` seconds.

        It may be called before this returns. It gets an error instead if the next poll would fail too:
        BusUnavailable, as the client's positions cannot be read, or Disconnected, as the connection was closed.
        """
        self._unpark()
        self._done = done
        self._is_time_up = wait_s <= 0
        if self._bytes < self._most_bytes:
            self._outbox.resume()
            self._outbox.flush()
        self._look()
        if self._done is done and wait_s > 0:
            self._waits_until = asyncio.get_running_loop().call_later(wait_s, self._time_is_up)

    def on_client_left(self) -> None:
        """End the poll without events. They wait for the next one."""
        if self._done is not None:
            self._finish([])

    def _time_is_up(self) -> None:
        self._is_time_up = True
        self._look()

    def _look(self) -> None:
        """End the poll that waits, if there is one, and something to tell it."""
        if not self._is_waiting():
            return
        if self._failure is None and self.closed is None:
            if not (self._is_joined() or self._bytes >= self._most_bytes):
                return
            self._outbox.flush()  # which may end the poll
            if not (self._is_waiting() and (self._news or self._is_time_up)):
                return
        self._finish(self._result())

    def _result(self) -> "list[msgspec.Raw] | BusUnavailable | Disconnected":
        if self._failure is not None:
            return self._failure
        events = self._take()
        if self.closed is not None and not events and (code := refusal_after(self.closed[0])) is not None:
            return Disconnected(code, self.closed[1])
        return events

    def _finish(self, result: "list[msgspec.Raw] | BusUnavailable | Disconnected") -> None:
        done, self._done = self._done, None
        if self._waits_until is not None:
            self._waits_until.cancel()
            self._waits_until = None
        if done is not None:
            done(result)

    def _is_waiting(self) -> bool:
        return self._done is not None

    def _is_joined(self) -> bool:
        return self._joining is None

    def _take(self) -> list[msgspec.Raw]:
        events, size, taken = [], 0, 0
        for frame in self._frames:
            if size > 0 and size + len(frame) > self._most_bytes:
                break
            taken += 1
            self._bookmark.move(positions_after(frame.event))
            self._bytes -= len(frame)
            if self._is_news(frame):
                self._news -= 1
                size += len(frame)
                events.append(msgspec.Raw(frame.payload))
        del self._frames[:taken]
        return events
