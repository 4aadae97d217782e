"""The rules of one connection, without a loop, a socket or a codec."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.codecs.plain.cursor import format_cursor, stated
from heliograph.errors import BadChannel, BadCursor, ErrorCode
from heliograph.protocol.actions import (
    Action,
    AskHook,
    Authenticate,
    FetchHistory,
    FetchPresence,
    JoinChannel,
    LeaveChannel,
    RefreshToken,
    Reject,
    Reply,
)
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.codes import CloseCode, ErrorNumber
from heliograph.protocol.decision import Allow, Deny, Hook, Rewrite
from heliograph.protocol.events import Connected, Pong, Subscribed, Unsubscribed
from heliograph.protocol.grants import read_grants
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.operations import (
    Connect,
    Emit,
    Incomplete,
    Malformed,
    Operation,
    Ping,
    PingAnswered,
    Publish,
    ReadHistory,
    ReadPresence,
    Refresh,
    Rpc,
    Send,
    Subscribe,
    Unsubscribe,
)
from heliograph.protocol.policy import Policy
from heliograph.protocol.position import Position, Positions
from heliograph.protocol.session import Session

AT = {"#alice": Position("e", 1)}
DATA = msgspec.Raw(b"1")


MOST_CHANNELS = 3


def new_session(*, open_mode: bool = True) -> Session:
    namespaces = Namespaces({"told": Namespace(presence=True), "secret": Namespace(client_subscribe=False)})
    return Session(
        "session-1",
        "replica-1",
        policy=Policy(namespaces, open_mode=open_mode, events=["clicked"]),
        ping_interval_s=25,
        max_channels=MOST_CHANNELS,
    )


def connected_session(*, open_mode: bool = True) -> Session:
    session = new_session(open_mode=open_mode)
    session.receive(Connect(user="alice"))
    session.identified("alice")
    return session


class TestConnecting:
    def test_connect_asks_who_that_is(self) -> None:
        """Fails if the credentials do not reach the driver as they were sent."""
        action = new_session().receive(Connect(token="t", user="u", request_id=1))
        assert action == Authenticate(token="t", user="u")

    @pytest.mark.parametrize("request_id", [None, 0, 7, "x"])
    def test_the_greeting_says_who_where_and_how_to_keep_alive(self, request_id: int | str | None) -> None:
        """Fails if a field of `connected` is wrong, or the request's id is lost (0 is one, too)."""
        session = new_session()
        session.receive(Connect(user="u", request_id=request_id))
        expected = Connected(user="alice", session="session-1", replica="replica-1", positions=AT, ping_s=25)
        if request_id is not None:
            expected = msgspec.structs.replace(expected, request_id=request_id)
        session.identified("alice")
        assert session.greeting(AT) == expected
        assert session.user == "alice"

    @pytest.mark.parametrize("replay", [False, True])
    def test_it_listens_to_its_own_channel_first(self, replay: bool) -> None:
        """Fails if a user does not get what is addressed to them, or what they ask to be replayed."""
        session = new_session()
        session.receive(Connect(user="u", replay=replay))
        assert session.identified("alice") == (JoinChannel("#alice", None, replay, keep=True), [])

    def test_it_goes_on_where_its_cursor_says(self) -> None:
        """Fails if a position is lost or mixed up, or a cursor opens what may not be read."""
        session = new_session()
        positions = {
            "room:1": Position("r", 3),
            "#bob": Position("b", 1),
            "secret:1": Position("s", 1),
            "#alice": Position("a", 7),
        }
        session.receive(Connect(user="alice", since=stated(format_cursor(positions))))
        assert session.identified("alice") == (
            JoinChannel("#alice", Position("a", 7), False, keep=True),
            [JoinChannel("room:1", Position("r", 3), False, keep=True)],
        )
        answer = session.receive(Subscribe("room:1"))
        assert isinstance(answer, Reject), "it is subscribed already"

    @pytest.mark.parametrize("cursor", ["nonsense", "room=e", "room=.5", "#=e.1", "%23=e.1"])
    def test_a_cursor_that_nobody_gave_ends_the_conversation(self, cursor: str) -> None:
        """Fails if a client believes that it goes on somewhere, and does not."""
        session = new_session()
        assert isinstance(session.receive(Connect(user="alice", since=stated(cursor), request_id=3)), Authenticate)
        with pytest.raises((BadCursor, BadChannel)):
            session.identified("alice")
        assert session.user is None
        assert session.connect.request_id == 3

    def test_a_cursor_names_no_more_channels_than_a_connection_may_have(self) -> None:
        """Fails if somebody without an account, or with one, has a replica read a long cursor."""
        most = {f"room:{number}": Position("r", 1) for number in range(MOST_CHANNELS)} | {"#alice": Position("a", 1)}
        session = new_session()
        assert isinstance(session.receive(Connect(user="alice", since=stated(format_cursor(most)))), Authenticate)
        session.identified("alice")
        too_many = format_cursor({**most, "room:x": Position("r", 1)})
        for operation in (
            Subscribe("other", since=stated(too_many)),
            ReadHistory("other", 100, since=stated(too_many)),
        ):
            refused = session.receive(operation)
            assert isinstance(refused, Reject)
            assert (refused.code, refused.close) == (ErrorCode.BAD_REQUEST, None)
        session = new_session()
        assert isinstance(session.receive(Connect(token="x", since=stated(too_many))), Authenticate)
        with pytest.raises(BadCursor, match="more than the 3 channels"):
            session.identified("alice")
        far_too_many = format_cursor({f"room:{number}": Position("r", 1) for number in range(7_300)})
        refused = new_session().receive(Connect(token="x", since=stated(far_too_many), request_id=3))
        assert isinstance(refused, Reject)
        assert (refused.request_id, refused.close) == (3, CloseCode.BAD_REQUEST)

    @pytest.mark.parametrize("identified", [False, True])
    def test_a_second_connect_is_refused_and_costs_nothing_else(self, identified: bool) -> None:
        """Fails if a connection can change its user, or is closed for a mistake that harms nobody."""
        session = new_session()
        session.receive(Connect(user="alice"))
        if identified:
            session.identified("alice")
        action = session.receive(Connect(user="mallory", request_id=9))
        assert isinstance(action, Reject)
        assert (action.code, action.request_id, action.close) == (ErrorCode.BAD_REQUEST, 9, None)
        assert session.user == ("alice" if identified else None)

    @pytest.mark.parametrize("session", [new_session, connected_session])
    def test_a_ping_is_answered_before_and_after(self, session: Callable[[], Session]) -> None:
        """Fails if the sign of life depends on being somebody (S1.3)."""
        assert session().receive(Ping()) == Reply(Pong())
        assert session().receive(Ping(request_id="p")) == Reply(Pong(request_id="p"))


