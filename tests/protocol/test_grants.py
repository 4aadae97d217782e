"""What a token gives its bearer."""

from typing import Any

import msgspec
import pytest

from heliograph.errors import InvalidToken
from heliograph.protocol.grants import NO_GRANTS, Grants, Right, read_grants

SUBSCRIBE, PUBLISH = Right.SUBSCRIBE, Right.PUBLISH


def test_a_list_gives_reading_and_subscribes_to_its_names() -> None:
    """Fails if a name is not subscribed to at once, a pattern is, or either lets its bearer publish."""
    grants = read_grants(["news", "run:*", "안녕", "news"])
    assert grants.at_once == ("news", "안녕")
    for channel in ("news", "run:42", "run:", "안녕"):
        assert grants.allow(SUBSCRIBE, channel)
        assert not grants.allow(PUBLISH, channel)
    for channel in ("news2", "new", "NEWS", "run", "runs:1", "other"):
        assert not grants.allow(SUBSCRIBE, channel)


def test_an_object_gives_what_it_says_and_subscribes_to_nothing() -> None:
    """Fails if a right is given on the wrong channel, or left out, or something is subscribed to."""
    grants = read_grants({"chat:*": ["subscribe", "publish"], "in": ["publish"], "out": ["subscribe"], "none": []})
    assert grants.at_once == ()
    allowed = {
        (right.value, channel)
        for right in Right
        for channel in ("chat:1", "in", "out", "none", "chat")
        if grants.allow(right, channel)
    }
    assert allowed == {("subscribe", "chat:1"), ("publish", "chat:1"), ("publish", "in"), ("subscribe", "out")}


def test_patterns_add_up() -> None:
    """Fails if one rule hides another: rights are given, never taken."""
    grants = read_grants({"a:*": ["subscribe"], "a:b:*": ["publish"], "a:b:c": []})
    assert grants.allow(SUBSCRIBE, "a:b:c")
    assert grants.allow(PUBLISH, "a:b:c")
    assert not grants.allow(PUBLISH, "a:c")


@pytest.mark.parametrize("claim", [["*"], {"*": ["subscribe", "publish"]}])
def test_everything_is_not_what_belongs_to_users(claim: Any) -> None:
    """Fails if a token for all channels lets its bearer listen to what is addressed to somebody else."""
    grants = read_grants(claim)
    assert grants.at_once == ()
    assert grants.allow(SUBSCRIBE, "whatever")
    for right in Right:
        assert not grants.allow(right, "#bob")


def test_sending_is_given_by_the_names_of_users() -> None:
    """Fails if a right to send lets its bearer listen, reaches other users, or cannot be given for all."""
    grants = read_grants({"#bob": ["send"], "#team-*": ["send"], "*": ["subscribe", "publish"]})
    for channel, allowed in (
        ("#bob", True),
        ("#team-1", True),
        ("#bobby", False),
        ("#alice", False),
        ("news", False),
    ):
        assert grants.allow(Right.SEND, channel) is allowed, channel
        assert not (channel.startswith("#") and (grants.allow(SUBSCRIBE, channel) or grants.allow(PUBLISH, channel)))
    assert read_grants({"#*": ["send"]}).allow(Right.SEND, "#anybody")


@pytest.mark.parametrize("claim", [[], {}])
def test_nothing_given_is_nothing(claim: Any) -> None:
    """Fails if an empty claim gives everything, or is a mistake."""
    grants = read_grants(claim)
    assert grants == NO_GRANTS
    assert not grants.allow(SUBSCRIBE, "news")


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        ("news", "is a list of channels"),
        (None, "is a list of channels"),
        (5, "is a list of channels"),
        ([5], "a channel is a string"),
        ([["news"]], "a channel is a string"),
        (["#bob"], "personal"),
        (["#*"], "personal"),
        (["#"], "personal"),
        (["a*b"], "only at the end"),
        (["**"], "only at the end"),
        ([""], "must not be empty"),
        (["a\n"], "control characters"),
        (["x" * 513], "at most 512"),
        (["\ud800"], "surrogate"),
        ({"news": "subscribe"}, "the rights on 'news'"),
        ({"news": ["Subscribe"]}, "the rights on 'news'"),
        ({"news": ["subscribe", "admin"]}, "the rights on 'news'"),
        ({"news": [5]}, "the rights on 'news'"),
        ({"news": [["subscribe"]]}, "the rights on 'news'"),
        ({"news": {"subscribe": True}}, "the rights on 'news'"),
        ({"news": None}, "the rights on 'news'"),
        ({"news": ["send"]}, "'send' is for users"),
        ({"*": ["send"]}, "'send' is for users"),
        ({"#bob": ["subscribe"]}, "nothing but 'send'"),
        ({"#*": ["send", "publish"]}, "nothing but 'send'"),
        ({"#bob": []}, "nothing but 'send'"),
        ({"#bob": ["admin"]}, "a list of 'send'"),
        ({"#": ["send"]}, "must not be empty"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(claim: Any, says: str) -> None:
    """Fails if a claim with a mistake gives something, or its maker is not told what is wrong."""
    with pytest.raises(InvalidToken, match=says):
        read_grants(claim)


@pytest.mark.parametrize("claim", [["news", "run:*"], {"chat:*": ["subscribe", "publish"], "안녕": ["publish"]}, []])
def test_it_survives_a_ticket(claim: Any) -> None:
    """Fails if what a token gives is lost on the way through a ticket."""
    grants = read_grants(claim)
    assert msgspec.json.decode(msgspec.json.encode(grants), type=Grants) == grants
