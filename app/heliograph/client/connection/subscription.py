"""One listener's part in a channel."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

from heliograph.client.connection.event_queue import EventQueue
from heliograph.client.connection.events import (
    ChannelEvent,
    Message,
    RunProgress,
    RunState,
    Subscribed,
    SubscriptionRefused,
    Unsubscribed,
)
from heliograph.errors import ClientClosed, ClientError, RequestRefused

# As many log lines of a run are remembered as the server keeps.
RUN_LOGS = 1000


class ChannelSubscription:
    """What `Client.subscribe` gives. It lasts over all reconnects, until `unsubscribe` or the end of its block.

        async with client.subscribe("news") as news:
            async for message in news:
                print(message.data)

    Iterated, it gives the channel's messages; `events()` gives everything, in order: `Subscribed`, `Message`, `Lost`,
    `RunState`, `RunProgress`, `Joined`, `Left`. Both raise RequestRefused if the server does not give the channel, or
    ends the subscription, and ClientClosed if the server has closed the client for good; they end with `unsubscribe`
    and `Client.close`.
    """

    def __init__(
        self,
        channel: str,
        queue: EventQueue | None,
        handler: Callable[[ChannelEvent], object] | None,
        release: Callable[["ChannelSubscription"], None],
    ) -> None:
        """`queue`: where events go that no `handler` is given. `release` is called once, when it is over."""
        self.channel = channel
        self.queue = queue
        self._handler = handler
        self._release = release
        self._over = False
        self._run: RunState | None = None
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def run(self) -> RunState | None:
        """Return the state of the run after all that has come; None if this is no run, or nothing has come yet."""
        return self._run

    async def ready(self) -> None:
        """Return once the server has subscribed it.

        Raises:
            ClientError: it refuses, or the subscription or the client has ended before.
        """
        await asyncio.shield(self._answer)

    def unsubscribe(self) -> None:
        """End the subscription. The channel is left when nobody else on this client listens to it."""
        if self._over:
            return
        self._over = True
        self._settle(ClientClosed(f"the subscription to {self.channel} has ended"))
        if self.queue is not None:
            self.queue.end()
        self._release(self)

    async def events(self) -> AsyncIterator[ChannelEvent]:
        """Yield all that happens on the channel, in order."""
        if self.queue is None:
            raise TypeError(f"the subscription to {self.channel} has a handler, which gets its events")
        while (event := await self.queue.take()) is not None:
            yield event

    async def __aiter__(self) -> AsyncIterator[Message]:
        async for event in self.events():
            if isinstance(event, Message):
                yield event

    async def __aenter__(self) -> Self:
        await self.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unsubscribe()

    # -- for the client

    def hear(self, event: ChannelEvent, report: Callable[[Exception], None]) -> None:
        """Take what has happened on the channel. `report` gets what a handler raises."""
        match event:
            case Subscribed():
                self._settle(None)
            case RunState():
                self._run = event
            case RunProgress():
                self._run = _advanced(self._run, event)
            case SubscriptionRefused():
                self._settle(event.error)
            case Unsubscribed():
                self._settle(_ended(self.channel))
            case _:
                pass
        if self._handler is not None:
            try:
                self._handler(event)
            except Exception as error:  # noqa: BLE001 - one that raises must not stop the others
                report(error)
        elif self.queue is not None:
            match event:
                case SubscriptionRefused():
                    self.queue.put(event.error)
                case Unsubscribed():
                    self.queue.put(_ended(self.channel))
                case _:
                    self.queue.put(event)

    def end(self, error: ClientError | None) -> None:
        """End it: the client is closed; by the server, if there is an error."""
        self._settle(error or ClientClosed("the client is closed"))
        if self.queue is not None:
            self.queue.end(error)

    def _settle(self, error: ClientError | None) -> None:
        if self._answer.done():
            return
        if error is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(error)
            self._answer.exception()  # so that an error that nobody awaits is not logged


def _ended(channel: str) -> RequestRefused:
    return RequestRefused("not_allowed", f"the server has ended the subscription to {channel}")


def _advanced(run: RunState | None, event: RunProgress) -> RunState:
    logs: tuple[Any, ...] = () if run is None else run.logs
    if event.message is not None:
        logs = (*logs[-RUN_LOGS + 1 :], event.message)
    return RunState(event.channel, event.state, event.progress, logs)
