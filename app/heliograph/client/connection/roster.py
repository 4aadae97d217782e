"""Which channels one socket has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from heliograph.client.connection.channel import Channel

# Refusals that are about this moment: the channel may be had a little later.
TEMPORARY: Final = frozenset({"unavailable", "rate_limited"})


Then = Literal["ask_later", "ask_anew", "refused"]


@dataclass(slots=True)
class _Asked:
    request_id: str
    state: Literal["asked", "on", "off", "waiting"]  # waiting: refused for this moment, to be asked for again
    anew: bool = False  # it was left and asked for once more


class Roster:
    """Brings the channels of one socket in line with those that are wanted. Returns frames to send."""

    def __init__(self, next_id: Callable[[], str]) -> None:
        self._next_id = next_id
        self._asked: dict[str, _Asked] = {}

    def sync(self, wanted: Mapping[str, Channel]) -> list[dict[str, Any]]:
        """Return the frames that leave what is not wanted any more and subscribe to what is."""
        frames: list[dict[str, Any]] = []
        for name, asked in list(self._asked.items()):
            if name not in wanted:
                del self._asked[name]
                if asked.state in ("asked", "on"):
                    frames.append({"type": "unsubscribe", "channel": name, "id": self._next_id()})
        frames.extend(self._ask(channel) for name, channel in wanted.items() if name not in self._asked)
        return frames

    def renew(self, name: str) -> None:
        """Ask for what was refused or ended with the next `sync`."""
        asked = self._asked.get(name)
        if asked is not None and asked.state == "off":
            del self._asked[name]

    @property
    def settled(self) -> bool:
        """Return whether every channel has been answered."""
        return all(asked.state not in ("asked", "waiting") for asked in self._asked.values())

    def hears(self, name: str) -> bool:
        """Return whether what comes on this channel follows the `subscribed` that was asked for, no earlier one."""
        asked = self._asked.get(name)
        return asked is not None and asked.state == "on"

    def subscribed(self, name: str, request_id: object) -> bool:
        """Return whether the frame is about what is wanted now."""
        asked = self._asked.get(name)
        if asked is None or (asked.state != "on" if request_id is None else request_id != asked.request_id):
            return False
        asked.state = "on"
        return True

    def unsubscribed(self, name: str, request_id: object) -> bool:
        """Return whether the server has ended by itself what is wanted."""
        asked = self._asked.get(name)
        if asked is None or request_id is not None:
            return False
        asked.state = "off"
        return True

    def failed(self, request_id: object, code: str) -> tuple[str, Then] | None:
        """Take in an error. Return the channel that it refuses, and what to do; None if it answers none of these.

        A token may have subscribed the connection to the channel already, from another position than the client's.
        The server then refuses to do it twice (`bad_request`), so the channel is left and asked for once more.
        """
        for name, asked in self._asked.items():
            if asked.state != "asked" or asked.request_id != request_id:
                continue
            if code in TEMPORARY:
                asked.state = "waiting"
                return name, "ask_later"
            if code == "bad_request" and not asked.anew:
                asked.state = "waiting"
                return name, "ask_anew"
            asked.state = "off"
            return name, "refused"
        return None

    def ask_again(self, channel: Channel) -> list[dict[str, Any]]:
        """Return the frame that asks for a channel that was refused for the moment, if it still waits."""
        asked = self._asked.get(channel.name)
        return [self._ask(channel)] if asked is not None and asked.state == "waiting" else []

    def ask_anew(self, channel: Channel) -> list[dict[str, Any]]:
        """Return the frames that leave the channel and ask for it from the client's position."""
        leave = {"type": "unsubscribe", "channel": channel.name, "id": self._next_id()}
        frame = self._ask(channel)
        self._asked[channel.name].anew = True
        return [leave, frame]

    def _ask(self, channel: Channel) -> dict[str, Any]:
        request_id = self._next_id()
        self._asked[channel.name] = _Asked(request_id, "asked")
        frame = {"type": "subscribe", "channel": channel.name, "id": request_id}
        return {**frame, "cursor": channel.resume_cursor} if channel.resume_cursor else frame
