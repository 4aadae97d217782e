"""Who may do what, in both modes."""

from typing import Any

import pytest

from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.decision import ALLOW, ASK, Decision, Deny, Hook
from heliograph.protocol.grants import NO_GRANTS, Grants, read_grants
from heliograph.protocol.namespace import BUILT_IN, Namespaces
from heliograph.protocol.policy import Policy

NAMES = ("news", "orders:acme", "logs:101", "run:7", "chat:1", "#bob")


def policy(*, open_mode: bool = False, **namespaces: Namespace) -> Policy:
    return Policy(
        Namespaces({name.replace("personal", "#"): each for name, each in namespaces.items()}), open_mode=open_mode
    )


def reads(rules: Policy, grants: Grants, channel: str) -> bool:
    """To subscribe and to read the history are one right."""
    may = rules.decide_subscribe("alice", grants, channel) is ALLOW
    assert (rules.decide_history("alice", grants, channel) is ALLOW) == may
    return may


def sees_presence(rules: Policy, grants: Grants, channel: str) -> bool:
    return rules.decide_presence("alice", grants, channel) is ALLOW


def publishes(rules: Policy, grants: Grants, channel: str) -> bool:
    return rules.decide_publish("alice", grants, channel) is ALLOW


def sends(rules: Policy, grants: Grants, to: str) -> bool:
    return rules.decide_send("alice", grants, to) is ALLOW


@pytest.mark.parametrize("channel", NAMES)
def test_in_jwt_mode_nothing_is_open_by_itself(channel: str) -> None:
    """Fails if a client whose token gives nothing may read, write or send anywhere but read its own channel."""
    rules = policy()
    assert not reads(rules, NO_GRANTS, channel)
    assert not sees_presence(rules, NO_GRANTS, channel)
    assert not publishes(rules, NO_GRANTS, channel)
    assert not sends(rules, NO_GRANTS, "bob")
    assert reads(rules, NO_GRANTS, "#alice")


def test_a_token_for_one_channel_opens_no_other() -> None:
    """Fails if a right on one channel is one on another, or on what is addressed to users."""
    grants = read_grants(["news"])
    assert [name for name in NAMES if reads(policy(), grants, name)] == ["news"]


def test_a_namespace_opens_for_everybody() -> None:
    """Fails if an option opens another thing, or another namespace, than it says."""
    rules = policy(logs=Namespace(client_subscribe=True), orders=Namespace(client_publish=True))
    assert [name for name in NAMES if reads(rules, NO_GRANTS, name)] == ["logs:101"]
    assert [name for name in NAMES if sees_presence(rules, NO_GRANTS, name)] == ["logs:101"]
    assert [name for name in NAMES if publishes(rules, NO_GRANTS, name)] == ["orders:acme"]


def test_open_mode_is_open_where_no_namespace_closes() -> None:
    """Fails if development needs rights, or a namespace cannot be closed in it."""
    rules = policy(open_mode=True, chat=Namespace(client_subscribe=False, client_publish=False))
    assert [name for name in NAMES if not reads(rules, NO_GRANTS, name)] == ["chat:1", "#bob"]
    closed = [name for name in NAMES if not publishes(rules, NO_GRANTS, name)]
    assert closed == ["logs:101", "run:7", "chat:1", "#bob"], "programs alone publish runs and logs"
    assert sends(rules, NO_GRANTS, "bob")


def test_sending_can_be_opened_and_closed() -> None:
    """Fails if the right to send to users hangs on the mode alone."""
    assert sends(policy(personal=Namespace(client_send=True)), NO_GRANTS, "bob")
    closed = policy(open_mode=True, personal=Namespace(client_send=False))
    assert not sends(closed, NO_GRANTS, "bob")
    assert sends(closed, read_grants({"#b*": ["send"]}), "bob")


def test_no_built_in_namespace_opens_anything() -> None:
    """Fails if somebody gives a built-in namespace a right that every token has then."""
    for name, options in BUILT_IN.items():
        assert not any((options.client_subscribe, options.client_publish, options.client_send)), name


def test_the_summary_says_what_is_open() -> None:
    """Fails if an operator cannot see at the start what every client may do."""
    assert "anyone" in policy(open_mode=True).summary()
    assert "only their tokens" in policy().summary()
    anywhere: dict[str, Any] = {"": Namespace(client_subscribe=True)}
    rules = policy(
        logs=Namespace(client_subscribe=True),
        orders=Namespace(client_publish=True),
        personal=Namespace(client_send=True),
        **anywhere,
    )
    said = rules.summary()
    for part in (
        "read ",
        "logs:*",
        "all other channels",
        "publish on orders:*",
        "send to any user (HELIOGRAPH_NAMESPACES)",
    ):
        assert part in said
    apart = Namespace(
        presence=True,
        allow_history_for_client=True,
        allow_presence_for_client=True,
        allow_publish_for_subscriber=True,
        allow_user_limited_channels=True,
    )
    said = policy(vip=apart).summary()
    for verb in (
        "read the history of",
        "see who is on",
        "read what names its user in",
        "publish, once subscribed, on",
    ):
        assert f"{verb} vip:*" in said