class TestSending:
    def test_before_connect_it_ends_the_conversation(self) -> None:
        """Fails if nobody may speak as somebody, or a client that does not know the protocol is left hanging."""
        for session in (new_session(), new_session()):
            action = session.receive(Send(to="bob", data=DATA, request_id=4))
            assert isinstance(action, Reject)
            assert (action.code, action.request_id) == (ErrorCode.BAD_REQUEST, 4)
            assert action.close == CloseCode.BAD_REQUEST
            assert "connect" in action.message

    def test_after_connect_it_is_routed_as_it_is(self) -> None:
        """Fails if the operation is changed on its way to the router."""
        operation = Send(to="밥", data=DATA, request_id="x", ephemeral=True)
        assert connected_session().receive(operation) is operation

    @pytest.mark.parametrize("user", ["", "x" * 256, "x" * 300, "안" * 86, "a\x00b", "\n", "\x9f"])
    def test_to_nobody_who_could_be_a_user_is_refused(self, user: str) -> None:
        """Fails if an impossible id reaches the router; the connection stays open."""
        action = connected_session().receive(Send(to=user, data=DATA, request_id=1))
        assert isinstance(action, Reject)
        assert (action.code, action.request_id, action.close) == (ErrorCode.BAD_REQUEST, 1, None)
        assert action.message.startswith("'to': a user id")


