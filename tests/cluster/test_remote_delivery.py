"""The guard, by structure: what came in over the bus has no way back to it."""

import ast
import inspect

import msgspec
import pytest

from app.cluster import remote_delivery
from app.cluster.directory import Directory
from app.cluster.pubsub_manager import PubSubManager
from app.cluster.remote_delivery import RemoteDelivery
from app.hub.connection import Connection
from app.hub.frames import Encoding
from app.hub.hub import Hub
from app.hub.outbox import Outbox, Turn
from app.protocol.envelope import Envelope
from app.protocol.plain import PlainCodec
from app.telemetry import Telemetry
from tests.support.members import RecordingSink


class Here:
    """A hub with bob on it, and the RemoteDelivery of the node `me`."""

    def __init__(self) -> None:
        self.hub = Hub(Telemetry())
        self.remote = RemoteDelivery(self.hub, "me", lambda: "now")
        self.sink = RecordingSink()
        self._callbacks: list[object] = []
        self.turn = Turn(self._callbacks.append)
        outbox = Outbox(self.sink, self.turn, 1000)
        self.hub.add(Connection("c", "bob", Encoding(PlainCodec(8), bytes), outbox))

    def deliver(self, envelope: Envelope) -> int:
        taken = self.remote.deliver_remote(envelope)
        self.turn.end()
        return taken


def envelope(user: str = "bob", **fields: str) -> Envelope:
    return Envelope(target_user_id=user, message=msgspec.Raw(b'"hi"'), **fields)


class TestTheGuard:
    """`via_pubsub` names it; this is what enforces it."""

    def test_it_holds_nothing_to_publish_with(self) -> None:
        """Fails if RemoteDelivery is ever given the bus, the directory or the router."""
        held = vars(Here().remote).values()
        assert not [thing for thing in held if isinstance(thing, PubSubManager | Directory)]
        parameters = inspect.signature(RemoteDelivery.__init__).parameters
        assert [parameter.name for parameter in parameters.values()] == ["self", "hub", "node_id", "timestamp"]

    def test_it_cannot_wait_for_anything(self) -> None:
        """Fails if deliver_remote becomes a coroutine function: it could then reach the network."""
        assert not inspect.iscoroutinefunction(RemoteDelivery.deliver_remote)
        assert not inspect.isasyncgenfunction(RemoteDelivery.deliver_remote)

    def test_its_file_knows_no_bus(self) -> None:
        """Fails if the module imports anything that could publish, or starts a task."""
        tree = ast.parse(inspect.getsource(remote_delivery))
        imported = {
            name
            for node in ast.walk(tree)
            for name in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
        }
        assert imported == {"uuid", "collections.abc", "app.hub.hub", "app.protocol.envelope"}


class TestDeliverRemote:
    def test_it_hands_the_message_to_the_users_connections(self) -> None:
        """Fails if the message does not reach the hub, or fields the publisher left out are not filled in."""
        here = Here()
        assert here.deliver(envelope()) == 1
        (frame,) = here.sink.frames
        assert len(frame.pop("message_id")) == 32
        assert frame == {"type": "message", "channel": "#bob", "data": "hi", "sent_at": "now"}

    def test_it_keeps_what_the_sender_wrote(self) -> None:
        """Fails if id, time, sender or origin are replaced on the way."""
        here = Here()
        here.deliver(envelope(message_id="m", sent_at="then", sender="al", origin="replica-9", node_id="other"))
        (frame,) = here.sink.frames
        assert (frame["message_id"], frame["sent_at"], frame["from"]) == ("m", "then", "al")
        assert frame["origin"] == "replica-9"

    def test_its_own_envelope_was_delivered_before(self) -> None:
        """Fails if the replica's own publications are delivered a second time when they come back."""
        here = Here()
        assert here.deliver(envelope(node_id="me")) == 0
        assert here.sink.frames == []

    @pytest.mark.parametrize("user", ["carol", "bo", "bobb", "BOB", "#bob"])
    def test_other_users_are_not_meant(self, user: str) -> None:
        """Fails if a name that only resembles bob's reaches bob."""
        here = Here()
        assert here.deliver(envelope(user)) == 0
        assert here.sink.frames == []