@pytest.mark.parametrize("open_mode", [True, False])
def test_only_events_that_are_named_may_be_emitted(open_mode: bool) -> None:
    """Fails if a client may say anything to the workers that no setting names, in either mode."""
    events = ("order", "page.viewed", "page", "paid")

    def allowed(*named: str) -> list[str]:
        rules = Policy(Namespaces(), open_mode=open_mode, events=named)
        return [event for event in events if rules.decide_emit(event) is ALLOW]

    assert allowed() == []
    assert allowed("order") == ["order"]
    assert allowed("page.*", "paid") == ["page.viewed", "paid"]
    assert allowed("*") == list(events)
    if not open_mode:
        said = Policy(Namespaces(), open_mode=False, events=["order", "page.*"]).summary()
        assert said.endswith("every client may emit order, page.* (HELIOGRAPH_EMIT__EVENTS)")


def test_where_a_hook_is_to_be_asked_nothing_else_decides() -> None:
    """Fails if an option or a token decides what a hook is there for."""
    open_to_all = Namespace(client_subscribe=True, client_publish=True, client_send=True, presence=True)
    namespaces = Namespaces({"chat": open_to_all, "#": Namespace(client_send=True, publish_hook=True)})
    rules = Policy(namespaces, open_mode=True, hooks=[Hook.SUBSCRIBE, Hook.PUBLISH, Hook.RPC])
    assert not rules.is_sending_free
    decisions: list[Decision] = [
        rules.decide_subscribe("alice", NO_GRANTS, "chat:1"),
        rules.decide_history("alice", NO_GRANTS, "chat:1"),
        rules.decide_presence("alice", NO_GRANTS, "chat:1"),
        rules.decide_publish("alice", NO_GRANTS, "chat:1"),
        rules.decide_send("alice", NO_GRANTS, "bob"),
    ]
    assert decisions == [ASK] * 5
    assert rules.decide_rpc() is ALLOW, "there is a backend to call"


@pytest.mark.parametrize("may", [True, False])
def test_a_namespace_says_whether_a_hook_is_asked(may: bool) -> None:
    """Fails if a namespace cannot leave the hooks out, or have them asked about what it closes by itself."""
    options = Namespace(client_subscribe=not may, client_publish=not may, subscribe_hook=may, publish_hook=may)
    rules = Policy(Namespaces({"chat": options}), open_mode=False, hooks=[Hook.SUBSCRIBE, Hook.PUBLISH])
    expected = ASK if may else ALLOW
    assert rules.decide_subscribe("alice", NO_GRANTS, "chat:1") == expected
    assert rules.decide_publish("alice", NO_GRANTS, "chat:1") == expected
    assert rules.decide_publish("alice", NO_GRANTS, "news") is ASK, "another namespace"
    assert isinstance(rules.decide_publish("alice", NO_GRANTS, "run:1"), Deny), "programs alone publish on runs"


def test_messages_to_users_are_asked_about_only_where_a_namespace_says_so() -> None:
    """Fails if every message to a user waits for a backend that was to decide on channels."""
    rules = Policy(Namespaces(), open_mode=True, hooks=[Hook.PUBLISH])
    assert rules.is_sending_free


def test_no_hook_opens_what_is_closed_to_everybody() -> None:
    """Fails if a hook is asked about another user's personal channel, or about what no replica could do."""
    rules = Policy(Namespaces(), open_mode=False, hooks=list(Hook))
    assert rules.decide_subscribe("alice", NO_GRANTS, "#alice") is ALLOW
    for decision in (
        rules.decide_subscribe("alice", NO_GRANTS, "#bob"),
        rules.decide_history("alice", NO_GRANTS, "#bob"),
        rules.decide_presence("alice", NO_GRANTS, "news"),
        rules.decide_publish("alice", NO_GRANTS, "#bob"),
        rules.decide_emit("order"),
    ):
        assert isinstance(decision, Deny)


def reads_history(rules: Policy, grants: Grants, *, is_subscribed: bool = False, channel: str = "vip:1") -> bool:
    return rules.decide_history("alice", grants, channel, is_subscribed) is ALLOW


