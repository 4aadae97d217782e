"""What became of a message here, concluded from notes: every course that it can take."""

from typing import Any

import msgspec
import pytest

from heliograph.cluster.questions import ReplicaAnswer
from heliograph.cluster.trace_account import Present, account_of, fitting, shown, sightings_of
from heliograph.cluster.trace_verdict import reached, verdict_of
from heliograph.cluster.tracer import MESSAGE, MessageFacts, Story, Tracer
from heliograph.hub import trace
from heliograph.ports import Receipt
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.trace import (
    AccountQuestion,
    ConnectionAccount,
    Outcome,
    ReplicaAccount,
    Selector,
    Sighting,
    Sightings,
)
from tests.support.like import Like

FIFTH = Position("e", 5)
HERE = Present("c1", "phone", is_on=True, is_paused=False)


class Notes:
    """Notes, one a second."""

    def __init__(self) -> None:
        self.all: list[trace.Note] = []

    def add(self, kind: int, subject: str = "c1", channel: str = "", user: str = "", **more: Any) -> "Notes":
        epoch, offset, up_to, text = (
            more.get(name, default) for name, default in (("epoch", ""), ("offset", 0), ("up_to", 0), ("text", ""))
        )
        self.all.append((float(len(self.all)), kind, channel, subject, user, epoch, offset, up_to, text))
        return self

    def connection(self, kind: int, **more: Any) -> "Notes":
        return self.add(kind, channel="#bob", user="bob", epoch="e", **more)

    def delivered(self, offset: int = 5) -> "Notes":
        return self.add(trace.DELIVERED, "m", "#bob", epoch="e", offset=offset)


def account(notes: Notes, *present: Present, position: Position | None = FIFTH, **more: Any) -> ReplicaAccount:
    asked = AccountQuestion("bob", "#bob", "m", position, more.get("sent_at", 0.0))
    return account_of(notes.all, more.get("since", 0.0), present, asked)


def only(found: ReplicaAccount) -> ConnectionAccount:
    [connection] = found.connections
    return connection


def test_it_was_written_to_who_was_there() -> None:
    """Fails if a connection that was subscribed before the first note, or came before the message, is left out."""
    assert only(account(Notes().delivered(), HERE)) == ConnectionAccount("c1", "phone", Outcome.WRITTEN, 0.0)
    notes = Notes().add(trace.CONNECTED, user="bob", text="phone").connection(trace.SUBSCRIBED, offset=4).delivered()
    assert only(account(notes, HERE)).outcome is Outcome.WRITTEN
    notes.connection(trace.UNSUBSCRIBED).add(trace.DISCONNECTED, user="bob", text="phone", offset=3005)
    found = only(account(notes))
    assert (found.outcome, found.ended_at, found.code, found.device) == (Outcome.WRITTEN, 4.0, 3005, "phone")


def test_a_client_that_does_not_read() -> None:
    """Fails if what waits counts as written, or is not written when it reads again, or when the end comes first."""
    slow = HERE._replace(is_paused=True)
    notes = Notes().add(trace.PAUSED).delivered()
    assert only(account(notes, slow)).outcome is Outcome.WAITS
    assert only(account(Notes().delivered(), slow)).outcome is Outcome.WAITS, "paused since before the first note"
    ended = Notes().add(trace.PAUSED).delivered().add(trace.ENDED, offset=1, text="m").connection(trace.UNSUBSCRIBED)
    found = only(account(ended))
    assert (found.outcome, found.at) == (Outcome.NOT_WRITTEN, 2.0)
    notes.add(trace.RESUMED)
    assert (only(account(notes, HERE)).outcome, only(account(notes, HERE)).at) == (Outcome.WRITTEN, 2.0)


@pytest.mark.parametrize(
    ("text", "frames", "outcome"),
    [("m", 1, Outcome.NOT_WRITTEN), ("other", 1, Outcome.WRITTEN), ("", 0, Outcome.WRITTEN)],
)
def test_an_end_in_the_iteration_of_the_message(text: str, frames: int, outcome: Outcome) -> None:
    """Fails if what was dropped with the socket counts as written, or what was written as dropped."""
    notes = Notes().delivered().add(trace.ENDED, offset=frames, text=text).connection(trace.UNSUBSCRIBED)
    assert only(account(notes)).outcome is outcome


def test_formats_that_do_not_name_messages() -> None:
    """Fails if a message that was put into an outbox just before its end counts as written for certain."""
    notes = Notes().delivered()
    notes.all.append((0.05, trace.ENDED, "", "c1", "", "", 1, 0, ""))
    assert only(account(notes, HERE)).outcome is Outcome.NOT_WRITTEN


