"""What a client makes of the frames it gets, without a connection."""

import itertools
from typing import Any

import pytest

from heliograph.client.connection.dispatcher import Action, AskAgain, Deliver, Dispatcher, Report, Send
from heliograph.client.connection.events import (
    ChannelEvent,
    Lost,
    Message,
    RunProgress,
    RunState,
    Subscribed,
    SubscriptionRefused,
    Unsubscribed,
)
from heliograph.codecs.plain.cursor import cursor_of, parse_cursor
from heliograph.protocol.position import Position


class Heard:
    """A dispatcher whose connections and frames the test makes up."""

    def __init__(self, *, user: str | None = "alice", cursor: str = "", replay: bool = False) -> None:
        self._ids = itertools.count(1)
        start = parse_cursor(cursor)
        self.dispatcher = Dispatcher(lambda: str(next(self._ids)), user=user, start=start, replay=replay)
        self.events: list[ChannelEvent] = []
        self.others: list[Action] = []

    def connect(self, number: int, *, socket: bool = True, user: str = "alice", cursor: str = "") -> None:
        self.dispatcher.open(number, is_socket=socket)
        self.dispatcher.place(number)
        self._keep(self.dispatcher.connected(number, user, f"replica-{number}", cursor))

    def want(self, name: str, *, replay: bool = False, position: Position | None = None) -> None:
        self.dispatcher.want(name, position=position, replay=replay)

    def asked(self, number: int) -> list[tuple[str, str | None]]:
        """What the socket subscribes to, with which cursor."""
        frames = self.dispatcher.sync(number)
        self.last_id = frames[-1]["id"] if frames else None
        return [(frame["channel"], frame.get("cursor")) for frame in frames if frame["type"] == "subscribe"]

    def subscribe(self, number: int, name: str, at: tuple[str, int], *, recovered: bool = False) -> None:
        """The socket asks for a channel, and gets it."""
        frames = self.dispatcher.sync(number)
        request_id = next(frame["id"] for frame in frames if frame["channel"] == name)
        self.say(number, "subscribed", channel=name, cursor=_cursor(name, at), recovered=recovered, id=request_id)

    def say(self, number: int, kind: str, **fields: Any) -> None:
        self._keep(self.dispatcher.receive(number, {"type": kind, **fields}))

    def message(self, number: int, name: str, at: tuple[str, int] | None, data: Any = None) -> None:
        fields = {
            "channel": name,
            "data": data,
            "message_id": f"{name}{at or data}",
            "sent_at": "2026-01-01T00:00:00Z",
        }
        if at is not None:
            fields["cursor"] = _cursor(name, at)
        self.say(number, "message", **fields)

    @property
    def told(self) -> list[Any]:
        """Data of messages, and `lost`."""
        kinds = (Message, Lost)
        return [each.data if isinstance(each, Message) else "lost" for each in self.events if isinstance(each, kinds)]

    def _keep(self, actions: list[Action]) -> None:
        self.events += [action.event for action in actions if isinstance(action, Deliver)]
        self.others += [action for action in actions if not isinstance(action, Deliver)]


def _cursor(name: str, at: tuple[str, int]) -> str:
    return cursor_of(name, Position(*at))


def test_it_goes_on_from_the_newest_position_on_another_connection() -> None:
    """Fails if a reconnect loses or repeats messages, or asks for them from the wrong place."""
    heard = Heard()
    heard.want("뉴스")
    heard.connect(1)
    assert heard.asked(1) == [("뉴스", None)]
    heard.say(1, "subscribed", channel="뉴스", cursor=_cursor("뉴스", ("e", 4)), recovered=False, id=heard.last_id)
    heard.message(1, "뉴스", ("e", 5), "five")
    heard.message(1, "#alice", ("u", 1), "mine")
    heard.dispatcher.closed(1)
    heard.dispatcher.open(2, is_socket=True)
    assert heard.dispatcher.place(2).cursor == _cursor("#alice", ("u", 1))
    heard.dispatcher.connected(2, "alice", "replica-2", "")
    assert heard.asked(2) == [("뉴스", _cursor("뉴스", ("e", 5)))]
    heard.say(2, "subscribed", channel="뉴스", cursor=_cursor("뉴스", ("e", 5)), recovered=True, id=heard.last_id)
    heard.message(2, "뉴스", ("e", 5), "five again")
    heard.message(2, "뉴스", ("e", 6), "six")
    assert heard.told == ["five", "mine", "six"]
    assert isinstance(heard.events[-1], Message)
    assert heard.events[-1].delivered_by == "replica-2"


