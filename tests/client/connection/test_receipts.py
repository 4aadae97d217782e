"""Receipts of the Python client: said until they are noted, the newest of each channel."""

import asyncio
from collections.abc import Mapping

import pytest

from heliograph import Message
from heliograph.client.connection import receipts
from heliograph.client.connection.receipts import ReceiptSender, Said
from tests.support.waiting import eventually


def message(channel: str, offset: int) -> Message:
    return Message(channel, offset, f"m{offset}", "now", f"{channel}=e.{offset}", None, None, delivered_by="one")


class Server:
    """Answers receipts as it is told: in order, and the last answer from then on."""

    def __init__(self, *answers: Said) -> None:
        self.answers = list(answers)
        self.heard: list[str] = []
        self.refuses = ""  # a channel

    async def say(self, cursors: Mapping[str, str]) -> Said:
        self.heard.append("&".join(cursors.values()))
        await asyncio.sleep(0)
        if self.refuses:
            return Said.REFUSED if self.refuses in cursors else Said.NOTED
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "INTERVAL_S", 0.02)


async def test_what_was_not_noted_is_said_again() -> None:
    """Fails if a receipt is lost with a connection or `unavailable`, or an outdated one is repeated."""
    server = Server(Said.LATER, Said.LATER, Said.NOTED)
    sender = ReceiptSender(server.say)
    for offset in (1, 2):
        sender.taken(message("a", offset))
    sender.taken(message("b", 1))
    await eventually(lambda: len(server.heard) == 1)
    sender.taken(message("a", 3))
    await eventually(lambda: len(server.heard) == 3)
    assert server.heard == ["a=e.2&b=e.1", "a=e.3&b=e.1", "a=e.3&b=e.1"]
    sender.taken(message("a", 4))
    await sender.stop(1)
    assert server.heard[3:] == ["a=e.4"], "the last is said at the end, and nothing twice"


async def test_one_channel_does_not_have_the_others_refused() -> None:
    """Fails if a position of an epoch that has ended costs the receipts of other channels, or is said for ever."""
    server = Server(Said.NOTED)
    server.refuses = "old"
    sender = ReceiptSender(server.say)
    for channel in ("a", "old"):
        sender.taken(message(channel, 1))
    await eventually(lambda: len(server.heard) == 3)
    await sender.stop(1)
    assert server.heard == ["a=e.1&old=e.1", "a=e.1", "old=e.1"]


async def test_a_client_that_is_closed_does_not_wait_for_long() -> None:
    """Fails if a server that does not answer keeps a program from ending."""

    async def say(_: Mapping[str, str]) -> Said:
        await asyncio.sleep(60)
        return Said.NOTED

    sender = ReceiptSender(say)
    sender.taken(message("a", 1))
    async with asyncio.timeout(5):
        await sender.stop(0.05)
