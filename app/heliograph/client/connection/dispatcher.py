"""What a client has heard, over all its connections, and what follows from each frame. Pure: no I/O, no clock.

Connections are numbers here. The client opens and ends them, and carries out the actions that are returned.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from heliograph.client.connection.channel import Channel
from heliograph.client.connection.events import (
    ChannelEvent,
    Frame,
    Joined,
    Left,
    Lost,
    RunProgress,
    RunState,
    Subscribed,
    SubscriptionRefused,
    Unsubscribed,
    message_of,
    refused_by,
)
from heliograph.client.connection.recent_ids import RecentIds
from heliograph.client.connection.roster import Roster
from heliograph.codecs.plain.cursor import Cursor, parse_cursor
from heliograph.errors import ClientError, RequestRefused
from heliograph.protocol.identity import personal_channel, user_of
from heliograph.protocol.position import Position
from heliograph.protocol.run import run_of

# What may be wrong with a channel, so that all would be well without it.
CHANNEL_ERRORS: Final = frozenset({"not_allowed", "bad_request", "channel_limit"})


@dataclass(frozen=True, slots=True)
class Deliver:
    """Deliver the event to the listeners of its channel."""

    event: ChannelEvent


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Call `ask_again` a little later: the channel was refused for the moment."""

    connection: int
    channel: str


@dataclass(frozen=True, slots=True)
class Send:
    """Write these frames to the connection."""

    connection: int
    frames: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Report:
    """An error that belongs to no request and no subscription."""

    error: ClientError


