"""Who joins and leaves, told to the subscribers of a channel here."""

from heliograph.hub.hub import Hub
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.events import ClientJoined, ClientLeft, Join, Leave


class Announcements:
    """Deliver joins and leaves to this replica's connections.

    All subscribers are told of users, if their format has that. Of each client those are told who asked for it.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def user(self, channel: str, user: str, joined: bool) -> int:
        """Tell that a user's first client has joined, or the last one has left. Return how many have been told."""
        return self._hub.deliver(channel, Join(channel, user) if joined else Leave(channel, user))

    def client(self, channel: str, client: ClientInfo, joined: bool) -> int:
        """Tell that a client has joined or left. Return how many have been told."""
        told = [each for each in self._hub.subscribers(channel) if channel in each.told_of]
        return self._hub.deliver_to(told, ClientJoined(channel, client) if joined else ClientLeft(channel, client))