class TestChannels:
    def test_each_request_comes_out_as_what_to_do(self) -> None:
        """Fails if a channel, a position or an id is lost on the way to the driver."""
        session = connected_session()
        cursor = format_cursor({"room:1": Position("e", 5), "other": Position("f", 6)})
        assert session.receive(Subscribe("room:1", since=stated(cursor), replay=True, request_id=1)) == JoinChannel(
            "room:1", Position("e", 5), True, 1
        )
        publish = Publish("room:1", DATA, request_id=2)
        assert session.receive(publish) is publish
        history = ReadHistory("room:1", 100, since=stated(cursor))
        assert session.receive(history) == FetchHistory(history, Position("e", 5))
        assert session.receive(ReadPresence("told:1", request_id=4)) == FetchPresence("told:1", 4)
        emit = Emit("clicked", DATA, request_id=5)
        assert session.receive(emit) is emit
        refusal = session.receive(Emit("paid", DATA, request_id=5))
        assert isinstance(refusal, Reject)
        assert (refusal.code, refusal.request_id, refusal.close) == (ErrorCode.NOT_ALLOWED, 5, None)
        assert session.receive(Unsubscribe("room:1", request_id=6)) == LeaveChannel(
            "room:1", Unsubscribed("room:1", request_id=6)
        )

    @pytest.mark.parametrize(
        ("operation", "code"),
        [
            (Subscribe("#bob", request_id=1), ErrorCode.NOT_ALLOWED),
            (Subscribe("secret:1", request_id=1), ErrorCode.NOT_ALLOWED),
            (ReadHistory("#bob", 100, request_id=1), ErrorCode.NOT_ALLOWED),
            (ReadHistory("secret:1", 100, request_id=1), ErrorCode.NOT_ALLOWED),
            (ReadPresence("#bob", request_id=1), ErrorCode.NOT_ALLOWED),
            (ReadPresence("room:1", request_id=1), ErrorCode.NOT_ALLOWED),
            (Publish("#bob", DATA, request_id=1), ErrorCode.NOT_ALLOWED),
            (Publish("#alice", DATA, request_id=1), ErrorCode.NOT_ALLOWED),
            (Publish("run:1", DATA, request_id=1), ErrorCode.NOT_ALLOWED),
            (Subscribe("#alice", request_id=1), ErrorCode.BAD_REQUEST),
            (Unsubscribe("#alice", request_id=1), ErrorCode.BAD_REQUEST),
            (Unsubscribe("room:1", request_id=1), ErrorCode.BAD_REQUEST),
            (Rpc("price", DATA, request_id=1), ErrorCode.NOT_AVAILABLE),
        ],
        ids=lambda value: re.sub(" object at 0x[0-9a-f]+", "", repr(value)),
    )
    def test_what_is_not_the_clients_is_refused(self, operation: Operation, code: ErrorCode) -> None:
        """Fails if a client reads or writes what is another's; the connection stays open."""
        action = connected_session().receive(operation)
        assert isinstance(action, Reject)
        assert (action.code, action.request_id, action.close) == (code, 1, None)

    def test_who_may_publish_is_said_by_the_mode(self) -> None:
        """Fails if clients with tokens may publish where nobody has allowed it."""
        action = connected_session(open_mode=False).receive(Publish("room:1", DATA, request_id=1))
        assert isinstance(action, Reject)
        assert (action.code, action.close) == (ErrorCode.NOT_ALLOWED, None)

    def test_who_may_send_is_said_by_the_mode_and_the_token(self) -> None:
        """Fails if clients with tokens may send to users whom nobody has opened to them."""
        session = connected_session(open_mode=False)
        refused = session.receive(Send("bob", DATA, request_id=1))
        assert isinstance(refused, Reject)
        assert (refused.code, refused.request_id, refused.close) == (ErrorCode.NOT_ALLOWED, 1, None)
        session.renewed(read_grants({"#bob": ["send"]}))
        assert session.receive(Send("bob", DATA)) == Send("bob", DATA)
        assert isinstance(session.receive(Send("carol", DATA)), Reject)

    def test_a_connection_has_a_limit_of_channels(self) -> None:
        """Fails if the limit is off by one, or what was left or not joined counts."""
        session = connected_session()
        for number in range(MOST_CHANNELS):
            assert isinstance(session.receive(Subscribe(f"room:{number}")), JoinChannel)
        refused = session.receive(Subscribe("room:9", request_id=9))
        assert isinstance(refused, Reject)
        assert (refused.code, refused.request_id, refused.close) == (ErrorCode.CHANNEL_LIMIT, 9, None)
        session.receive(Unsubscribe("room:0"))
        assert isinstance(session.receive(Subscribe("room:9")), JoinChannel)
        session.not_joined("room:9")
        assert isinstance(session.receive(Subscribe("room:9")), JoinChannel)


