"""Subscription tokens, as the session sees them: without a loop, a socket or a key."""

from typing import Any

from heliograph.errors import ErrorCode
from heliograph.protocol.actions import CheckPermit, ExtendSubscription, FetchHistory, JoinChannel, Reject
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.decision import Hook
from heliograph.protocol.grants import NO_GRANTS, Permit, read_grants
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.operations import Connect, ReadHistory, RefreshSubscription, Subscribe, Unsubscribe
from heliograph.protocol.policy import Policy
from heliograph.protocol.position import Position, Positions
from heliograph.protocol.session import Session
from heliograph.protocol.subscription import SubscribeOptions

PERMIT = Permit("alice", "vip:1", b'{"seat":7}', 1000.0)


def session_of_alice(*, open_mode: bool = False, with_hooks: bool = False) -> Session:
    namespaces = Namespaces({"vip": Namespace(client_subscribe=False)})
    policy = Policy(namespaces, open_mode=open_mode, hooks=[Hook.SUBSCRIBE] if with_hooks else ())
    session = Session("s", "r", policy=policy, ping_interval_s=25, max_channels=3)
    session.receive(Connect())
    session.identified("alice")
    return session


def subscribed(session: Session, permit: Permit = PERMIT) -> JoinChannel:
    action = session.receive(Subscribe(permit.channel, token="t", request_id=1))
    assert isinstance(action, CheckPermit)
    joins = action.permitted(permit)
    assert isinstance(joins, JoinChannel)
    return joins


def test_a_token_opens_its_channel() -> None:
    """Fails if the token is not checked, a hook is asked, or its info, its end or the client's position is lost."""
    session = session_of_alice(with_hooks=True)
    since = Positions({"vip:1": Position("e", 4)})
    action = session.receive(Subscribe("vip:1", since, token="t", request_id=1, join_leave=True, delta="fossil"))
    assert isinstance(action, CheckPermit)
    assert (action.token, action.channel, action.request_id) == ("t", "vip:1", 1)
    options = SubscribeOptions(b'{"seat":7}', 1000.0, True, "fossil")
    assert action.permitted(PERMIT) == JoinChannel("vip:1", Position("e", 4), False, 1, options=options)
    assert isinstance(session.receive(ReadHistory("vip:1", 1)), FetchHistory)


def test_it_opens_nothing_after_the_client_has_left() -> None:
    """Fails if the right outlives the subscription for which the token was shown."""
    session = session_of_alice()
    leave: list[Any] = [
        lambda: session.receive(Unsubscribe("vip:1")),
        lambda: session.unsubscribed_by_server("vip:1"),
        lambda: session.not_joined("vip:1"),
    ]
    for each in leave:
        subscribed(session)
        assert isinstance(session.receive(ReadHistory("vip:1", 1)), FetchHistory)
        each()
        for operation in (ReadHistory("vip:1", 1), Subscribe("vip:1")):
            refused = session.receive(operation)
            assert isinstance(refused, Reject)
            assert refused.code is ErrorCode.NOT_ALLOWED


def test_a_new_token_of_the_connection_leaves_it() -> None:
    """Fails if a refreshed connection loses the channels that their own tokens opened, or keeps the others."""
    session = session_of_alice()
    session.renewed(read_grants({"vip:2": ["subscribe"]}))
    assert isinstance(session.receive(Subscribe("vip:2")), JoinChannel)
    subscribed(session)
    assert session.renewed(NO_GRANTS) == (["vip:2"], [])
    assert session.wants("vip:1")
    assert isinstance(session.receive(ReadHistory("vip:1", 1)), FetchHistory)


def test_another_users_own_channel_stays_theirs() -> None:
    """Fails if a subscription token is even looked at for a personal channel."""
    refused = session_of_alice().receive(Subscribe("#bob", token="t"))
    assert isinstance(refused, Reject)
    assert refused.code is ErrorCode.NOT_ALLOWED


def test_open_mode_reads_no_tokens() -> None:
    """Fails if open mode asks for what it has no key for, or a token opens what a namespace closes to everybody."""
    session = session_of_alice(open_mode=True)
    assert isinstance(session.receive(Subscribe("news", token="t")), JoinChannel)
    assert isinstance(session.receive(Subscribe("vip:1", token="t")), Reject)
    assert isinstance(session.receive(RefreshSubscription("news", "t")), Reject)


def test_the_limits_hold_with_a_token_too() -> None:
    """Fails if a token lets a client on one channel twice, or on more channels than others."""
    session = session_of_alice()
    subscribed(session)
    twice = session.receive(Subscribe("vip:1", token="t"))
    assert isinstance(twice, CheckPermit)
    assert isinstance(twice.permitted(PERMIT), Reject)
    for number in (2, 3):
        subscribed(session, Permit("alice", f"vip:{number}"))
    fourth = session.receive(Subscribe("vip:4", token="t"))
    assert isinstance(fourth, CheckPermit)
    refused = fourth.permitted(Permit("alice", "vip:4"))
    assert isinstance(refused, Reject)
    assert refused.code is ErrorCode.CHANNEL_LIMIT
    assert isinstance(session.receive(ReadHistory("vip:4", 1)), Reject), "what was refused gives no right"


def test_a_subscription_is_refreshed() -> None:
    """Fails if the new end does not count, or a client refreshes what it is not on (any more)."""
    session = session_of_alice()
    assert isinstance(session.receive(RefreshSubscription("vip:1", "t")), Reject)
    subscribed(session)
    action = session.receive(RefreshSubscription("vip:1", "u", request_id=2))
    assert isinstance(action, CheckPermit)
    assert (action.token, action.channel, action.request_id) == ("u", "vip:1", 2)
    assert action.permitted(Permit("alice", "vip:1", None, 2000.0)) == ExtendSubscription("vip:1", 2000.0, 2)
    session.receive(Unsubscribe("vip:1"))
    assert isinstance(action.permitted(PERMIT), Reject)


def test_what_a_token_says_of_the_client_at_once() -> None:
    """Fails if the info of a channel in `subs` does not come with the subscription."""
    session = Session("s", "r", policy=Policy(Namespaces(), open_mode=False), ping_interval_s=25, max_channels=3)
    session.receive(Connect())
    grants = read_grants(["news"])
    grants = grants.joined_with(type(grants)(("vip",), (("vip", grants.rules[0][1]),), (("vip", b"7"),)))
    _, others = session.identified("alice", grants=grants)
    infos = {each.channel: each.options.info for each in others if isinstance(each, JoinChannel)}
    assert infos == {"news": None, "vip": b"7"}