def reads_presence(rules: Policy, grants: Grants, *, is_subscribed: bool = False, channel: str = "vip:1") -> bool:
    return rules.decide_presence("alice", grants, channel, is_subscribed) is ALLOW


@pytest.mark.parametrize("what", ["history", "presence"])
def test_reading_apart_from_subscribing(what: str) -> None:
    """Fails if an option for history holds for presence or the other way round, or does not hold at all."""
    asked, other = (reads_history, reads_presence) if what == "history" else (reads_presence, reads_history)
    granted = read_grants(["vip:1"])

    def rules(**options: Any) -> Policy:
        return policy(vip=Namespace(presence=True, **options))

    assert not asked(rules(), NO_GRANTS, is_subscribed=True)
    assert asked(rules(), granted)
    for_clients = rules(**{f"allow_{what}_for_client": True})
    assert asked(for_clients, NO_GRANTS)
    assert not other(for_clients, NO_GRANTS)
    assert for_clients.decide_subscribe("alice", NO_GRANTS, "vip:1") is not ALLOW
    closed = rules(**{f"allow_{what}_for_client": False}, client_subscribe=True)
    assert not asked(closed, granted, is_subscribed=True)
    assert other(closed, NO_GRANTS)
    assert closed.decide_subscribe("alice", NO_GRANTS, "vip:1") is ALLOW
    for_subscribers = rules(**{f"allow_{what}_for_client": False, f"allow_{what}_for_subscriber": True})
    assert asked(for_subscribers, NO_GRANTS, is_subscribed=True)
    assert not asked(for_subscribers, granted)
    assert not other(for_subscribers, NO_GRANTS, is_subscribed=True)


def test_presence_that_is_not_kept_is_open_to_nobody() -> None:
    """Fails if an option says who may read what does not exist."""
    rules = policy(vip=Namespace(allow_presence_for_client=True, allow_presence_for_subscriber=True))
    assert not reads_presence(rules, NO_GRANTS, is_subscribed=True)


def test_the_options_open_no_personal_channel() -> None:
    """Fails if an option of reading opens a user's own channel to another, or closes it to its user."""
    rules = policy(personal=Namespace(allow_history_for_client=True, presence=True))
    assert not reads_history(rules, NO_GRANTS, channel="#bob")
    closed = policy(personal=Namespace(allow_history_for_client=False))
    assert reads_history(closed, NO_GRANTS, channel="#alice")


def test_subscribers_may_publish() -> None:
    """Fails if a client that is not subscribed may publish, or one that is may not."""
    rules = policy(vip=Namespace(allow_publish_for_subscriber=True))
    assert rules.decide_publish("alice", NO_GRANTS, "vip:1", True) is ALLOW
    assert rules.decide_publish("alice", NO_GRANTS, "vip:1", False) is not ALLOW
    assert policy().decide_publish("alice", NO_GRANTS, "vip:1", True) is not ALLOW


LISTED = ("dialog:1#alice,bob", "dialog:1#bob,alice", "dialog:1#alice", "dialog:1#x#alice", "dialog#:1#alice")
NOT_LISTED = ("dialog:1#bob", "dialog:1#alice2,bob", "dialog:1#", "dialog:1#alice#bob", "dialog:1#Alice")


@pytest.mark.parametrize("open_mode", [False, True])
@pytest.mark.parametrize("channel", [*LISTED, *NOT_LISTED])
def test_a_channel_for_the_users_in_its_name(channel: str, open_mode: bool) -> None:
    """Fails if a user is kept from a channel that lists them, or reads or writes one that lists others."""
    limited = Namespace(allow_user_limited_channels=True, client_publish=True, presence=True)
    named = {"dialog": limited, "": Namespace(allow_user_limited_channels=True, client_publish=True, presence=True)}
    rules = Policy(Namespaces(named), open_mode=open_mode)
    may = channel in LISTED
    wide = read_grants(["dialog:*"])
    for grants in (NO_GRANTS, wide):
        assert reads(rules, grants, channel) == may
        assert sees_presence(rules, grants, channel) == may
        assert publishes(rules, grants, channel) == may
    assert reads(rules, NO_GRANTS.permitting([channel]), channel), "a subscription token opens it"


def test_without_the_option_a_hash_is_a_character() -> None:
    """Fails if a name that was fine before is limited to users."""
    assert reads(policy(open_mode=True), NO_GRANTS, "dialog:1#bob")
    assert not reads(policy(), NO_GRANTS, "dialog:1#alice")
    limited = policy(dialog=Namespace(allow_user_limited_channels=True, client_subscribe=False))
    assert not reads(limited, NO_GRANTS, "dialog:1"), "a channel without a list follows the other options"