ALLOWED, DENIED = Allow(), Deny("the hook says no")
UNKNOWN = Deny("it does not answer", ErrorCode.UNAVAILABLE)
SEND, PUBLISH = Send("bob", DATA, request_id=1), Publish("room:1", DATA, request_id=2)
SUBSCRIBE = Subscribe("room:1", request_id=4)
READ = ReadHistory("room:1", 100, request_id=5)


class TestAFormatWithReplies:
    """What wire formats ask of a session that answer each request, and have errors with numbers."""

    def test_the_greeting_holds_the_subscriptions_that_the_server_makes(self) -> None:
        """Fails if the client is not told of them, or what it names is subscribed otherwise than it wants."""
        session = new_session()
        since = Positions({"#alice": AT["#alice"], "room:1": Position("e", 2)})
        connect = Connect(since=since, request_id=1, has_reply=True, incomplete=Incomplete.SKIP)
        session.receive(connect)
        own, others = session.identified("alice")
        joins = [own, *others]
        assert [(each.channel, each.incomplete) for each in joins if isinstance(each, JoinChannel)] == [
            ("#alice", Incomplete.SKIP),
            ("room:1", Incomplete.SKIP),
        ]
        subscribed = {"#alice": Subscribed("#alice", AT["#alice"], True)}
        greeting = session.greeting({}, subscribed, 60)
        assert (greeting.subscriptions, greeting.expires_in, greeting.request_id) == (subscribed, 60, 1)

    def test_after_a_gap_a_client_subscribes_again_to_what_it_subscribed_to(self) -> None:
        """Fails if it can never come back to the channel, or is taken off one that the server has chosen."""
        session = new_session()
        session.receive(Connect(since=Positions({"room:1": Position("e", 2)}), has_reply=True))
        session.identified("alice")
        session.receive(Subscribe("room:2"))
        assert [session.must_subscribe_again(channel) for channel in ("#alice", "room:1", "room:2", "room:3")] == [
            False,
            False,
            True,
            False,
        ]
        assert isinstance(session.receive(Subscribe("room:2")), JoinChannel)

    def test_an_unsubscription_may_be_repeated(self) -> None:
        """Fails if a client that asks twice takes the answer for a broken connection."""
        answer = connected_session().receive(Unsubscribe("room:1", 3, may_repeat=True))
        assert answer == Reply(Unsubscribed("room:1", 3))

    def test_what_closes_and_what_has_a_number(self) -> None:
        """Fails if the client cannot tell one bad request from another."""
        session = connected_session()
        session.receive(Subscribe("room:1"))
        again = session.receive(Subscribe("room:1"))
        assert isinstance(again, Reject)
        assert (again.number, again.close) == (ErrorNumber.ALREADY_SUBSCRIBED, None)
        for operation in (PingAnswered(), Malformed(ErrorCode.BAD_JSON, "what?", close=CloseCode.BAD_REQUEST)):
            closing = session.receive(operation)
            assert isinstance(closing, Reject)
            assert closing.close == CloseCode.BAD_REQUEST