def test_after_its_end_a_connection_gets_nothing() -> None:
    """Fails if a message counts as written to a connection that is closed and not yet removed."""
    notes = Notes().add(trace.ENDED).delivered().connection(trace.UNSUBSCRIBED)
    assert only(account(notes)).outcome is Outcome.GONE


def test_a_client_that_comes_back() -> None:
    """Fails if it is not told apart who caught up, who had it already, and who did not ask."""
    caught = Notes().connection(trace.JOINED, offset=3, up_to=3).connection(trace.CAUGHT_UP, offset=4, up_to=6)
    caught.connection(trace.SUBSCRIBED, offset=6)
    found = only(account(caught, HERE))
    assert (found.outcome, found.caught_up, found.at) == (Outcome.WRITTEN, True, 1.0)
    had = Notes().connection(trace.JOINED, offset=7, up_to=7).connection(trace.SUBSCRIBED, offset=7)
    assert only(account(had, HERE)).outcome is Outcome.HAD_IT
    later = Notes().connection(trace.SUBSCRIBED, offset=7)
    assert only(account(later, HERE)).outcome is Outcome.CAME_LATER


def test_a_connection_that_had_left() -> None:
    """Fails if a device that left before the message is told of as if it had got it, or not at all."""
    notes = Notes().connection(trace.UNSUBSCRIBED).add(trace.DISCONNECTED, user="bob", text="phone").delivered()
    found = only(account(notes, sent_at=2.0))
    assert (found.outcome, found.at) == (Outcome.GONE, 1.0)


def test_what_is_not_known_is_not_made_up() -> None:
    """Fails if silence is taken for an answer: where the notes do not go back so far, and where they do."""
    assert only(account(Notes(), HERE, sent_at=5.0, since=9.0)).outcome is Outcome.UNKNOWN
    assert only(account(Notes(), HERE, sent_at=5.0, since=1.0)).outcome is Outcome.NOT_HEARD


def test_a_repair() -> None:
    """Fails if it is not said that the message came from the log, or that others of its channel were lost."""
    notes = Notes().delivered().add(trace.REPAIRED, "", "#bob", epoch="e", offset=4, up_to=6)
    assert account(notes, HERE).repaired
    notes = Notes().delivered().add(trace.REPAIRED, "", "#bob", epoch="e", offset=6, up_to=9)
    notes.add(trace.LOST, "", "#bob", epoch="e", offset=12)
    assert (account(notes, HERE).repaired, account(notes, HERE).lost_at) == (False, 2.0)


def test_an_ephemeral_message_goes_to_all_connections() -> None:
    """Fails if a message that is not kept is looked for among the subscribers: it goes to all of the user."""
    notes = Notes().add(trace.CONNECTED, "c2", user="bob", text="tv").add(trace.DELIVERED, "m", "#bob")
    notes.add(trace.CONNECTED, "c3", user="bob")
    found = account(notes, HERE, position=None)
    assert {each.connection: each.outcome for each in found.connections} == {
        "c1": Outcome.WRITTEN,
        "c2": Outcome.WRITTEN,
        "c3": Outcome.CAME_LATER,
    }


def test_an_ephemeral_message_that_was_lost_is_not_heard() -> None:
    """Fails if a client that was there before the message is said to have come later."""
    notes = Notes().add(trace.CONNECTED, user="bob", text="phone")
    assert only(account(notes, HERE, position=None, sent_at=10.0)).outcome is Outcome.NOT_HEARD
    assert only(account(notes, HERE, position=None, sent_at=-1.0)).outcome is Outcome.CAME_LATER


def test_other_users_and_channels_are_left_out() -> None:
    """Fails if a connection of another user, or what it does on another channel, is mixed in."""
    notes = Notes().add(trace.SUBSCRIBED, "c9", "#bob", "eve", epoch="e", offset=1).delivered()
    notes.add(trace.UNSUBSCRIBED, "c1", "news", "bob")
    assert [each.connection for each in account(notes, HERE).connections] == ["c1"]
    assert only(account(notes, HERE)).ended_at is None


def test_where_a_message_was_seen() -> None:
    """Fails if a sighting is missed, or another message's is taken for it."""
    notes = Notes().add(trace.ACCEPTED, "m", "#bob", "alice", epoch="e", offset=5, text="remote").delivered()
    notes.add(trace.DELIVERED, "m2", "#bob").add(trace.REFUSED, "m", "#bob", "alice", text="no")
    found = sightings_of(notes.all, "m")
    assert [(each.what, each.sender, each.position) for each in found] == [
        ("accepted", "alice", Position("e", 5)),
        ("delivered", "", Position("e", 5)),
        ("refused", "alice", None),
    ]


