"""The frames of a client on the plain protocol, each with its operation."""

from typing import Annotated

import msgspec
from msgspec import Meta

from heliograph.codecs.plain.cursor import stated
from heliograph.protocol import operations

IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=128)]
RequestId = Annotated[str, Meta(max_length=128)] | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Connect(msgspec.Struct, frozen=True, tag="connect"):
    """Identify the client; must come first. `user` counts in open mode only, `token` in jwt mode only, `ticket` in
    both.

    `cursor`, `replay`: as in `Subscribe`, for the user's own channel (and any other that the cursor names).

    `device`: which of the user's devices it is; receipts are kept for each.
    """

    token: str | None = None
    user: str | None = None
    cursor: str | None = None
    replay: bool = False
    id: RequestId | None = None
    ticket: str | None = None
    device: str | None = None

    def operation(self) -> operations.Connect:
        return operations.Connect(
            self.token, self.user, stated(self.cursor), self.replay, self.ticket, self.id, device=self.device
        )


class Refresh(msgspec.Struct, frozen=True, tag="refresh"):
    """Continue with a new token of the same user; with `channel`, stay on it with a new subscription token."""

    token: str
    id: RequestId | None = None
    channel: str | None = None

    def operation(self) -> operations.Refresh | operations.RefreshSubscription:
        if self.channel is not None:
            return operations.RefreshSubscription(self.channel, self.token, self.id)
        return operations.Refresh(self.token, self.id)


class Send(msgspec.Struct, frozen=True, tag="send"):
    """Send `data` (any JSON) to every connection of the user `to`.

    `idempotency_key`: a repetition with the same key, by the same user to the same recipient, gets the answer of the
    first, and is not sent again. It has no effect on ephemeral messages.
    """

    to: str
    data: msgspec.Raw
    id: RequestId | None = None
    ephemeral: bool = False
    idempotency_key: IdempotencyKey | None = None

    def operation(self) -> operations.Send:
        return operations.Send(self.to, self.data, self.ephemeral, self.idempotency_key, self.id)


class Subscribe(msgspec.Struct, frozen=True, tag="subscribe"):
    """Subscribe to a channel. `cursor`: the client's position; `replay`: from the start of what is kept.

    `token`: a subscription token, for a channel to which neither the namespace nor the client's token opens the way.
    """

    channel: str
    cursor: str | None = None
    replay: bool = False
    id: RequestId | None = None
    token: str | None = None

    def operation(self) -> operations.Subscribe:
        since = stated(self.cursor)
        return operations.Subscribe(self.channel, since, self.replay, self.id, token=self.token)


class Unsubscribe(msgspec.Struct, frozen=True, tag="unsubscribe"):
    """Unsubscribe from a channel."""

    channel: str
    id: RequestId | None = None

    def operation(self) -> operations.Unsubscribe:
        return operations.Unsubscribe(self.channel, self.id)


class Publish(msgspec.Struct, frozen=True, tag="publish"):
    """Publish `data` (any JSON) to all subscribers of the channel. `idempotency_key`: as in `Send`."""

    channel: str
    data: msgspec.Raw
    id: RequestId | None = None
    ephemeral: bool = False
    idempotency_key: IdempotencyKey | None = None

    def operation(self) -> operations.Publish:
        return operations.Publish(self.channel, self.data, self.ephemeral, self.idempotency_key, self.id)


class ReadHistory(msgspec.Struct, frozen=True, tag="history"):
    """Read what is kept of a channel, after `cursor` or from the start."""

    channel: str
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: str | None = None
    id: RequestId | None = None

    def operation(self) -> operations.ReadHistory:
        return operations.ReadHistory(self.channel, self.limit, stated(self.cursor), self.id)


class ReadPresence(msgspec.Struct, frozen=True, tag="presence"):
    """Ask who is on a channel."""

    channel: str
    id: RequestId | None = None

    def operation(self) -> operations.ReadPresence:
        return operations.ReadPresence(self.channel, self.id)


class Emit(msgspec.Struct, frozen=True, tag="emit"):
    """Emit an event to the workers behind the cluster: its name, and `data` (any JSON)."""

    event: Annotated[str, Meta(min_length=1, max_length=128)]
    data: msgspec.Raw
    id: RequestId | None = None

    def operation(self) -> operations.Emit:
        return operations.Emit(self.event, self.data, self.id)


class Rpc(msgspec.Struct, frozen=True, tag="rpc"):
    """Call a method of the user's backend, with `data` (any JSON)."""

    method: Annotated[str, Meta(min_length=1, max_length=128)]
    data: msgspec.Raw
    id: RequestId | None = None

    def operation(self) -> operations.Rpc:
        return operations.Rpc(self.method, self.data, self.id)


class Received(msgspec.Struct, frozen=True, tag="received"):
    """Say that the client has taken everything up to `cursor`, in channels that it is on."""

    cursor: str
    id: RequestId | None = None

    def operation(self) -> operations.Received:
        return operations.Received(stated(self.cursor), self.id)


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Ask for a `pong`."""

    id: RequestId | None = None

    def operation(self) -> operations.Ping:
        return operations.Ping(self.id)


ClientFrame = (
    Connect
    | Refresh
    | Send
    | Subscribe
    | Unsubscribe
    | Publish
    | ReadHistory
    | ReadPresence
    | Emit
    | Rpc
    | Received
    | Ping
)


class Head(msgspec.Struct, frozen=True):
    """As much of a refused frame as is needed to answer it."""

    type: object = None
    id: RequestId | None = None
