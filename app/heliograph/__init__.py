"""Heliograph: a horizontally scaled WebSocket cluster.

The way of one message, from alice's socket on replica-1 to the sockets of bob:

1. `server/websocket.py` reads a text frame from alice's socket and passes it to `transports/socket_connection.py`.
2. `codecs/plain/codec.py` decodes it to an operation (`Send`), or says what is wrong with it.
3. `protocol/session.py` decides: alice is connected, "bob" can be a user, and the policy (`protocol/policy.py`) lets
   her send to him. So the message goes to the router. No I/O happens here. `transports/driver.py`, which all
   endpoints share, carries out the decision: it has `transports/dispatch.py` pass the message on. (If the policy says
   that the user's own backend decides, the driver asks that first: `hooks/`.)
4. `cluster/connection_manager.py`, the router, lets the kind of the channel `#bob` check the data (`protocol/kinds/`:
   plain, or a run) and makes a `Draft`. Log first: one script (`backends/redis/log.py`,
   `backends/redis/lua/append.lua`) gives the message its position, appends it to the channel's stream and publishes
   it on the shared bus channel `events`. The script looks up which replicas hold bob (`cluster/directory.py` keeps
   that true). If replica-1 alone holds him, nothing is published, and replica-1 continues with step 6. The call is
   batched with those before it into one command (`backends/redis/scripts.py`, `backends/redis/call_batch.py`) and
   sent at the end of this event-loop iteration (`backends/redis/link.py`). A callback gets the reply, which becomes
   alice's `ack`.
5. On every replica the listening connection of the `PubSubManager` (`cluster/pubsub_manager.py`,
   `backends/redis/wire.py`) receives the envelope and passes it to `cluster/remote_delivery.py`. That object has
   nothing to publish with, so what came over the bus never goes back to it.
6. `cluster/following.py` knows the replica's position in `#bob`. `protocol/sequence.py` lets the next message
   through, drops a message that was delivered before, and has a gap read from the log (`cluster/repair.py`). Bob's
   sockets stay open meanwhile.
7. The channel's kind renders the publication as an event, and `hub/hub.py` has the connections that listen. The
   event is encoded and framed once for each codec in use (`hub/frames.py`) and put into the outbox of each connection
   (on a channel with many listeners, joined with the iteration's other messages: `hub/batch.py`). `hub/outbox.py`
   writes at the end of the iteration, to the transport of `server/websocket.py`. Alice has her `ack` by now.

An ephemeral message is local first: in step 4 the router passes it to the hub at once, and
`backends/redis/lua/relay.lua` publishes it without keeping it. Everything else is the same.

Redis is one of two backends: the core knows the promises in `ports.py`, and `backends/memory/` keeps them too.
Programs that are not replicas run the same script: `client/publisher.py`. They listen with `client/connection/`.

Imports go down only; `pyproject.toml` holds the layers. `composition/` alone ties the concrete parts together.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliograph.backends.redis.streams import ShardedStream as ShardedStream
    from heliograph.backends.redis.streams import StreamEntry as StreamEntry
    from heliograph.client.composite import Composite as Composite
    from heliograph.client.composite import Item as Item
    from heliograph.client.composite import Stored as Stored
    from heliograph.client.connection.client import Client as Client
    from heliograph.client.connection.client import connect as connect
    from heliograph.client.connection.events import Ack as Ack
    from heliograph.client.connection.events import ClientState as ClientState
    from heliograph.client.connection.events import History as History
    from heliograph.client.connection.events import Joined as Joined
    from heliograph.client.connection.events import Left as Left
    from heliograph.client.connection.events import Lost as Lost
    from heliograph.client.connection.events import Message as Message
    from heliograph.client.connection.events import RunProgress as RunProgress
    from heliograph.client.connection.events import RunState as RunState
    from heliograph.client.connection.events import Subscribed as Subscribed
    from heliograph.client.connection.events import SubscriptionRefused as SubscriptionRefused
    from heliograph.client.connection.events import Unsubscribed as Unsubscribed
    from heliograph.client.connection.subscription import ChannelSubscription as ChannelSubscription
    from heliograph.client.consumer import Consumer as Consumer
    from heliograph.client.consumer import ConsumerStats as ConsumerStats
    from heliograph.client.drafts import Published as Published
    from heliograph.client.live import Live as Live
    from heliograph.client.live import LiveMessage as LiveMessage
    from heliograph.client.live import Subscription as Subscription
    from heliograph.client.online import online_users as online_users
    from heliograph.client.publisher import AsyncPublisher as AsyncPublisher
    from heliograph.client.publisher import Publisher as Publisher
    from heliograph.client.tokens import TokenMaker as TokenMaker
    from heliograph.errors import BadChannel as BadChannel
    from heliograph.errors import BadCursor as BadCursor
    from heliograph.errors import BadData as BadData
    from heliograph.errors import BadDevice as BadDevice
    from heliograph.errors import BadSetting as BadSetting
    from heliograph.errors import BadSignature as BadSignature
    from heliograph.errors import BadUserId as BadUserId
    from heliograph.errors import BusUnavailable as BusUnavailable
    from heliograph.errors import ClientClosed as ClientClosed
    from heliograph.errors import ClientError as ClientError
    from heliograph.errors import HeliographError as HeliographError
    from heliograph.errors import NeedsRedis as NeedsRedis
    from heliograph.errors import NoSocket as NoSocket
    from heliograph.errors import NotAnswered as NotAnswered
    from heliograph.errors import PublishError as PublishError
    from heliograph.errors import RequestRefused as RequestRefused
    from heliograph.errors import StorageFull as StorageFull
    from heliograph.protocol.channel_options import Namespace as Namespace
    from heliograph.protocol.lifecycle import LifecycleEvent as LifecycleEvent

    __version__: str

# What is public, and where it is. It is imported when it is first asked for: `import heliograph` costs nothing.
_PLACES = {
    "Ack": "heliograph.client.connection.events",
    "AsyncPublisher": "heliograph.client.publisher",
    "BadChannel": "heliograph.errors",
    "BadCursor": "heliograph.errors",
    "BadData": "heliograph.errors",
    "BadDevice": "heliograph.errors",
    "BadSetting": "heliograph.errors",
    "BadSignature": "heliograph.errors",
    "BadUserId": "heliograph.errors",
    "BusUnavailable": "heliograph.errors",
    "ChannelSubscription": "heliograph.client.connection.subscription",
    "Client": "heliograph.client.connection.client",
    "ClientClosed": "heliograph.errors",
    "ClientError": "heliograph.errors",
    "ClientState": "heliograph.client.connection.events",
    "Composite": "heliograph.client.composite",
    "Consumer": "heliograph.client.consumer",
    "ConsumerStats": "heliograph.client.consumer",
    "HeliographError": "heliograph.errors",
    "History": "heliograph.client.connection.events",
    "Item": "heliograph.client.composite",
    "Joined": "heliograph.client.connection.events",
    "Left": "heliograph.client.connection.events",
    "LifecycleEvent": "heliograph.protocol.lifecycle",
    "Live": "heliograph.client.live",
    "LiveMessage": "heliograph.client.live",
    "Lost": "heliograph.client.connection.events",
    "Message": "heliograph.client.connection.events",
    "Namespace": "heliograph.protocol.channel_options",
    "NeedsRedis": "heliograph.errors",
    "NoSocket": "heliograph.errors",
    "NotAnswered": "heliograph.errors",
    "PublishError": "heliograph.errors",
    "Published": "heliograph.client.drafts",
    "Publisher": "heliograph.client.publisher",
    "RequestRefused": "heliograph.errors",
    "RunProgress": "heliograph.client.connection.events",
    "RunState": "heliograph.client.connection.events",
    "ShardedStream": "heliograph.backends.redis.streams",
    "StorageFull": "heliograph.errors",
    "Stored": "heliograph.client.composite",
    "StreamEntry": "heliograph.backends.redis.streams",
    "Subscribed": "heliograph.client.connection.events",
    "Subscription": "heliograph.client.live",
    "SubscriptionRefused": "heliograph.client.connection.events",
    "TokenMaker": "heliograph.client.tokens",
    "Unsubscribed": "heliograph.client.connection.events",
    "connect": "heliograph.client.connection.client",
    "online_users": "heliograph.client.online",
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("heliograph")
    if name not in _PLACES:
        raise AttributeError(f"module 'heliograph' has no attribute {name!r}")
    found: object = getattr(import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