Action = Deliver | AskAgain | Send | Report


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new connection continues. A socket subscribes to its channels later, one by one.

    `device`: which of the user's devices it is on.
    """

    channels: tuple[str, ...]
    cursor: str
    replay: bool
    device: str | None = None


@dataclass(slots=True)
class _Connection:
    """`roster`: of a socket. `channels`: of the other transports, for all their life. `last_subscribed`: the channel
    that the server has begun last; the state of a run follows without its name."""

    roster: Roster | None
    channels: frozenset[str] = frozenset()
    replica: str = ""
    last_subscribed: str = ""


class Dispatcher:
    """Knows the positions of all channels, removes repetitions, notices losses, and says what to subscribe to."""

    def __init__(
        self,
        next_id: Callable[[], str],
        *,
        user: str | None,
        start: Cursor,
        replay: bool,
        device: str | None = None,
    ) -> None:
        """`start`: where channels were left. `replay`: without that the user's own begins with what is kept."""
        self._next_id = next_id
        self._replay = replay
        self._device = device
        self._connections: dict[int, _Connection] = {}
        self._in_use: int | None = None
        self._unplaced = False  # connected while nobody could say where its own channel stood: what came may be lost
        self._seen = RecentIds()
        self.channels: dict[str, Channel] = {}
        self.own: Channel | None = None
        name = personal_channel(user) if user is not None else next((name for name in start if user_of(name)), None)
        if name is not None:
            self.own = Channel(name, position=start.position_in(name))

    # -- what is wanted

    def want(self, name: str, *, position: Position | None, replay: bool) -> None:
        """Add a listener of the channel; the first of them says where it begins."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name, position=position, replay=replay)
        channel.refused = False  # a new listener means a new attempt
        if (roster := self._roster(self._in_use)) is not None:
            roster.renew(name)

    def release(self, name: str) -> None:
        """Forget the channel: nobody listens to it any more."""
        self.channels.pop(name, None)

    def find(self, name: str) -> Channel | None:
        """Return the channel, which may be the user's own."""
        return self.own if self.own is not None and name == self.own.name else self.channels.get(name)

    def is_on(self, name: str) -> bool:
        """Return whether the connection in use brings what comes on the channel."""
        connection = self._connections.get(-1 if self._in_use is None else self._in_use)
        channel = self.channels.get(name)
        if connection is None or channel is None:
            return False
        if connection.roster is not None:
            return connection.roster.hears(name)
        return name in connection.channels and channel.position is not None

    @property
    def _wanted(self) -> dict[str, Channel]:
        return {name: channel for name, channel in self.channels.items() if not channel.paused}

    @property
    def _given(self) -> dict[str, Channel]:
        return {name: channel for name, channel in self._wanted.items() if not channel.refused}

    def sync(self, connection: int) -> list[dict[str, Any]]:
        """Return the frames that bring a socket in line with what is wanted."""
        roster = self._roster(connection)
        return [] if roster is None else roster.sync(self._wanted)

    def is_in_line(self, connection: int) -> bool:
        """Return whether the connection can bring what is wanted; otherwise another is needed.

        One that takes no frames cannot change its channels. None can go back to an earlier position in the user's
        own.
        """
        own = self.own
        if own is not None and not own.paused and connection in own.deaf_to:
            return False
        known = self._connections[connection]
        return known.roster is not None or known.channels == frozenset(self._given)

    def ask_again(self, connection: int, name: str) -> list[dict[str, Any]]:
        """Return the frames to send some time after `AskAgain`."""
        roster, channel = self._roster(connection), self._wanted.get(name)
        return [] if roster is None or channel is None else roster.ask_again(channel)

    # -- connections

    def open(self, connection: int, *, is_socket: bool) -> None:
        """Enter a connection that is being opened."""
        self._connections[connection] = _Connection(Roster(self._next_id) if is_socket else None)

    def place(self, connection: int) -> Place:
        """Return where it continues, as of now."""
        known = self._connections[connection]
        own = "" if self.own is None else self.own.cursor
        replay = self._replay and not own
        if known.roster is not None:
            return Place((), own, replay, self._device)
        given = self._given
        known.channels = frozenset(given)
        cursors = [own, *(channel.resume_cursor for channel in given.values())]
        return Place(tuple(given), "&".join(filter(None, cursors)), replay, self._device)

    def connected(self, connection: int, user: str, replica: str, cursor: str) -> list[Action]:
        """Use this connection from now on: it is established."""
        name = personal_channel(user)
        if self.own is not None and self.own.name != name:
            # The new token is another user's: nothing that was heard before is theirs.
            self.own = None
            self._unplaced = False
            for channel in self.channels.values():
                channel.forget()
        self.own = self.own or Channel(name)
        begins = parse_cursor(cursor).position_in(name) if cursor else None
        lost = self._unplaced and self.own.position is None and begins is not None
        if self.own.position is None:
            self.own.position = begins
        self._unplaced = self.own.position is None and not self._replay
        self._connections[connection].replica = replica
        self._in_use = connection
        return [Deliver(Lost(name))] if lost else []

    def moved(self, connection: int, replica: str) -> None:
        """Note that another replica answers its requests now."""
        self._connections[connection].replica = replica

    def closed(self, connection: int) -> None:
        """Forget a connection that has ended."""
        self._connections.pop(connection, None)
        if self._in_use == connection:
            self._in_use = None
        for channel in (*self.channels.values(), *((self.own,) if self.own else ())):
            channel.deaf_to.discard(connection)

    def settled(self, connection: int) -> bool:
        """Return whether every channel of it has been answered: then the one before it is not needed any more."""
        roster = self._roster(connection)
        return roster is None or roster.settled

    def blame(self, connection: int, code: str, reason: str) -> list[Action]:
        """Continue without the channels that are to blame for a refused request.

        Over HTTP one forbidden channel refuses the whole request. To blame are the channels that the reason names, or
        else those that the connection in use does not have.
        """
        if code not in CHANNEL_ERRORS:
            return []
        in_use = self._connections.get(-1 if self._in_use is None else self._in_use)
        before = frozenset() if in_use is None or in_use.roster is not None else in_use.channels
        asked = [channel for name, channel in self._given.items() if name in self._connections[connection].channels]
        named = [channel for channel in asked if channel.name in reason]
        blamed = named or [channel for channel in asked if channel.name not in before]
        for channel in blamed:
            channel.refused = True
        return [Deliver(SubscriptionRefused(channel.name, RequestRefused(code, reason))) for channel in blamed]

    # -- a program that reads slowly

    def pause(self, name: str) -> None:
        """Leave the channel at its position: the program reads too slowly."""
        if (channel := self.find(name)) is not None:
            channel.paused = True

    def resume(self, name: str) -> None:
        """Continue the channel from its position."""
        if (channel := self.find(name)) is not None:
            channel.paused = False

    # -- frames

    def receive(self, connection: int, frame: Frame) -> list[Action]:
        """Return what follows from a frame that answers no request of the client."""
        match frame["type"]:
            case "message":
                return self._message(connection, frame)
            case "subscribed":
                return self._subscribed(connection, frame)
            case "unsubscribed":
                return self._unsubscribed(connection, frame)
            case "initial_state":
                return self._initial_state(connection, frame)
            case "progress":
                return self._progress(connection, frame)
            case "join" | "leave":
                channel = self._heard(connection, frame["channel"])
                if channel is None or connection != self._in_use or channel is self.own:
                    return []
                kind = Joined if frame["type"] == "join" else Left
                return [Deliver(kind(channel.name, frame["user"]))]
            case "error":
                return self._error(connection, frame)
            case _:
                return []  # it comes from a newer server and is no concern of this client

    def _heard(self, connection: int, name: str) -> Channel | None:
        """Return the channel, if frames of this connection count for it.

        On a socket, only what follows the answer to `subscribe` does. Where something was passed over, nothing counts
        until the channel begins again.
        """
        channel = self.find(name)
        if channel is None:
            return None
        if channel.paused:
            channel.deaf_to.add(connection)
        if connection in channel.deaf_to:
            return None
        roster = self._roster(connection)
        return channel if channel is self.own or roster is None or roster.hears(name) else None

    def _message(self, connection: int, frame: Frame) -> list[Action]:
        channel = self._heard(connection, frame["channel"])
        if channel is None:
            return []
        lost = False
        if cursor := frame.get("cursor"):
            accepted = channel.accept(cursor, in_use=connection == self._in_use)
            if accepted == "known":
                return []
            lost = accepted == "after_loss"
        elif not self._seen.add(frame["message_id"]):
            return []
        message = Deliver(message_of(frame, self._connections[connection].replica, after_loss=lost))
        return [Deliver(Lost(channel.name)), message] if lost else [message]

    def _subscribed(self, connection: int, frame: Frame) -> list[Action]:
        name, known = frame["channel"], self._connections[connection]
        is_own = self.own is not None and name == self.own.name
        if known.roster is not None and not is_own:
            if not known.roster.subscribed(name, frame.get("id")):
                return []
            if (answered := self.channels.get(name)) is not None and frame.get("id") is not None:
                answered.deaf_to.discard(connection)
        known.last_subscribed = name
        channel = self._heard(connection, name)
        if channel is None:
            return []
        anew = channel.position is None
        lost = channel.begin(frame)
        actions: list[Action] = []
        if not is_own:
            actions.append(Deliver(Subscribed(name, frame["cursor"], bool(frame["recovered"]), lost, anew, frame)))
        if lost:
            actions.append(Deliver(Lost(name)))
        return actions

    def _unsubscribed(self, connection: int, frame: Frame) -> list[Action]:
        roster = self._roster(connection)
        if connection != self._in_use or frame["channel"] not in self.channels:
            return []
        if roster is not None and not roster.unsubscribed(frame["channel"], frame.get("id")):
            return []
        return [Deliver(Unsubscribed(frame["channel"]))]

    def _initial_state(self, connection: int, frame: Frame) -> list[Action]:
        channel = self._heard(connection, self._connections[connection].last_subscribed)
        if channel is None or channel is self.own:
            return []
        channel.begin_run(connection)
        return [Deliver(RunState(channel.name, frame["state"], frame["progress"], tuple(frame["logs"]), frame))]

    def _progress(self, connection: int, frame: Frame) -> list[Action]:
        actions: list[Action] = []
        for channel in self.channels.values():
            if run_of(channel.name) != frame["run_id"] or self._heard(connection, channel.name) is None:
                continue
            if channel.advances_run(connection):
                event = RunProgress(channel.name, frame["state"], frame["progress"], frame.get("message"), frame)
                actions.append(Deliver(event))
        return actions

    def _error(self, connection: int, frame: Frame) -> list[Action]:
        error = refused_by(frame)
        roster = self._roster(connection)
        failed = None if roster is None else roster.failed(frame.get("id"), error.code)
        if roster is None or failed is None:
            return [Report(error)]
        name, then = failed
        channel = self.channels.get(name)
        if channel is None:
            return []
        if then == "ask_later":
            return [AskAgain(connection, name)]
        if then == "ask_anew":
            return [Send(connection, roster.ask_anew(channel))]
        channel.refused = True
        return [Deliver(SubscriptionRefused(name, error))]

    def _roster(self, connection: int | None) -> Roster | None:
        known = None if connection is None else self._connections.get(connection)
        return None if known is None else known.roster
