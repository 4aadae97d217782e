"""The first event of a registered client: from here on it misses nothing."""

from collections.abc import Mapping, Sequence

from heliograph.auth.authenticator import Identity
from heliograph.clock import seconds_until
from heliograph.cluster.reading import Reading
from heliograph.protocol.actions import JoinChannel, Reject
from heliograph.protocol.events import Subscribed
from heliograph.protocol.peer import Inbox
from heliograph.protocol.position import Positions
from heliograph.transports.client_subscriptions import ClientSubscriptions
from heliograph.transports.connect_reply import ConnectReply
from heliograph.transports.remote_client import RemoteClient


async def greet(
    client: RemoteClient, reading: Reading, own: JoinChannel, others: list[JoinChannel | Reject], data: bytes | None
) -> list[JoinChannel | Reject]:
    """Subscribe the client to its own channel, and greet it with the positions from which it listens.

    `data`: what the user's backend says to it, JSON. Return the actions that follow.
    """
    positions = Positions()
    if own.since is None and not own.replay:
        begins = await reading.listen(client.connection, own.channel)
        if begins is not None:
            positions[own.channel] = begins
    else:
        others.insert(0, own)
    for each in others:
        if isinstance(each, JoinChannel) and each.since is not None:
            positions[each.channel] = each.since
    client.connection.open(client.session.greeting(positions, data=data))
    return others


async def greet_in_reply(
    client: RemoteClient,
    subscriptions: ClientSubscriptions,
    joins: Sequence[JoinChannel],
    identity: Identity,
    inbox: Inbox | None,
) -> None:
    """Subscribe the client to the channels, and greet it with all subscriptions in the reply to its `connect`."""
    # A client that a hook let in has no token to renew.
    expires_in = None if identity.is_from_hook else seconds_until(identity.expires_at)

    def open_with(subscribed: Mapping[str, Subscribed | None]) -> None:
        client.connection.open(client.session.greeting({}, subscribed, expires_in, inbox, identity.data))

    reply = ConnectReply(open_with, client.send, client.session.wants)
    await reply.join_all(joins, subscriptions.join_or_say)
