"""Frames with an id that wait for their answers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from heliograph.client.connection.events import Frame
from heliograph.client.connection.link import Link
from heliograph.errors import BadData, ClientClosed, ClientError, NotAnswered

# A request that may be sent again is, after so long without an answer.
ANSWER_S: Final = 5.0
# After `unavailable`: the longest first pause; it doubles from one failure to the next.
PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 4.0


@dataclass(slots=True)
class Answer:
    """What the server has answered, and the replica that it did on."""

    frame: Frame
    sent_on: str


@dataclass(slots=True, eq=False)
class _Request:
    frame: bytes
    repeatable: bool
    future: asyncio.Future[Answer]
    timer: asyncio.TimerHandle
    link: Link | None = None
    tried: bool = False
    error: ClientError | None = None
    answer_timer: asyncio.TimerHandle | None = None


class Requests:
    """Some may be sent again: those that only read, and those with an idempotency key, which the server carries out
    once however often it gets them. They outlive a connection that breaks, an answer that does not come, and
    `unavailable`, until their time is over. All others are sent once."""

    def __init__(self, random: Callable[[], float], on_due: Callable[[], None]) -> None:
        """`random` returns a number in [0, 1). `on_due` is called when something is to be sent again."""
        self._random = random
        self._on_due = on_due
        self._pending: dict[str, _Request] = {}  # in the order in which they were made
        self._last_id = 0
        self._failures = 0  # `unavailable` in a row
        self._pause: asyncio.TimerHandle | None = None

    def next_id(self) -> str:
        """Return an id that no other frame of this client has."""
        self._last_id += 1
        return str(self._last_id)

    def add(self, frame: dict[str, Any], timeout_s: float, *, repeatable: bool) -> tuple[str, asyncio.Future[Answer]]:
        """Enter a request. Returns its id, and what will hold the answer or a ClientError.

        Raises:
            BadData: it cannot be written as JSON.
        """
        loop = asyncio.get_running_loop()
        request_id = self.next_id()
        try:
            encoded = msgspec.json.encode({**frame, "id": request_id})
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise BadData(f"the frame cannot be written as JSON: {error}") from None
        future: asyncio.Future[Answer] = loop.create_future()
        timer = loop.call_later(timeout_s, self._expire, request_id, timeout_s)
        self._pending[request_id] = _Request(encoded, repeatable, future, timer)
        return request_id, future

    def forget(self, request_id: str) -> None:
        """Drop a request: nobody waits for the answer any more."""
        self._take(request_id)

    @property
    def waiting(self) -> bool:
        """Return whether some are to be sent now."""
        return any(self._is_due(request) for request in self._pending.values())

    def is_on(self, link: Link) -> bool:
        """Return whether some wait for their answer on this connection."""
        return any(request.link is link for request in self._pending.values())

    def transmit(self, link: Link) -> None:
        """Send what waits."""
        loop = asyncio.get_running_loop()
        for request_id, request in self._pending.items():
            if not self._is_due(request):
                continue
            request.link = link
            request.tried = True
            link.send(request.frame)
            if request.repeatable:
                request.answer_timer = loop.call_later(ANSWER_S, self._send_again, request_id)

    def answer(self, frame: Frame, link: Link) -> None:
        """Take the server's answer, which came on this connection."""
        if (request := self._take(frame.get("id"))) is not None:
            self._failures = 0
            _resolve(request, Answer(frame, link.replica))

    def fail(self, request_id: object, error: ClientError) -> bool:
        """Take the server's refusal. Return whether it answers one of these."""
        request = self._pending.get(request_id) if isinstance(request_id, str) else None
        if request is None:
            return False
        if request.repeatable and error.code == "unavailable":
            request.error = error
            self._release(request)
            self._pause_all()
            return True
        self._take(request_id)
        _resolve(request, error)
        return True

    def lose(self, link: Link, error: ClientClosed) -> bool:
        """Have what was sent on a link that has ended sent again, or fail. Return whether there was any."""
        lost = [request_id for request_id, request in self._pending.items() if request.link is link]
        for request_id in lost:
            if self._pending[request_id].repeatable:
                self._release(self._pending[request_id])
            elif (request := self._take(request_id)) is not None:
                _resolve(request, error)
        return bool(lost)

    def fail_largest(self, link: Link, error: ClientError) -> None:
        """Fail the largest of those that wait on a link: the server has closed it because one is too large.

        Sent again, it would only close the next one.
        """
        on_link = {request_id: request for request_id, request in self._pending.items() if request.link is link}
        if on_link:
            largest = max(on_link, key=lambda request_id: len(on_link[request_id].frame))
            self._take(largest)
            _resolve(on_link[largest], error)

    def fail_untried(self, error: ClientError) -> None:
        """Fail what was never sent on any connection."""
        for request_id, request in list(self._pending.items()):
            if not request.tried:
                self._take(request_id)
                _resolve(request, error)

    def fail_all(self, error: ClientError) -> None:
        """Fail them all: the client is closed."""
        for request_id, request in list(self._pending.items()):
            self._take(request_id)
            _resolve(request, error)
        self._end_pause()

    def _is_due(self, request: _Request) -> bool:
        """Return whether it may be sent now. What may be repeated waits for the end of a pause, in its order."""
        return request.link is None and not (request.repeatable and self._pause is not None)

    def _release(self, request: _Request) -> None:
        request.link = None
        if request.answer_timer is not None:
            request.answer_timer.cancel()

    def _send_again(self, request_id: str) -> None:
        self._release(self._pending[request_id])
        self._on_due()

    def _pause_all(self) -> None:
        if self._pause is not None:
            return
        ceiling_s: float = min(LONGEST_PAUSE_S, PAUSE_S * 2 ** min(self._failures, 10))
        self._failures += 1
        # Drawn, so that the clients of a server that comes back do not all send at once.
        delay_s = (0.5 + self._random() / 2) * ceiling_s
        self._pause = asyncio.get_running_loop().call_later(delay_s, self._on_pause_over)

    def _on_pause_over(self) -> None:
        self._end_pause()
        self._on_due()

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _expire(self, request_id: str, timeout_s: float) -> None:
        request = self._take(request_id)
        if request is None:
            return
        words = "; it may have arrived all the same" if request.tried else "; it was not sent: there is no connection"
        _resolve(request, request.error or NotAnswered(f"no answer within {timeout_s:g} s{words}"))

    def _take(self, request_id: object) -> _Request | None:
        request = self._pending.pop(request_id, None) if isinstance(request_id, str) else None
        if request is not None:
            request.timer.cancel()
            if request.answer_timer is not None:
                request.answer_timer.cancel()
        return request


def _resolve(request: _Request, result: Answer | ClientError) -> None:
    if request.future.done():
        return  # the caller was cancelled
    if isinstance(result, Answer):
        request.future.set_result(result)
    else:
        request.future.set_exception(result)
