"""Who joins and leaves, told to the subscribers of a channel here."""

from heliograph.hub.hub import Hub
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.events import ClientJoined, ClientLeft, Join, Leave


class Announcements:
    """Deliver joins and leaves to this replica's connections.

    In some wire formats a subscriber is told of users. In the others it is told of each client, if it asked for that.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def user(self, channel: str, user: str, joined: bool) -> int:
        """Tell that a user's first client has joined, or the last one has left. Return how many have been told."""
        event = Join(channel, user) if joined else Leave(channel, user)
        listeners = self._hub.subscribers(channel)
        told = [each for each in listeners if not each.by_client]
        if len(told) == len(listeners):
            return self._hub.deliver(channel, event)
        return self._hub.deliver_to(told, event)

    def client(self, channel: str, client: ClientInfo, joined: bool) -> int:
        """Tell that a client has joined or left. Return how many have been told."""
        told = [each for each in self._hub.subscribers(channel) if channel in each.told_of]
        return self._hub.deliver_to(told, ClientJoined(channel, client) if joined else ClientLeft(channel, client))