class TestAHookIsToBeAsked:
    """The session says what it would do, and what instead, before anybody knows the answer."""

    def session(self, *, cursor: str | None = None, channels: Sequence[str] = ()) -> tuple[Session, list[Any]]:
        namespaces = Namespaces({"told": Namespace(presence=True), "#": Namespace(publish_hook=True)})
        policy = Policy(namespaces, open_mode=False, hooks=list(Hook))
        session = Session("s", "replica-1", policy=policy, ping_interval_s=25, max_channels=MOST_CHANNELS)
        session.receive(Connect(since=stated(cursor)))
        _, others = session.identified("alice", channels)
        return session, others

    @pytest.mark.parametrize(
        ("operation", "action"),
        [
            (SEND, SEND),
            (PUBLISH, PUBLISH),
            (SUBSCRIBE, JoinChannel("room:1", None, False, 4)),
            (READ, FetchHistory(READ, None)),
            (ReadPresence("told:1", request_id=6), FetchPresence("told:1", 6)),
        ],
    )
    def test_before_anything_is_done(self, operation: Operation, action: Action) -> None:
        """Fails if a client's operation is carried out, or refused, before the hook has said so."""
        for verdict, expected in (
            (ALLOWED, action),
            (DENIED, Reject(DENIED.code, DENIED.reason, operation.request_id)),
        ):
            session, _ = self.session()
            ask = session.receive(operation)
            assert isinstance(ask, AskHook)
            assert ask.operation is operation
            assert ask.answered(verdict) == expected

    @pytest.mark.parametrize("message", [SEND, PUBLISH], ids=["send", "publish"])
    def test_a_hook_may_say_something_else(self, message: Send | Publish) -> None:
        """Fails if the backend's data do not replace the client's, or are kept against its word."""
        session, _ = self.session()
        ask = session.receive(message)
        assert isinstance(ask, AskHook)
        other = msgspec.Raw(b"2")
        assert ask.answered(Rewrite(other)) == msgspec.structs.replace(message, data=other)
        assert ask.answered(Rewrite(ephemeral=True)) == msgspec.structs.replace(message, ephemeral=True)

    def test_what_a_hook_says_beside_no_reaches_the_client(self) -> None:
        """Fails if the backend's own code is lost, or the connection stays open although the backend closes it."""
        session, _ = self.session()
        ask = session.receive(PUBLISH)
        assert isinstance(ask, AskHook)
        denied = Deny("banned", number=1004, close=4500)
        assert ask.answered(denied) == Reject(ErrorCode.NOT_ALLOWED, "banned", 2, close=4500, number=1004)

    def test_a_hook_may_close_the_connection_whenever_it_is_asked(self) -> None:
        """Fails if a client stays that the backend closes when it comes back, or when it has a new token."""
        banned = Deny("banned", close=4500)
        session, [of_cursor] = self.session(cursor=format_cursor({"room:1": Position("e", 7)}))
        assert of_cursor.answered(banned) == Reject(ErrorCode.NOT_ALLOWED, "banned", close=4500)
        of_cursor.answered(ALLOWED)
        _, [kept] = session.renewed(read_grants([]))
        assert isinstance(kept, AskHook)
        assert kept.answered(banned) == Reject(ErrorCode.NOT_ALLOWED, "banned", close=4500)

    def test_who_is_on_a_channel_may_read_it(self) -> None:
        """Fails if each look at the history of a channel is a call of the backend that let the client on it."""
        session, _ = self.session()
        ask = session.receive(Subscribe("told:1"))
        assert isinstance(ask, AskHook)
        ask.answered(ALLOWED)
        assert isinstance(session.receive(ReadHistory("told:1", 100)), FetchHistory)
        assert isinstance(session.receive(ReadPresence("told:1")), FetchPresence)

    def test_a_backend_that_does_not_answer_is_no_reason_to_go(self) -> None:
        """Fails if a new token takes a client off its channels because the backend is down, or a client that comes
        back is not told that it is on none of them."""
        session, [of_cursor] = self.session(cursor=format_cursor({"room:1": Position("e", 7)}))
        unsaid = of_cursor.answered(UNKNOWN)
        assert isinstance(unsaid, Reject)
        assert (unsaid.code, unsaid.message) == (
            ErrorCode.UNAVAILABLE,
            "not subscribed to 'room:1': it does not answer",
        )
        of_cursor.answered(ALLOWED)
        _, [kept] = session.renewed(read_grants([]))
        assert isinstance(kept, AskHook)
        assert kept.answered(UNKNOWN) is None
        assert session.wants("room:1")

    def test_a_refusal_leaves_nothing_behind(self) -> None:
        """Fails if a channel that was refused counts as one, or the limit is not looked at behind the hook."""
        session, _ = self.session()
        for number in range(MOST_CHANNELS + 1):
            ask = session.receive(Subscribe(f"no:{number}"))
            assert isinstance(ask, AskHook)
            ask.answered(DENIED)
        for number in range(MOST_CHANNELS + 1):
            ask = session.receive(Subscribe(f"room:{number}"))
            assert isinstance(ask, AskHook)
            is_last = number == MOST_CHANNELS
            assert isinstance(ask.answered(ALLOWED), Reject if is_last else JoinChannel)

    def test_one_url_does_not_make_thousands_of_calls(self) -> None:
        """Fails if a client has the backend asked about more channels than it may be on."""
        _, others = self.session(channels=[f"room:{number}" for number in range(1000)])
        assert sum(isinstance(each, AskHook) for each in others) == MOST_CHANNELS
        assert {each.code for each in others if isinstance(each, Reject)} == {ErrorCode.CHANNEL_LIMIT}

    def test_a_client_that_comes_back_hears_of_what_it_named_alone(self) -> None:
        """Fails if a channel of a cursor that a hook refuses makes an error, or one that was asked for makes none."""
        cursor = format_cursor({"room:1": Position("e", 7)})
        _, [of_cursor, of_url] = self.session(cursor=cursor, channels=["room:2"])
        assert of_url.answered(DENIED) == Reject(DENIED.code, DENIED.reason)
        assert of_cursor.answered(DENIED) is None
        assert of_cursor.answered(ALLOWED) == JoinChannel("room:1", Position("e", 7), False, keep=True)

    def test_a_new_token_has_the_hooks_asked_again(self) -> None:
        """Fails if a client stays on a channel that the hook closes to its new token, or leaves another."""
        session, _ = self.session()
        for channel in ("room:1", "room:2"):
            ask = session.receive(Subscribe(channel))
            assert isinstance(ask, AskHook)
            ask.answered(ALLOWED)
        lost, [first, second] = session.renewed(read_grants([]))
        assert lost == []
        assert isinstance(first, AskHook)
        assert isinstance(second, AskHook)
        left = first.answered(DENIED)
        assert isinstance(left, LeaveChannel)
        assert not session.wants(left.channel)
        assert second.answered(ALLOWED) is None
        assert session.wants({"room:1": "room:2", "room:2": "room:1"}[left.channel])


