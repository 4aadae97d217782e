"""The rules of one connection, without a loop, a socket or a codec."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ErrorCode
from app.protocol.codes import CloseCode
from app.protocol.events import Connected, Pong
from app.protocol.operations import Connect, Operation, Ping, Send
from app.protocol.session import Action, Answer, Authenticate, Refuse, Route, Session

DATA = msgspec.Raw(b"1")


def new_session() -> Session:
    return Session("session-1", "replica-1", 25)


def connected_session() -> Session:
    session = new_session()
    session.receive(Connect(user="alice"))
    session.identified("alice")
    return session


class TestConnecting:
    def test_connect_asks_who_that_is(self) -> None:
        """Fails if the credentials do not reach the driver as they were sent."""
        action = new_session().receive(Connect(token="t", user="u", id=1))
        assert action == Authenticate(token="t", user="u")

    @pytest.mark.parametrize("request_id", [None, 0, 7, "x"])
    def test_the_greeting_says_who_where_and_how_to_keep_alive(self, request_id: int | str | None) -> None:
        """Fails if a field of `connected` is wrong, or the request's id is lost (0 is one, too)."""
        session = new_session()
        session.receive(Connect(user="u", id=request_id))
        expected = Connected(user="alice", session="session-1", replica="replica-1", cursor="", ping=25)
        if request_id is not None:
            expected = msgspec.structs.replace(expected, id=request_id)
        assert session.identified("alice") == expected
        assert session.user == "alice"

    @pytest.mark.parametrize("identified", [False, True])
    def test_a_second_connect_is_refused_and_costs_nothing_else(self, identified: bool) -> None:
        """Fails if a connection can change its user, or is closed for a mistake that harms nobody."""
        session = new_session()
        session.receive(Connect(user="alice"))
        if identified:
            session.identified("alice")
        action = session.receive(Connect(user="mallory", id=9))
        assert isinstance(action, Refuse)
        assert (action.code, action.request_id, action.close) == (ErrorCode.BAD_REQUEST, 9, None)
        assert session.user == ("alice" if identified else None)

    @pytest.mark.parametrize("session", [new_session, connected_session])
    def test_a_ping_is_answered_before_and_after(self, session: Callable[[], Session]) -> None:
        """Fails if the sign of life depends on being somebody (S1.3)."""
        assert session().receive(Ping()) == Answer(Pong())
        assert session().receive(Ping(id="p")) == Answer(Pong(id="p"))


class TestSending:
    def test_before_connect_it_ends_the_conversation(self) -> None:
        """Fails if nobody may speak as somebody, or a client that does not know the protocol is left hanging."""
        for session in (new_session(), new_session()):
            action = session.receive(Send(to="bob", data=DATA, id=4))
            assert isinstance(action, Refuse)
            assert (action.code, action.request_id) == (ErrorCode.BAD_REQUEST, 4)
            assert action.close is CloseCode.BAD_REQUEST
            assert "connect" in action.message

    def test_after_connect_it_is_routed_as_it_is(self) -> None:
        """Fails if the operation is changed on its way to the router."""
        operation = Send(to="밥", data=DATA, id="x", ephemeral=True)
        assert connected_session().receive(operation) == Route(operation)

    @pytest.mark.parametrize("user", ["", "x" * 256, "x" * 300, "안" * 86, "a\x00b", "\n", "\x9f"])
    def test_to_nobody_who_could_be_a_user_is_refused(self, user: str) -> None:
        """Fails if an impossible id reaches the router; the connection stays open."""
        action = connected_session().receive(Send(to=user, data=DATA, id=1))
        assert isinstance(action, Refuse)
        assert (action.code, action.request_id, action.close) == (ErrorCode.BAD_REQUEST, 1, None)
        assert action.message.startswith("'to': a user id")


ids = st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=128)
operations = st.one_of(
    st.builds(Connect, token=st.none() | st.text(), user=st.none() | st.text(), id=ids),
    st.builds(Send, to=st.text(max_size=300), data=st.just(DATA), id=ids, ephemeral=st.booleans()),
    st.builds(Ping, id=ids),
)


@settings(deadline=None)
@given(st.lists(st.tuples(operations, st.booleans())))
def test_no_sequence_breaks_the_rules(steps: list[tuple[Operation, bool]]) -> None:
    """Fails if some sequence raises, routes before the client is identified, or asks twice who the client is.

    The boolean says whether the driver has found out who it is before the next operation.
    """
    session = new_session()
    asked = identified = False
    for operation, find_out in steps:
        action: Action = session.receive(operation)
        match action:
            case Route(routed):
                assert identified
                assert routed is operation
            case Authenticate():
                assert isinstance(operation, Connect)
                assert not asked
                asked = True
            case Answer():
                assert isinstance(operation, Ping)
            case Refuse(close=close, request_id=request_id):
                assert not isinstance(operation, Ping)
                assert request_id == operation.id
                assert (close is not None) == (isinstance(operation, Send) and not identified)
        if asked and not identified and find_out:
            session.identified("alice")
            identified = True
    assert session.user == ("alice" if identified else None)