def test_two_connections_bring_the_same_once() -> None:
    """Fails if a message comes twice, or is left out, while one connection replaces another."""
    heard = Heard()
    heard.want("news")
    heard.connect(1)
    heard.subscribe(1, "news", ("e", 0))
    heard.message(1, "news", ("e", 1), 1)
    heard.connect(2)
    assert heard.asked(2) == [("news", _cursor("news", ("e", 1)))]
    assert not heard.dispatcher.settled(2)
    heard.message(1, "news", ("e", 2), 2)
    heard.message(1, "news", None, "ephemeral")
    heard.say(2, "subscribed", channel="news", cursor=_cursor("news", ("e", 1)), recovered=True, id=heard.last_id)
    assert heard.dispatcher.settled(2)
    for position, data in ((("e", 2), 2), (None, "ephemeral"), (("e", 3), 3)):
        heard.message(2, "news", position, data)
    heard.message(1, "news", ("e", 3), 3)
    assert heard.told == [1, 2, "ephemeral", 3]


@pytest.mark.parametrize("channel", ["news", "#alice"])
def test_a_loss_is_told_and_only_then(channel: str) -> None:
    """Fails if a gap is passed over, whether the server tells of it or not; or told where nothing is missing."""
    heard = Heard(cursor=_cursor("#alice", ("e", 7)))
    if channel == "news":
        heard.want("news")
    heard.connect(1)
    if channel == "news":
        heard.subscribe(1, "news", ("e", 7))
    heard.message(1, channel, ("e", 8), 8)
    for at in (("e", 8), ("f", 0), ("f", 30)):
        heard.say(1, "subscribed", channel=channel, cursor=_cursor(channel, at), recovered=False)
    heard.message(1, channel, ("f", 31), 31)
    heard.message(1, channel, ("f", 33), 33)
    heard.message(1, channel, ("g", 1), "g1")
    assert heard.told == [8, "lost", "lost", 31, "lost", 33, "lost", "g1"]
    assert [each.after_loss for each in heard.events if isinstance(each, Message)] == [False, False, True, True]
    if channel == "news":
        subscribed = [each for each in heard.events if isinstance(each, Subscribed)]
        assert [(each.anew, each.lost) for each in subscribed] == [
            (True, False),
            (False, False),
            (False, True),
            (False, True),
        ]


def test_a_connection_that_never_knew_its_place_says_so_when_it_is_replaced() -> None:
    """Fails if messages that came while Redis was away are passed over in silence."""
    heard = Heard()
    heard.connect(1, cursor="")
    heard.dispatcher.closed(1)
    heard.connect(2, cursor=_cursor("#alice", ("u", 4)))
    assert heard.told == ["lost"]


def test_where_it_begins() -> None:
    """Fails if a kept cursor, or the wish for a replay, is not what the first connection begins with."""
    heard = Heard(cursor=f"{_cursor('#alice', ('u', 3))}&{_cursor('news', ('e', 5))}", replay=True)
    heard.want("news", position=Position("e", 5))
    heard.want("logs:1", replay=True)
    heard.dispatcher.open(1, is_socket=False)
    place = heard.dispatcher.place(1)
    assert place.channels == ("news", "logs:1")
    assert place.cursor == f"{_cursor('#alice', ('u', 3))}&{_cursor('news', ('e', 5))}&logs%3A1=0.0"
    assert not place.replay
    token = Heard(user=None, cursor=_cursor("#alice", ("u", 3)))
    token.dispatcher.open(1, is_socket=True)
    assert token.dispatcher.place(1).cursor == _cursor("#alice", ("u", 3))
    fresh = Heard(replay=True)
    fresh.dispatcher.open(1, is_socket=True)
    assert fresh.dispatcher.place(1).replay


