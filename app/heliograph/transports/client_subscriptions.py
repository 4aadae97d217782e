"""The subscriptions of one client: how they begin, how the server changes them, and how they end."""

from collections.abc import Callable

import msgspec

from heliograph.clock import seconds_until
from heliograph.cluster.reading import Reading
from heliograph.errors import BusUnavailable, Unrecoverable
from heliograph.hub.connection import NONE
from heliograph.protocol.actions import ExtendSubscription, JoinChannel, LeaveChannel, Reject
from heliograph.protocol.codes import ErrorNumber, UnsubscribeCode
from heliograph.protocol.command import SubscribeUser
from heliograph.protocol.events import Subscribed, SubscriptionRefreshed, Unsubscribed
from heliograph.transports.client_hooks import ClientHooks
from heliograph.transports.remote_client import RemoteClient
from heliograph.transports.subscription_expiries import SubscriptionExpiries


class ClientSubscriptions:
    """Subscribe a client to channels, and take it off them.

    `grace_s`: how long a client has to show its next subscription token once the present one has expired.
    """

    def __init__(self, client: RemoteClient, reading: Reading, hooks: ClientHooks, grace_s: float) -> None:
        self._client = client
        self._connection = client.connection
        self._session = client.session
        self._reading = reading
        self._hooks = hooks
        self._grace_s = grace_s
        self._joining = NONE  # the channels that `join` is subscribing to
        self._expiries: SubscriptionExpiries | None = None  # few clients have a subscription that ends

    async def join(self, action: JoinChannel, announce: Callable[[Subscribed], object] | None = None) -> None:
        """Subscribe to a channel that the session lets the client on.

        `announce` gets `Subscribed` instead of the client.

        Raises:
            BusUnavailable: not now. A join with `keep` is retried until it succeeds or the connection ends.
            Unrecoverable: it has missed more than is kept, and wants all of it or nothing.
        """
        if not self._session.wants(action.channel):
            return  # the client was told
        self._joining |= {action.channel}
        options = action.options
        self._expire(action.channel, options.expires_at, is_from_hook=options.is_from_hook)
        try:
            joined = await self._reading.subscribe(
                self._connection,
                action.channel,
                action.since,
                replay=action.replay,
                request_id=action.request_id,
                keep=action.keep,
                incomplete=action.incomplete,
                announce=announce,
                options=options,
            )
        finally:
            self._joining = (self._joining - {action.channel}) or NONE
        if not joined:
            self._client.send(Unsubscribed(channel=action.channel))

    async def join_or_say(self, action: JoinChannel, announce: Callable[[Subscribed], object] | None = None) -> None:
        """Call `join`; tell the client if it cannot subscribe now."""
        try:
            await self.join(action, announce)
        except Unrecoverable as error:
            self._session.not_joined(action.channel)
            self._forget(action.channel)
            number = ErrorNumber.UNRECOVERABLE_POSITION
            self._client.refuse(Reject(error.code, str(error), action.request_id, number=number))
        except BusUnavailable as error:
            if action.keep:
                text = f"not subscribed to {action.channel!r} yet, trying again: {error}"
            else:
                self._session.not_joined(action.channel)
                self._forget(action.channel)
                text = f"not subscribed to {action.channel!r}, try again: {error}"
            self._client.refuse(Reject(error.code, text, action.request_id))

    def leave(self, action: LeaveChannel) -> None:
        """Take the client off a channel, and tell it."""
        self._forget(action.channel)
        self._reading.unsubscribe(self._connection, action.channel)
        self._client.send(action.answer)

    def extend(self, action: ExtendSubscription) -> None:
        """Let the client stay on a channel for longer, and tell it."""
        self._expire(action.channel, action.expires_at)
        self._client.send(SubscriptionRefreshed(action.channel, seconds_until(action.expires_at), action.request_id))

    def resubscribe(self, channel: str) -> None:
        """Take the client off a channel of which publications are lost: it subscribes again from its position."""
        if self._session.must_subscribe_again(channel):
            self._forget(channel)
            self._reading.unsubscribe(self._connection, channel)
            self._client.send(Unsubscribed(channel, code=UnsubscribeCode.GAP))

    def subscribe_by_server(self, command: SubscribeUser) -> None:
        """Subscribe the client to a channel for the server, as soon as the channel can be read."""
        channel, info, data = command.channel, command.info, command.data
        if (options := self._session.subscribed_by_server(channel)) is None:
            return
        options = msgspec.structs.replace(
            options,
            info=bytes(info) if info else options.info,
            data=bytes(data) if data else None,
            expires_at=command.expire_at,
        )
        self._expire(channel, command.expire_at)
        self._reading.subscribe_soon(self._connection, channel, command.since, options)

    def unsubscribe_by_server(self, channel: str, code: UnsubscribeCode = UnsubscribeCode.SERVER) -> None:
        """Take the client off a channel for the server. While it is still joining, `join` tells the client."""
        self._forget(channel)
        if self._session.unsubscribed_by_server(channel):
            self._reading.unsubscribe(self._connection, channel)
            if channel not in self._joining:
                self._client.send(Unsubscribed(channel, code=code))

    def end(self) -> None:
        """Let nothing expire any more: the connection has ended."""
        if self._expiries is not None:
            self._expiries.forget_all()

    def _expire(self, channel: str, expires_at: float | None, *, is_from_hook: bool = False) -> None:
        """See `SubscriptionExpiries.set`."""
        if self._expiries is None:
            if expires_at is None:
                return
            ask = self._hooks.refresh_subscription if self._hooks.renew_subscriptions else None
            self._expiries = SubscriptionExpiries(
                self._expired, self._grace_s, ask, disconnect=self._connection.close
            )
        self._expiries.set(channel, expires_at, is_from_hook=is_from_hook)

    def _forget(self, channel: str) -> None:
        if self._expiries is not None:
            self._expiries.forget(channel)

    def _expired(self, channel: str) -> None:
        self.unsubscribe_by_server(channel, UnsubscribeCode.EXPIRED)
