"""What a publisher makes of its data, without Redis."""

import uuid

import pytest

from heliograph.backends.redis.keys import Keys
from heliograph.client.drafts import Drafting
from heliograph.protocol.namespace import Namespaces
from tests.support.manual_clock import ManualClock

KEYS = Keys("drafts", "drafts:bus")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def drafting(clock: ManualClock) -> Drafting:
    return Drafting(KEYS, Namespaces(), 32, clock)


def test_times_to_live_are_renewed_once_a_second(drafting: Drafting, clock: ManualClock) -> None:
    """Fails if each message has Redis renew them, if none does any more, or if two publishers are taken for one."""
    draft = drafting.publication("news", 1)
    [first, second] = [drafting.call(draft)[2] for _ in range(2)]
    clock.advance(1)
    assert first == second
    assert drafting.call(draft)[2] != first
    assert drafting.into(KEYS).call(draft)[2] != drafting.call(draft)[2]


def test_message_ids(drafting: Drafting) -> None:
    """Fails if a message id is no random UUID, or two messages have the same."""
    ids = {drafting.publication("news", 1).message_id for _ in range(64)}
    assert len(ids) == 64
    for each in ids:
        known = uuid.UUID(each)
        assert (known.hex, known.version, known.variant) == (each, 4, uuid.RFC_4122)


def test_lines_are_what_single_publications_would_be(drafting: Drafting) -> None:
    """Fails if many lines at once are encoded, timed or keyed otherwise than one, or share an id."""
    lines = [("done\r\n", "stdout"), ("half \ud83d", "stderr"), ("x" * 40_000, "stdout")]
    drafts = drafting.lines(7, lines)
    singles = [drafting.lines(7, [line])[0] for line in lines]
    assert [bytes(each.data) for each in drafts] == [bytes(each.data) for each in singles]
    assert bytes(drafts[0].data) == b'{"line":"done","stream":"stdout"}'
    assert bytes(drafts[1].data) == rb'{"line":"half \\ud83d","stream":"stderr"}'
    assert {(each.channel, each.sent_at) for each in drafts} == {("logs:7", "2023-11-14T22:13:20.000Z")}
    assert len({each.message_id for each in drafts}) == len(drafts)
    assert [each.idempotency_key for each in drafts] == [each.message_id for each in drafts]