def test_another_user_begins_anew() -> None:
    """Fails if the positions of one user are used for another."""
    heard = Heard(user=None)
    heard.want("news")
    heard.connect(1)
    heard.subscribe(1, "news", ("e", 3))
    heard.message(1, "#alice", ("u", 9), "for alice")
    heard.connect(2, user="bob", cursor=_cursor("#bob", ("b", 1)))
    assert heard.asked(2) == [("news", None)]
    heard.message(2, "#bob", ("b", 2), "for bob")
    heard.message(2, "#alice", ("u", 10), "not his")
    assert heard.told == ["for alice", "for bob"]


def test_what_is_left_and_wanted_again_costs_nothing() -> None:
    """Fails if frames are sent for what cancels out, or what is left is still delivered."""
    heard = Heard()
    heard.want("news")
    heard.connect(1)
    heard.subscribe(1, "news", ("e", 0))
    heard.dispatcher.release("news")
    heard.want("news")
    assert heard.asked(1) == []
    heard.dispatcher.release("news")
    frames = heard.dispatcher.sync(1)
    assert [frame["type"] for frame in frames] == ["unsubscribe"]
    heard.say(1, "unsubscribed", channel="news", id=frames[0]["id"])
    heard.message(1, "news", ("e", 1), "late")
    assert heard.told == []


def test_a_refusal_reaches_its_channel_and_is_repeated_only_where_that_may_help() -> None:
    """Fails if one channel's refusal is lost, told of another, or asked for again for ever."""
    heard = Heard()
    heard.want("secret")
    heard.connect(1)
    heard.asked(1)
    heard.say(1, "error", code="unavailable", message="Redis is away", id=heard.last_id)
    assert heard.others == [AskAgain(1, "secret")]
    assert heard.asked(1) == []
    frames = heard.dispatcher.ask_again(1, "secret")
    heard.say(1, "error", code="not_allowed", message="not yours", id=frames[0]["id"])
    assert [type(event) for event in heard.events] == [SubscriptionRefused]
    assert heard.asked(1) == []
    heard.want("secret")
    assert heard.asked(1) == [("secret", None)]
    heard.say(1, "error", code="rate_limited", message="too fast")
    report = heard.others[-1]
    assert isinstance(report, Report)
    assert report.error.code == "rate_limited"


def test_a_channel_that_the_token_has_subscribed_to_comes_from_the_clients_position() -> None:
    """Fails if a token that names a channel makes it unusable, loses messages, or the client asks for ever."""
    heard = Heard()
    heard.want("news", position=Position("e", 3))
    heard.connect(1)
    assert heard.asked(1) == [("news", _cursor("news", ("e", 3)))]
    heard.say(1, "subscribed", channel="news", cursor=_cursor("news", ("e", 5)), recovered=False)
    heard.message(1, "news", ("e", 6), "too early")
    heard.say(1, "error", code="bad_request", message="subscribed to 'news' already", id=heard.last_id)
    sent = heard.others.pop()
    assert isinstance(sent, Send)
    assert [(frame["type"], frame.get("cursor")) for frame in sent.frames] == [
        ("unsubscribe", None),
        ("subscribe", _cursor("news", ("e", 3))),
    ]
    left, asked = (frame["id"] for frame in sent.frames)
    heard.say(1, "unsubscribed", channel="news", id=left)
    heard.say(1, "subscribed", channel="news", cursor=_cursor("news", ("e", 3)), recovered=True, id=asked)
    for offset in (4, 5, 6):
        heard.message(1, "news", ("e", offset), offset)
    assert heard.told == [4, 5, 6]
    again = Heard()
    again.want("news")
    again.connect(1)
    again.asked(1)
    again.say(1, "error", code="bad_request", message="no", id=again.last_id)
    sent = again.others.pop()
    assert isinstance(sent, Send)
    again.say(1, "error", code="bad_request", message="no", id=sent.frames[1]["id"])
    assert [type(event) for event in again.events] == [SubscriptionRefused]


def test_over_http_a_refused_channel_costs_the_others_nothing() -> None:
    """Fails if one channel that is not given keeps the others from coming."""
    heard = Heard()
    for name in ("news", "secret"):
        heard.want(name)
    heard.dispatcher.open(1, is_socket=False)
    heard.dispatcher.place(1)
    assert heard.dispatcher.blame(1, "unavailable", "Redis is away") == []
    blamed = heard.dispatcher.blame(1, "not_allowed", "you may not listen to 'secret'")
    assert [action.event.channel for action in blamed if isinstance(action, Deliver)] == ["secret"]
    heard.dispatcher.open(2, is_socket=False)
    assert heard.dispatcher.place(2).channels == ("news",)


