"""Requests and their answers, over links that the test makes up."""

import asyncio
import json
from collections.abc import Callable

import pytest

from heliograph.client.connection import requests
from heliograph.client.connection.events import Transport
from heliograph.client.connection.receipts import Said
from heliograph.client.connection.requests import Answer, Requests
from heliograph.errors import BadData, ClientClosed, NoSocket, NotAnswered, RequestRefused


class Wire:
    """A link that remembers what was written to it."""

    transport: Transport = "websocket"
    takes_frames = True

    def __init__(self, replica: str = "replica-1") -> None:
        self.number = 1
        self.replica = replica
        self.written: list[str] = []

    def start(self) -> asyncio.Task[None]:
        raise NotImplementedError

    def send(self, frame: bytes) -> None:
        self.written.append(json.loads(frame)["data"])

    async def received(self, cursor: str, device: str | None) -> Said:
        raise NotImplementedError

    def probe(self, wait_s: float) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


Pending = tuple[Requests, Callable[[str, bool], tuple[str, asyncio.Future[Answer]]]]


@pytest.fixture
def pending() -> Pending:
    """Requests, and how to enter one with this data that may be sent again or not."""
    made = Requests(lambda: 0.5, lambda: None)
    return made, lambda data, repeatable: made.add({"type": "send", "data": data}, 5, repeatable=repeatable)


async def test_only_what_may_be_repeated_outlives_its_connection(pending: Pending) -> None:
    """Fails if an emission is sent twice, or a kept message is given up, because a connection broke."""
    made, add = pending
    (_, kept), (_, once) = add("kept", True), add("once", False)
    first, second = Wire(), Wire("replica-2")
    made.transmit(first)
    assert first.written == ["kept", "once"]
    assert made.is_on(first)
    assert made.lose(first, ClientClosed("it broke", 1006))
    assert not made.lose(first, ClientClosed("it broke", 1006))
    with pytest.raises(ClientClosed, match="it broke"):
        await once
    made.transmit(second)
    assert second.written == ["kept"]
    made.answer({"type": "ack", "id": "1", "message_id": "m"}, second)
    assert (await kept).sent_on == "replica-2"


async def test_what_is_unavailable_is_sent_again_in_its_order(pending: Pending) -> None:
    """Fails if messages overtake one another while Redis is away, or what is sent once waits for them."""
    made, add = pending
    for data in ("a", "b"):
        add(data, True)
    wire = Wire()
    made.transmit(wire)
    assert made.fail("1", RequestRefused("unavailable", "Redis is away"))
    made.fail("2", RequestRefused("unavailable", "Redis is away"))
    add("c", True)
    add("once", False)
    made.transmit(wire)
    assert wire.written == ["a", "b", "once"]
    await asyncio.sleep(requests.PAUSE_S)
    made.transmit(wire)
    assert wire.written == ["a", "b", "once", "a", "b", "c"]
    made.fail_all(ClientClosed("closed"))
    assert not made.waiting


async def test_what_is_not_answered_in_time_says_whether_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a program cannot tell what surely did not arrive from what may have, or waits for ever."""
    due: list[bool] = []
    monkeypatch.setattr(requests, "ANSWER_S", 0.05)
    made = Requests(lambda: 0.5, lambda: due.append(True))
    wire = Wire()
    _, sent = made.add({"data": "sent"}, 0.2, repeatable=True)
    made.transmit(wire)
    _, unsent = made.add({"data": "unsent"}, 0.1, repeatable=True)
    with pytest.raises(NotAnswered, match="was not sent"):
        await unsent
    assert due
    assert made.waiting
    with pytest.raises(NotAnswered, match="may have arrived"):
        await sent
    assert not made.fail("1", RequestRefused("not_allowed", "too late"))


async def test_without_a_socket_only_what_was_never_sent_is_refused(pending: Pending) -> None:
    """Fails if a message that may have arrived is said not to have been sent."""
    made, add = pending
    _, tried = add("tried", True)
    wire = Wire()
    made.transmit(wire)
    made.lose(wire, ClientClosed("it broke"))
    request_id, untried = add("untried", True)
    made.fail_untried(NoSocket("none gets through"))
    with pytest.raises(NoSocket):
        await untried
    assert not tried.done()
    made.forget(request_id)
    made.fail_all(ClientClosed("closed"))
    with pytest.raises(ClientClosed):
        await tried
    with pytest.raises(BadData):
        made.add({"data": object()}, 1, repeatable=True)
