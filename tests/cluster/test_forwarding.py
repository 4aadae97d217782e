"""What a client sends in requests reaches its session, on whichever replica: once, in order, with an answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from heliograph.cluster import forwarding
from heliograph.cluster.forwarding import Forwarding, OnTaken
from heliograph.errors import BusUnavailable
from tests.support.members import Member, Members
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


class Session:
    """Takes frames: at once, or when the test says so."""

    def __init__(self, *, is_busy: bool = False) -> None:
        self.frames: list[bytes] = []
        self.waiting: list[OnTaken] = []
        self._is_busy = is_busy

    def take(self, frames: bytes, taken: OnTaken) -> None:
        self.frames.append(frames)
        if self._is_busy:
            self.waiting.append(taken)
        else:
            taken(True)


@pytest.fixture
async def two(redis_server: RedisServer, namespace: str) -> AsyncIterator[list[Member]]:
    async with Members(redis_server.url, namespace) as members:
        yield await members.several(2)


def parts(members: list[Member]) -> list[Forwarding]:
    return [member.replica.forwarding for member in members]


async def test_frames_reach_the_session_from_any_replica(two: list[Member]) -> None:
    """Fails if frames are lost, doubled or change places, or their bytes are not the same."""
    here, there = parts(two)
    session = Session()
    here.enter("s", session)
    for number in range(30):
        way = (here, there)[number % 2]
        assert await way.forward(here.node_id, "s", b"\x00\xff%d" % number)
    assert session.frames == [b"\x00\xff%d" % number for number in range(30)]
    answers = await asyncio.gather(*(there.forward(here.node_id, "s", b"%d" % number) for number in range(300)))
    assert all(answers)
    assert session.frames[30:] == [b"%d" % number for number in range(300)]


async def test_no_such_session_or_replica(two: list[Member]) -> None:
    """Fails if a client whose session is over is not told so."""
    here, there = parts(two)
    assert not await here.forward(here.node_id, "s", b"1")
    assert not await there.forward(here.node_id, "s", b"1")
    for nobody in ("0123456789abcdef", "nobody", f"{here.node_id}:in", ""):
        assert not await there.forward(nobody, "s", b"1")
    here.enter("s", Session())
    here.leave("s")
    assert not await there.forward(here.node_id, "s", b"1")


async def test_a_session_that_is_busy_lets_the_client_wait(two: list[Member]) -> None:
    """Fails if the answer comes before the frames were taken: nothing would slow a client down."""
    here, there = parts(two)
    session = Session(is_busy=True)
    here.enter("s", session)
    for way, frames in ((there, b"1"), (here, b"2")):
        asked = asyncio.create_task(way.forward(here.node_id, "s", frames))
        await eventually(lambda frames=frames: session.frames[-1:] == [frames])
        assert not (await asyncio.wait([asked], timeout=0.05))[0]
        session.waiting.pop()(False)
        assert await asked is False


async def test_a_replica_that_does_not_answer(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the client waits for ever, or a late answer breaks something."""
    monkeypatch.setattr(forwarding, "TIMEOUT_S", 0.05)
    here, there = parts(two)
    session = Session(is_busy=True)
    here.enter("s", session)
    with pytest.raises(BusUnavailable, match="has not answered"):
        await there.forward(here.node_id, "s", b"1")
    session.waiting.pop()(True)
    assert not await there.forward(here.node_id, "another", b"1")