def test_a_run_counts_from_the_connection_that_gave_its_state() -> None:
    """Fails if an old connection sets a run back, or runs are mixed up."""
    heard = Heard()
    heard.want("run:1")
    heard.want("run:2")
    heard.connect(1)
    frames = {frame["channel"]: frame["id"] for frame in heard.dispatcher.sync(1)}
    for name, request_id in frames.items():
        heard.say(1, "subscribed", channel=name, cursor=_cursor(name, ("e", 3)), recovered=True, id=request_id)
        heard.say(1, "initial_state", state="RUNNING", progress=1, logs=[name])
    heard.say(1, "progress", run_id="2", state="RUNNING", progress=2, message="two")
    heard.connect(2)
    frames = {frame["channel"]: frame["id"] for frame in heard.dispatcher.sync(2)}
    heard.say(2, "subscribed", channel="run:2", cursor=_cursor("run:2", ("e", 4)), recovered=True, id=frames["run:2"])
    heard.say(2, "initial_state", state="RUNNING", progress=3, logs=["run:2", "two", "three"])
    heard.say(1, "progress", run_id="2", state="RUNNING", progress=3, message="three")
    heard.say(2, "progress", run_id="2", state="END", progress=4, message=None)
    states = [event for event in heard.events if isinstance(event, RunState)]
    assert [(each.channel, each.logs) for each in states] == [
        ("run:1", ("run:1",)),
        ("run:2", ("run:2",)),
        ("run:2", ("run:2", "two", "three")),
    ]
    updates = [event for event in heard.events if isinstance(event, RunProgress)]
    assert [(each.channel, each.progress) for each in updates] == [("run:2", 2), ("run:2", 4)]


def test_what_the_server_ends_stays_ended_until_it_is_asked_for_again() -> None:
    """Fails if a client comes back at once to a channel that it was taken off."""
    heard = Heard()
    heard.want("news")
    heard.connect(1)
    heard.subscribe(1, "news", ("e", 0))
    heard.say(1, "unsubscribed", channel="news")
    assert isinstance(heard.events[-1], Unsubscribed)
    assert heard.asked(1) == []
    heard.want("news")
    assert heard.asked(1) == [("news", _cursor("news", ("e", 0)))]


@pytest.mark.parametrize("channel", ["news", "#alice"])
def test_what_nobody_takes_is_left_and_goes_on_from_its_place(channel: str) -> None:
    """Fails if a slow reader loses messages, or an old connection brings later ones before those it has missed."""
    heard = Heard(cursor=_cursor("#alice", ("e", 0)))
    if channel == "news":
        heard.want("news", position=Position("e", 0))
    heard.connect(1)
    if channel == "news":
        heard.subscribe(1, "news", ("e", 0), recovered=True)
    heard.message(1, channel, ("e", 1), 1)
    heard.dispatcher.pause(channel)
    left = heard.dispatcher.sync(1)
    assert [frame["type"] for frame in left] == (["unsubscribe"] if channel == "news" else [])
    heard.message(1, channel, ("e", 2), 2)
    assert heard.dispatcher.is_in_line(1)
    heard.dispatcher.resume(channel)
    assert heard.dispatcher.is_in_line(1) == (channel == "news")
    if channel == "news":
        heard.subscribe(1, "news", ("e", 1), recovered=True)
        number = 1
    else:
        heard.connect(2, cursor=_cursor("#alice", ("e", 1)))
        number = 2
        heard.message(1, channel, ("e", 3), 3)
    for offset in (2, 3):
        heard.message(number, channel, ("e", offset), offset)
    assert heard.told == [1, 2, 3]


def test_what_it_does_not_know_is_ignored() -> None:
    """Fails if a newer server's frames break an older client."""
    heard = Heard()
    heard.connect(1)
    heard.say(1, "fireworks", colour="green")
    heard.message(1, "elsewhere", ("e", 1), "stray")
    assert heard.events == []
    assert heard.others == []
