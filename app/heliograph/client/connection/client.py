"""One logical connection to a cluster, which survives replicas, networks and restarts.

    async with heliograph.connect("https://live.example.org", user="alice", channels=["news"]) as client:
        await client.send("bob", "hello")
        async for message in client:
            print(message.channel, message.data)

The client connects before it leaves the old connection, and continues from the newest position that it has seen of
each channel, on any transport and replica. What cannot be recovered is reported by `Lost`, never skipped in silence.
"""

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import quote

import msgspec

from heliograph.client.connection.addresses import Addresses
from heliograph.client.connection.connection import TRANSPORTS, Connection, draw
from heliograph.client.connection.credentials import Ask, Credentials
from heliograph.client.connection.dispatcher import Action, AskAgain, Deliver, Dispatcher, Place, Report, Send
from heliograph.client.connection.event_queue import EventQueue
from heliograph.client.connection.events import (
    Ack,
    ChannelEvent,
    ClientState,
    Frame,
    History,
    Lost,
    Message,
    RunState,
    Subscribed,
    Transport,
    message_of,
    refused_by,
)
from heliograph.client.connection.link import NORMAL, TOO_LARGE, Closed, Link, refusal
from heliograph.client.connection.receipts import ReceiptSender, Said
from heliograph.client.connection.requests import Answer, Requests
from heliograph.client.connection.subscription import ChannelSubscription
from heliograph.codecs.plain.cursor import parse_cursor
from heliograph.errors import BadChannel, BadCursor, ClientClosed, ClientError, NoSocket, NotAnswered, RequestRefused
from heliograph.protocol.identity import check_channel, check_device, check_user_id, user_of
from heliograph.protocol.position import Position
from heliograph.protocol.run import channel_of_run

OPEN_S: Final = 10.0
REQUEST_S: Final = 10.0
# What may be sent again outlives a Redis or a replica that hangs, if it is not for long.
REPEATABLE_S: Final = 30.0
# Before a channel that was refused for the moment is asked for again.
ASK_AGAIN_S: Final = 1.0
NOT_NOW: Final = frozenset(("closed", "timeout", "unavailable", "rate_limited"))  # a receipt is said again
CLOSE_S: Final = 1.0  # how long the last receipt may take when the client is closed
MAX_QUEUE: Final = 10_000

ClientEvent = Literal["state", "message", "lost", "error"]


def connect(
    url: str,
    *,
    user: str | None = None,
    token: str | None = None,
    get_token: Ask | None = None,
    get_ticket: Ask | None = None,
    channels: Sequence[str] = (),
    replay: bool = False,
    cursor: str | None = None,
    device: str | None = None,
    receipts: bool = False,
    transports: Sequence[Transport] = TRANSPORTS,
    open_timeout_s: float | None = OPEN_S,
    max_queue: int = MAX_QUEUE,
    ssl_context: ssl.SSLContext | None = None,
) -> "Client":
    """Make a client of the cluster at `url`; `async with` connects it and closes it at the end.

    Args:
        url: `https://host[:port][/prefix]`, or the WebSocket endpoint, `wss://host[:port][/prefix]/ws`.
        user: in open mode: who this is.
        token: in jwt mode: one token, never renewed.
        get_token: in jwt mode: returns a token, or a coroutine that does. It is called before each connection, and
            again before the token expires. If it returns None or "", the client closes for good.
        get_ticket: in jwt mode: the same for a single-use ticket, in place of a token.
        channels: whose messages come with those to the user when the client is iterated. A position that `cursor`
            has is where a channel begins.
        replay: without a position, the user's messages and these channels begin with what is kept, not with what
            comes.
        cursor: where an earlier client was: the cursors of its messages, the newest of each channel, joined with `&`.
        device: which of the user's devices this is, 1-64 bytes; receipts are kept for each.
        receipts: tell the server in the background, at most once a second, what the program has taken, so that
            senders can ask (docs/tracing.md). It has taken what it was given by iteration, or by a handler or
            listener that has returned.
        transports: those that may be used, the best first.
        open_timeout_s: how long `async with` waits for the first connection; None: until there is one.
        max_queue: so many events may wait until the program takes them. Then their channels are left, and gone on
            with from their positions when it has taken half of them.
        ssl_context: for a private certificate authority.

    Raises:
        BadSetting: the URL, or the transports, cannot be used; or `heliograph[client]` is not installed.
        BadUserId, BadChannel, BadCursor, BadDevice: one of these cannot be.
    """
    return Client(
        Addresses.of(url),
        Credentials(None if user is None else check_user_id(user), token, get_token, get_ticket),
        channels=channels,
        replay=replay,
        cursor=cursor or "",
        device=None if device is None else check_device(device),
        receipts=receipts,
        transports=transports,
        open_timeout_s=open_timeout_s,
        max_queue=max_queue,
        ssl_context=ssl_context,
    )