ids = st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=128)
channels = st.sampled_from(["room:1", "room:2", "told:1", "secret:1", "#alice", "#bob", "#", ""]) | st.text()
cursors = st.builds(
    stated, st.none() | st.text() | st.builds(lambda name: format_cursor({name: Position("e", 1)}), channels)
)
operations = st.one_of(
    st.builds(Connect, token=st.none() | st.text(), user=st.none() | st.text(), request_id=ids),
    st.builds(Send, to=st.text(max_size=300), data=st.just(DATA), request_id=ids, ephemeral=st.booleans()),
    st.builds(Ping, request_id=ids),
    st.builds(Subscribe, channel=channels, since=cursors, replay=st.booleans(), request_id=ids),
    st.builds(Unsubscribe, channel=channels, request_id=ids),
    st.builds(Publish, channel=channels, data=st.just(DATA), request_id=ids),
    st.builds(ReadHistory, channel=channels, limit=st.integers(1, 1000), since=cursors, request_id=ids),
    st.builds(ReadPresence, channel=channels, request_id=ids),
    st.builds(Refresh, token=st.text(), request_id=ids),
    st.builds(Rpc, method=st.text(), data=st.just(DATA), request_id=ids),
    st.builds(Emit, event=st.text(min_size=1, max_size=128), data=st.just(DATA), request_id=ids),
)


@settings(deadline=None)
@given(st.lists(st.tuples(operations, st.booleans())), st.booleans())
def test_no_sequence_breaks_the_rules(steps: list[tuple[Operation, bool]], open_mode: bool) -> None:
    """Fails if some sequence raises, routes before the client is identified, or asks twice who the client is.

    The boolean says whether the driver has found out who it is before the next operation.
    """
    session = new_session(open_mode=open_mode)
    asked = identified = False
    listening: set[str] = set()
    for operation, find_out in steps:
        action: Action = session.receive(operation)
        match action:
            case Send() | Publish() | Emit():
                assert identified
                assert action is operation
            case Authenticate():
                assert isinstance(operation, Connect)
                assert not asked
                asked = True
            case RefreshToken():
                assert identified
                assert isinstance(operation, Refresh)
                assert not open_mode
            case FetchHistory(done, _):
                assert identified
                assert done is operation
            case JoinChannel(channel=channel):
                assert identified
                assert isinstance(operation, Subscribe)
                assert channel not in listening
                listening.add(channel)
                assert len(listening) <= MOST_CHANNELS
            case LeaveChannel(channel=channel):
                assert identified
                assert isinstance(operation, Unsubscribe)
                listening.remove(channel)
            case FetchPresence():
                assert identified
                assert isinstance(operation, ReadPresence)
            case AskHook():
                pytest.fail("there is no hook")
            case Reply():
                assert isinstance(operation, Ping)
            case Reject(close=close, request_id=request_id):
                assert not isinstance(operation, Ping)
                assert request_id == operation.request_id
                assert (close is not None) == (not isinstance(operation, Connect) and not identified)
        if asked and not identified and find_out:
            try:
                session.identified("alice")
            except (BadCursor, BadChannel):
                return
            identified = True
    assert session.user == ("alice" if identified else None)