def test_notes_that_fit() -> None:
    """Fails if a watch shows too little of what it is for, or what is nobody's business there."""
    notes = Notes().add(trace.CONNECTED, "c1", user="bob").add(trace.DELIVERED, "m", "news").delivered()
    notes.add(trace.CONNECTED, "c2", user="eve").add(trace.ACCEPTED, "m3", "#eve", "bob")

    def fit(on: tuple[str, ...] = (), **chosen: str) -> list[tuple[str, str]]:
        found = map(shown, fitting(notes.all, Selector(**chosen), frozenset(on)))
        return [(each.event, each.message_id or each.connection) for each in found]

    assert fit(user="bob") == [("connected", "c1"), ("delivered", "m"), ("accepted", "m3")]
    assert fit(("news",), user="bob") == [
        ("connected", "c1"),
        ("delivered", "m"),
        ("delivered", "m"),
        ("accepted", "m3"),
    ]
    assert fit(channel="news") == [("delivered", "m")]
    assert fit(connection="c2") == [("connected", "c2")]
    assert fit(("news",), connection="c1") == [("connected", "c1"), ("delivered", "m")]
    assert fit(message_id="m3") == [("accepted", "m3")]


def test_a_replica_that_does_not_answer_is_told_of() -> None:
    """Fails if the verdict hides whom it leaves out, or says that a replica was not asked which was."""
    facts = MessageFacts("m", "#bob", Position("e", 1), "alice", "", 100.0, [], is_kept=True)
    why = "it did not answer within 3 s"
    story = Story("bob", facts, [("replica-1", ReplicaAccount(since=50.0)), ("replica-2", why)], [])
    assert verdict_of(story) == (
        f"whether bob was connected then is not known any more; nothing is known from replica-2: {why}."
    )


def test_a_replica_that_is_gone_may_have_it() -> None:
    """Fails if it is taken for certain that nobody got a message, although a replica that was killed may have had a
    connection of the user."""
    here = ("replica-1", ReplicaAccount(since=50.0))

    def accepted(text: str) -> list[tuple[str, Sighting]]:
        return [("replica-1", Sighting("accepted", 100.0, "#bob", "m", "alice", FIFTH, text))]

    def story(sightings: list[tuple[str, Sighting]], *accounts: tuple[str, ReplicaAccount]) -> Story:
        origin = "replica-1" if sightings else "replica-2"
        facts = MessageFacts("m", "#bob", FIFTH, "alice", origin, 100.0, sightings, is_kept=True)
        return Story("bob", facts, accounts or [here], [])

    unknown = "whether bob was connected then is not known any more"
    published = "replica-1 published it for a connection on another replica, which is gone"
    assert verdict_of(story(accepted("remote"))) == f"{unknown}; {published}."
    assert verdict_of(story([])) == f"{unknown}; replica-2, which accepted it, is gone or has forgotten it."
    assert reached(story(accepted("remote"))) is reached(story([])) is None
    assert reached(story(accepted("stored"))) is False
    left = ReplicaAccount(50.0, connections=[ConnectionAccount("c1", "phone", Outcome.GONE, 99.0)])
    assert reached(story(accepted("remote"), here, ("replica-2", left))) is False, "it was there, and has left"
    assert reached(story(accepted("remote"), ("replica-1", left))) is None


async def test_a_replica_whose_lease_ends_while_it_is_asked() -> None:
    """Fails if a replica that hangs is left out of the verdict because its lease ended between two questions."""
    publication = Publication("#bob", msgspec.Raw(b"1"), "m", "2026-11-30T12:00:00Z", position=FIFTH)
    why = "it did not answer within 3 s"

    async def ask_all(topic: str, body: msgspec.Raw) -> list[ReplicaAnswer]:
        answer: Any = Sightings(0.0, []) if topic == MESSAGE else ReplicaAccount(since=0.0)
        answers = [ReplicaAnswer("replica-1", "a", msgspec.Raw(msgspec.json.encode(answer)))]
        return [*answers, ReplicaAnswer("replica-2", "b", None, why)] if topic == MESSAGE else answers

    async def history(channel: str, after: Position | None, limit: int) -> Any:
        return Like(None, publications=[publication], position=FIFTH)

    async def of(user: str) -> list[Receipt]:
        return []

    questions: Any = Like(None, ask_all=ask_all)
    reading: Any = Like(None, history=history)
    receipts: Any = Like(None, of=of)
    story = await Tracer(questions, reading, receipts).story("bob", "m")
    assert story.accounts == [("replica-1", ReplicaAccount(since=0.0)), ("replica-2", why)]
    assert reached(story) is None