class Client:
    """What `connect` makes. It is used in one event loop, and opened once.

    Iterated, it gives the messages to its user and on the `channels` that it was given; `events()` gives `Lost` and
    what happens to these channels too. Both raise ClientClosed if the server has closed the client for good, and end
    with `close`.
    """

    def __init__(
        self,
        addresses: Addresses,
        credentials: Credentials,
        *,
        channels: Sequence[str],
        replay: bool,
        cursor: str,
        device: str | None,
        receipts: bool,
        transports: Sequence[Transport],
        open_timeout_s: float | None,
        max_queue: int,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._addresses = addresses
        self._credentials = credentials
        self._first_channels = tuple(dict.fromkeys(map(_checked, channels)))
        self._replay = replay
        self._start = parse_cursor(cursor)
        self._open_timeout_s = open_timeout_s
        self._max_queue = max_queue
        self._connection = Connection(addresses, credentials, transports, ssl_context, self)
        self._requests = Requests(draw, self._transmit)
        self._dispatcher = Dispatcher(
            self._requests.next_id, user=credentials.user, start=self._start, replay=replay, device=device
        )
        self._receipts = ReceiptSender(self._say_received) if receipts else None
        self._device = device
        self._listeners: dict[str, list[Callable[[Any], object]]] = {}
        self._subscriptions: dict[str, dict[ChannelSubscription, None]] = {}
        self._queue = EventQueue(
            max_queue, lambda: self._pause(self._queue), lambda: self._resume(self._queue), self._taken
        )
        self._full: dict[str, set[EventQueue]] = {}  # by channel: the queues of which the program takes too little
        self._key_prefix = secrets.token_hex(12)
        self._last_key = 0
        self._first_connection: asyncio.Future[None] | None = None
        self._syncing = False

    # -- its life

    @property
    def state(self) -> ClientState:
        """Return the state of the connection."""
        return self._connection.state

    async def open(self) -> None:
        """Connect, and subscribe to the `channels` that it was given.

        Raises:
            ClientClosed: the server refuses the client for good, or it was opened before.
            RequestRefused: the server does not give one of the channels.
            NotAnswered: that took longer than `open_timeout_s`. The text says why the last attempt failed.
        """
        if self._first_connection is not None:
            raise ClientClosed("a client is opened once: make another")
        self._first_connection = asyncio.get_running_loop().create_future()
        subscriptions = [
            self._subscribe(name, None, self._queue, self._start.position_in(name), replay=self._replay)
            for name in self._first_channels
        ]
        self._connection.open()
        try:
            async with asyncio.timeout(self._open_timeout_s):
                await self._first_connection
                for subscription in subscriptions:
                    await subscription.ready()
        except TimeoutError:
            state = self.state
            await self.close()
            if state.state == "connected":
                text = f"the server has not subscribed the client to {self._first_channels} in time"
            else:
                text = f"no connection to {self._addresses.http} within {self._open_timeout_s:g} s: {state.reason}"
            raise NotAnswered(text) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the client. Requests without an answer fail with ClientClosed. May be called twice."""
        if self._receipts is not None:
            await self._receipts.stop(CLOSE_S)
        self._end_queues(None)
        await self._connection.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- listening

    def on(self, event: ClientEvent, listener: Callable[[Any], object]) -> Callable[[], None]:
        """Call `listener` with each ClientState, with each Message to the user, with Lost where such are missing, or
        with each ClientError that belongs to no call and no subscription. Returns what takes the listener off again.
        """
        listeners = self._listeners.setdefault(event, [])
        listeners.append(listener)

        def take_off() -> None:
            if listener in listeners:
                listeners.remove(listener)

        return take_off

    async def events(self) -> AsyncIterator[ChannelEvent]:
        """Yield messages to the user and what happens on the `channels` that the client was given, in order."""
        if self._first_connection is None:
            raise ClientClosed("the client is not open")
        while (event := await self._queue.take()) is not None:
            yield event

    async def __aiter__(self) -> AsyncIterator[Message]:
        async for event in self.events():
            if isinstance(event, Message):
                yield event

    def subscribe(
        self,
        channel: str,
        handler: Callable[[ChannelEvent], object] | None = None,
        *,
        replay: bool = False,
        cursor: str | None = None,
        max_queue: int | None = None,
    ) -> ChannelSubscription:
        """Listen to a channel, from now on and over all reconnects.

        Several subscriptions to a channel share one on the server, which begins as the first of them says.

        Args:
            handler: is called with each event, which then cannot be iterated.
            replay: begin with what is kept, not with what comes.
            cursor: begin after the message that has it.
            max_queue: in place of the client's.

        Raises:
            BadChannel: it cannot be a channel; or it is a user's own, whose messages the client itself gives.
            BadCursor: no replica gave it.
            ClientClosed: the client is closed, or not open yet.
        """
        if self.state.state == "closed":
            raise ClientClosed("the client is not open")
        queue = None
        if handler is None:
            queue = EventQueue(
                max_queue or self._max_queue, lambda: self._pause(queue), lambda: self._resume(queue), self._taken
            )
        name = _checked(channel)
        position = None if cursor is None else parse_cursor(cursor).position_in(name)
        return self._subscribe(name, handler, queue, position, replay=replay)

    # -- saying

    async def send(
        self,
        to: str,
        data: object,
        *,
        ephemeral: bool = False,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Ack:
        """Send to all connections of a user. While there is no connection it waits for one.

        It carries a key by which the server knows it again, and is sent anew where a connection breaks, an answer
        does not come or Redis is away, until `timeout_s`; it is delivered once all the same. What is ephemeral has no
        such key and is sent once.

        Args:
            data: anything that JSON can carry.
            ephemeral: it is not kept, and gets no further than the connections of this moment.
            idempotency_key: 1-128 characters, to call again with within 300 s.
            timeout_s: 30 s if it is not given, or 10 s for what is sent once.

        Raises:
            RequestRefused, NotAnswered, NoSocket, ClientClosed: see there whether it may have been delivered.
            BadData: it cannot be written as JSON.
        """
        frame = {"type": "send", "to": to, "data": data}
        return await self._say(frame, ephemeral, idempotency_key, timeout_s)

    async def publish(
        self,
        channel: str,
        data: object,
        *,
        ephemeral: bool = False,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Ack:
        """Publish on a channel. As `send`."""
        frame = {"type": "publish", "channel": channel, "data": data}
        return await self._say(frame, ephemeral, idempotency_key, timeout_s)

    async def emit(self, event: str, data: object, *, timeout_s: float = REQUEST_S) -> Ack:
        """Hand an event to the workers behind the cluster. It is sent once: where the connection breaks before the
        answer, nobody knows whether it arrived. Raises as `send`."""
        return _ack(await self._request({"type": "emit", "event": event, "data": data}, timeout_s, repeatable=False))

    async def rpc(self, method: str, data: object = None, *, timeout_s: float = REQUEST_S) -> Any:
        """Call a method of the user's backend, and return what it returns. It is sent once, like `emit`.

        Raises as `send`; the `number` of a RequestRefused is the backend's own code.
        """
        frame = {"type": "rpc", "method": method, "data": data}
        return (await self._request(frame, timeout_s, repeatable=False)).frame["data"]

    async def presence(self, channel: str, *, timeout_s: float = REQUEST_S) -> dict[str, int]:
        """Return who is on a channel, with how many connections. Raises as `send`."""
        answer = await self._request({"type": "presence", "channel": channel}, timeout_s, repeatable=True)
        users: dict[str, int] = answer.frame["users"]
        return users

    async def history(
        self, channel: str, *, limit: int | None = None, cursor: str | None = None, timeout_s: float = REQUEST_S
    ) -> History:
        """Return a page of what is kept of a channel after `cursor`, or from the start. Raises as `send`.

        Args:
            limit: at most so many messages, 1-1,000; without it 100.
        """
        frame: dict[str, Any] = {"type": "history", "channel": channel}
        if limit is not None:
            frame["limit"] = limit
        if cursor is not None:
            frame["cursor"] = cursor
        found = (await self._request(frame, timeout_s, repeatable=True)).frame
        messages = [message_of({"channel": channel, **each}) for each in found["publications"]]
        return History(channel, messages, found["cursor"], bool(found.get("more")), found)

    async def get_run(self, run_id: str, *, timeout_s: float = REQUEST_S) -> RunState | None:
        """Return the state of a run, or None if nobody knows it. It takes one HTTP request, and no open connection.

        Raises:
            RequestRefused: the server does not give it.
            NotAnswered: no answer came in time.
            ClientClosed: the client was closed.
        """
        if self._first_connection is not None and self.state.state == "closed":
            raise ClientClosed("the client is closed")
        import httpx

        known = await self._credentials.for_request(first=False)
        url = f"{self._addresses.http}/api/runs/{quote(run_id, safe='')}"
        try:
            response = await self._connection.http_client().get(
                url, params=known.query, headers=known.headers, timeout=timeout_s
            )
        except httpx.HTTPError as error:
            raise NotAnswered(f"{url} does not answer: {str(error) or type(error).__name__}") from None
        if response.is_success:
            run = msgspec.json.decode(response.content)
            return RunState(channel_of_run(run_id), run["state"], run["progress"], tuple(run["logs"]), run)
        refused = refusal(response.status_code, response.content)
        if refused.error == "not_found":
            return None
        raise RequestRefused(refused.error or "http", refused.reason)

    async def _say(
        self, frame: dict[str, Any], ephemeral: bool, idempotency_key: str | None, timeout_s: float | None
    ) -> Ack:
        if ephemeral:
            answer = await self._request({**frame, "ephemeral": True}, timeout_s or REQUEST_S, repeatable=False)
        else:
            self._last_key += 1
            key = idempotency_key if idempotency_key is not None else f"{self._key_prefix}-{self._last_key}"
            frame = {**frame, "idempotency_key": key}
            answer = await self._request(frame, timeout_s or REPEATABLE_S, repeatable=True)
        return _ack(answer)

    async def _request(self, frame: dict[str, Any], timeout_s: float, *, repeatable: bool) -> Answer:
        if self.state.state == "closed":
            raise ClientClosed("the client is not open")
        request_id, future = self._requests.add(frame, timeout_s, repeatable=repeatable)
        self._transmit()
        try:
            return await future
        finally:
            self._requests.forget(request_id)

    def _transmit(self) -> None:
        """Send what waits; where nothing can be sent, try to get a socket."""
        link = self._connection.link
        if link is None or not self._requests.waiting:
            return
        if link.takes_frames:
            self._requests.transmit(link)
        elif self._connection.can_use("websocket"):
            self._connection.replace("websocket")
        else:
            self._refuse_waiting(link)

    def _refuse_waiting(self, link: Link) -> None:
        by = "server-sent events" if link.transport == "sse" else "polling"
        self._requests.fail_untried(NoSocket(f"the server is reached by {by} only; sending needs a WebSocket"))

    # -- subscriptions

    def _subscribe(
        self,
        channel: str,
        handler: Callable[[ChannelEvent], object] | None,
        queue: EventQueue | None,
        position: Position | None,
        *,
        replay: bool,
    ) -> ChannelSubscription:
        subscription = ChannelSubscription(channel, queue, handler, self._release)
        others = self._subscriptions.setdefault(channel, {})
        known = next((other for other in others if other.run is not None), None)
        others[subscription] = None
        self._dispatcher.want(channel, position=position, replay=replay)
        if known is not None or self._dispatcher.is_on(channel):
            # It is on the channel already, and hears how a run stands without asking anew.
            asyncio.get_running_loop().call_soon(self._deliver_status, subscription, known.run if known else None)
        self._sync()
        return subscription

    def _deliver_status(self, subscription: ChannelSubscription, run: RunState | None) -> None:
        channel = self._dispatcher.find(subscription.channel)
        if channel is None or subscription not in self._subscriptions.get(channel.name, {}):
            return
        subscription.hear(
            Subscribed(channel.name, channel.cursor, recovered=True, lost=False, anew=False), self._report
        )
        if run is not None:
            subscription.hear(run, self._report)

    def _release(self, subscription: ChannelSubscription) -> None:
        others = self._subscriptions.get(subscription.channel, {})
        if subscription in others:
            del others[subscription]
            if subscription.queue is not None:
                self._resume(subscription.queue, subscription.channel)
            self._sync()

    def _sync(self) -> None:
        """Bring the connection in line with what is wanted, once for all that this event-loop iteration asks for."""
        if not self._syncing:
            self._syncing = True
            asyncio.get_running_loop().call_soon(self._sync_now)

    def _sync_now(self) -> None:
        self._syncing = False
        for name in [name for name, listening in self._subscriptions.items() if not listening]:
            del self._subscriptions[name]
            self._dispatcher.release(name)
        link = self._connection.link
        if link is None:
            return
        self._write(link.number, self._dispatcher.sync(link.number))
        if not self._dispatcher.is_in_line(link.number):
            self._connection.replace()

    def _ask_again(self, number: int, channel: str) -> None:
        self._write(number, self._dispatcher.ask_again(number, channel))

    def _write(self, number: int, frames: Sequence[dict[str, Any]]) -> None:
        link = self._connection.find(number)
        if link is not None and link.takes_frames:
            for frame in frames:
                link.send(msgspec.json.encode(frame))

    def _channels_of(self, queue: EventQueue) -> list[str]:
        names = [name for name, all_ in self._subscriptions.items() if any(each.queue is queue for each in all_)]
        own = self._dispatcher.own
        return [*names, own.name] if queue is self._queue and own is not None else names

    def _pause(self, queue: EventQueue | None) -> None:
        """Leave the channels of a queue until the program, which reads too slowly, has caught up."""
        if queue is None:
            return
        for name in self._channels_of(queue):
            self._full.setdefault(name, set()).add(queue)
            self._dispatcher.pause(name)
        self._sync()

    def _resume(self, queue: EventQueue | None, only: str | None = None) -> None:
        for name in [name for name, full in self._full.items() if queue in full and only in (None, name)]:
            self._full[name].discard(queue)
            if self._full[name]:
                continue
            del self._full[name]
            self._dispatcher.resume(name)
        self._sync()

    # -- for its connection: see `Owner`

    def place(self, link: Link) -> Place:
        return self._dispatcher.place(link.number)

    def on_opening(self, link: Link) -> None:
        self._dispatcher.open(link.number, is_socket=link.takes_frames)

    def on_established(self, link: Link, hello: Frame) -> None:
        actions = self._dispatcher.connected(link.number, hello["user"], hello["replica"], hello["cursor"])
        self._sync()
        self._carry_out(actions)

    def on_moved(self, link: Link, replica: str) -> None:
        self._dispatcher.moved(link.number, replica)

    def on_frame(self, link: Link, frame: Frame) -> None:
        try:
            match frame["type"]:
                case "ack" | "history" | "presence" | "received" | "refreshed" | "rpc":
                    self._requests.answer(frame, link)
                case "error" if self._requests.fail(frame.get("id"), refused_by(frame)):
                    pass
                case "reconnect":
                    if link is self._connection.link:
                        self._connection.replace_in(frame["in_ms"] / 1000)
                case _:
                    self._carry_out(self._dispatcher.receive(link.number, frame))
        except (KeyError, TypeError, ValueError, BadCursor) as error:
            self.on_garbled(link, error)

    def on_garbled(self, link: Link, error: Exception) -> None:
        self.on_error(ClientError("bad_frame", f"what the server sent cannot be read: {error!r}"))

    def on_ended(self, link: Link, closed: Closed) -> None:
        self._dispatcher.closed(link.number)
        if closed.code == TOO_LARGE:
            self._requests.fail_largest(link, RequestRefused("bad_request", f"too large: {closed.reason}"))
        if self._requests.lose(link, _unanswered(closed)):
            self._transmit()

    def refuse_channels(self, link: Link, closed: Closed) -> bool:
        blamed = self._dispatcher.blame(link.number, closed.error or "", closed.reason)
        self._carry_out(blamed)
        return bool(blamed)

    def is_busy(self, replaced: Link) -> bool:
        link = self._connection.link
        return self._requests.is_on(replaced) or (link is not None and not self._dispatcher.settled(link.number))

    def on_not_upgraded(self, in_use: Link, tried: Transport) -> None:
        if tried == "websocket":
            self._refuse_waiting(in_use)
        self._sync()

    async def refresh(self, token: str | None) -> float | None:
        answer = await self._request({"type": "refresh", "token": token}, REQUEST_S, repeatable=False)
        expires_in_s: float | None = answer.frame["expires_in"]
        return expires_in_s

    def on_error(self, error: ClientError) -> None:
        self._emit("error", error)

    def on_stopped(self, closed: Closed) -> None:
        self._requests.fail_all(_unanswered(closed))
        self._end_queues(None if closed.code == NORMAL else _closed_for_good(closed))
        if self._first_connection is not None and not self._first_connection.done():
            self._first_connection.set_exception(_closed_for_good(closed))
            self._first_connection.exception()  # so that an error that nobody awaits is not logged

    def on_state(self, state: ClientState) -> None:
        if state.state == "connected":
            self._transmit()
            if self._first_connection is not None and not self._first_connection.done():
                self._first_connection.set_result(None)
        self._emit("state", state)

    def _end_queues(self, error: ClientError | None) -> None:
        self._queue.end(error)
        for subscription in [each for all_ in self._subscriptions.values() for each in all_]:
            subscription.end(error)

    # -- telling

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Deliver(event):
                    self._deliver(event)
                case AskAgain(number, channel):
                    delay_s = (0.5 + draw()) * ASK_AGAIN_S
                    asyncio.get_running_loop().call_later(delay_s, self._ask_again, number, channel)
                case Send(number, frames):
                    self._write(number, frames)
                case Report(error):
                    self.on_error(error)

    def _deliver(self, event: ChannelEvent) -> None:
        own = self._dispatcher.own
        if own is not None and event.channel == own.name:
            self._queue.put(event)
            if isinstance(event, Message):
                self._emit("message", event)
                if self._listeners.get("message"):
                    self._taken(event)
            elif isinstance(event, Lost):
                self._emit("lost", event)
        for subscription in list(self._subscriptions.get(event.channel, {})):
            subscription.hear(event, self._report)
            if subscription.queue is None:
                self._taken(event)

    def _taken(self, event: ChannelEvent) -> None:
        if self._receipts is not None:
            self._receipts.taken(event)

    async def _say_received(self, cursors: Mapping[str, str]) -> Said:
        """Say what the program has taken, in the channels that the client is on."""
        link = self._connection.link
        if link is None:
            return Said.LATER
        own = self._dispatcher.own
        on = [own.name] if own is not None else []
        known = [cursor for channel, cursor in cursors.items() if channel in on or self._dispatcher.is_on(channel)]
        if not known:
            return Said.NOTED  # it is on none of them any more
        cursor = "&".join(known)
        if not link.takes_frames:
            return await link.received(cursor, self._device)
        frame = {"type": "received", "cursor": cursor}
        request_id, answer = self._requests.add(frame, REQUEST_S, repeatable=False)
        self._requests.transmit(link)
        try:
            await answer
        except ClientError as error:
            return Said.LATER if error.code in NOT_NOW else Said.REFUSED
        finally:
            self._requests.forget(request_id)
        return Said.NOTED

    def _emit(self, event: ClientEvent, value: object) -> None:
        for listener in list(self._listeners.get(event, [])):
            try:
                listener(value)
            except Exception as error:  # noqa: BLE001 - one that raises must not stop the others
                self._report(error)

    def _report(self, error: Exception) -> None:
        context = {"message": "a listener of a Heliograph client has raised", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)


def _checked(channel: str) -> str:
    if user_of(channel) is not None:
        raise BadChannel(f"{channel!r}: messages to the user come with the connection; iterate the client itself")
    return check_channel(channel)


def _ack(answer: Answer) -> Ack:
    frame = answer.frame
    return Ack(frame.get("message_id", ""), frame.get("delivery"), frame.get("cursor"), answer.sent_on)


def _unanswered(closed: Closed) -> ClientClosed:
    why = f"{closed.code}: {closed.reason}" if closed.reason else str(closed.code)
    return ClientClosed(f"the connection closed before the answer came ({why})", closed.code)


def _closed_for_good(closed: Closed) -> ClientClosed:
    who = "the client has closed" if closed.unasked else "the server has closed the client"
    return ClientClosed(f"{who}: {closed.reason or closed.code}", closed.code)
