"""The guard, by structure: what came in over the bus has no way back to it."""

import ast
import asyncio
import builtins
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest

from heliograph.backends.memory.commands import NoCommands
from heliograph.backends.memory.log import MemoryLog
from heliograph.backends.redis.log import RedisLog
from heliograph.clock import Clock, SystemClock
from heliograph.cluster import (
    channels,
    deltas,
    followed,
    following,
    gap_watch,
    gaps,
    joining,
    read_batcher,
    remote_delivery,
    repair,
    tally,
)
from heliograph.cluster import commands as commands_module
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.cluster.channels import Channels
from heliograph.cluster.commands import Commands
from heliograph.cluster.directory import Directory
from heliograph.cluster.following import Following
from heliograph.cluster.gap_watch import GapWatch
from heliograph.cluster.gaps import Gaps
from heliograph.cluster.joining import Joining
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.cluster.read_batcher import ReadBatcher
from heliograph.cluster.remote_delivery import RemoteDelivery
from heliograph.cluster.repair import Repair
from heliograph.codecs.plain.codec import PlainCodec
from heliograph.codecs.plain.cursor import format_cursor
from heliograph.errors import BadEnvelope
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, payload_only
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.ports import CommandReader, LogReader, ReadRequest, Subscriptions
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.command import Command, DisconnectUser, Forward, UnsubscribeUser
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.position import Position
from heliograph.settings import ChannelSettings
from heliograph.telemetry import Telemetry
from tests.support.members import RecordingSink
from tests.support.sources import tree_of


class NoBus:
    """`Subscriptions` for a replica that every envelope is handed to by the test."""

    async def follow(self, channel: str) -> None:
        pass

    async def unfollow(self, channel: str) -> None:
        pass


class Here:
    """A hub with bob on it, and the RemoteDelivery of the node `me`."""

    def __init__(self) -> None:
        telemetry = Telemetry()
        self._callbacks: list[object] = []
        self.forwarded: list[Envelope] = []
        self.flush_scheduler = FlushScheduler(self._callbacks.append)
        self.hub = Hub(telemetry, self.flush_scheduler)
        self.log = MemoryLog(SystemClock())
        self.channels = Channels(self.hub, self.log, NoBus(), Namespaces(), ChannelSettings(), telemetry)
        self.commands = Commands(
            self.hub,
            NoCommands(),
            BlockedUsers(SystemClock()),
            node_id="me",
            clock=SystemClock(),
            between_replicas=self.forwarded.append,
        )
        self.remote = RemoteDelivery(self.hub, self.channels.following, self.commands, "me", lambda: "now")
        self.sink = RecordingSink()
        outbox = Outbox(self.sink, self.flush_scheduler, 1000)
        self.bob = Connection(
            "c", "bob", Encoding(PlainCodec(8), payload_only, telemetry.traffic["websocket"]), outbox
        )
        self.hub.add(self.bob)

    def deliver(self, envelope: Envelope) -> int:
        taken = self.remote.deliver_remote(envelope)
        self.flush_scheduler.end()
        return taken


def envelope(user: str = "bob", **fields: Any) -> Envelope:
    return Envelope(target_user_id=user, message=msgspec.Raw(b'"hi"'), **fields)


PARTS_OF_CHANNELS = [channels, deltas, followed, following, gap_watch, gaps, joining, read_batcher, repair, tally]
SENDING = ("publish", "relay", "relay_on", "submit", "dispatch", "send_message", "emit")  # what sends a message on


class TestTheGuard:
    """`via_pubsub` names it; this is what enforces it."""

    def test_it_holds_nothing_to_publish_with(self) -> None:
        """Fails if RemoteDelivery is ever given the bus, the log, the directory or the router."""
        remote = Here().remote
        held = [getattr(remote, name) for name in dir(remote) if name.startswith("_") and not name.startswith("__")]
        assert remote._hub in held
        assert not [thing for thing in held if isinstance(thing, PubSubManager | Directory | RedisLog | MemoryLog)]
        assert not [thing for thing in held if {*SENDING, "append"} & set(dir(thing))]
        assert list(_parameters(RemoteDelivery)) == ["hub", "following", "commands", "node_id", "timestamp"]

    def test_its_channels_can_only_read_and_listen(self) -> None:
        """Fails if Channels or a part of it is ever given more than a log to read and a bus to listen to."""
        assert _parameters(Channels) == {
            "hub": Hub,
            "log": LogReader,
            "bus": Subscriptions,
            "namespaces": Namespaces,
            "settings": ChannelSettings,
            "telemetry": Telemetry,
        }
        assert _parameters(Following) == {
            "hub": Hub,
            "bus": Subscriptions,
            "reads": ReadBatcher,
            "gaps": Gaps,
            "namespaces": Namespaces,
        }
        assert _parameters(Joining) == {
            "hub": Hub,
            "following": Following,
            "repair": Repair,
            "reads": ReadBatcher,
            "namespaces": Namespaces,
            "page": int,
        }
        assert _parameters(Repair) == {
            "hub": Hub,
            "log": LogReader,
            "following": Following,
            "gaps": Gaps,
            "telemetry": Telemetry,
            "page": int,
        }
        assert _parameters(GapWatch) == {
            "log": LogReader,
            "following": Following,
            "gaps": Gaps,
            "repair": Repair,
            "joining": Joining,
            "settings": ChannelSettings,
        }
        assert _verbs(LogReader) == {"read", "listen", "bus_sequences", "tops"}
        assert _verbs(Subscriptions) == {"follow", "unfollow"}

    def test_its_commands_can_only_be_read(self) -> None:
        """Fails if Commands is ever given more than commands to read: it could give them, without end."""
        assert _parameters(Commands) == {
            "hub": Hub,
            "log": CommandReader,
            "blocked": BlockedUsers,
            "node_id": str,
            "clock": Clock,
            "between_replicas": Callable[[Envelope], object],
        }
        assert _verbs(CommandReader) == {"after", "blocked_users"}
        used = [
            node.attr
            for node in ast.walk(tree_of(commands_module.__name__))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self._log"
        ]
        assert sorted(used) == ["after", "blocked_users"]

    def test_its_read_batcher_can_only_read(self) -> None:
        """Fails if what Channels hands the log on to is ever given more than a log to read."""
        assert _parameters(ReadBatcher) == {"log": LogReader}

    @pytest.mark.parametrize("module", PARTS_OF_CHANNELS)
    def test_its_channels_keep_to_that(self, module: ModuleType) -> None:
        """Fails if Channels gets at the rest of what it has at run time: those objects could publish and append."""
        tree = tree_of(module.__name__)
        used: dict[str, set[str]] = {"_log": set(), "_bus": set()}
        mentioned = 0
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr in used:
                used[node.value.attr].add(node.attr)
                mentioned += 1
        assert used["_log"] <= _verbs(LogReader)
        assert used["_bus"] <= _verbs(Subscriptions)
        loaded = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in used and isinstance(node.ctx, ast.Load)
        ]
        assert len(loaded) == mentioned, "neither is handed on to anybody, or kept under another name"

    @pytest.mark.parametrize("module", [remote_delivery, commands_module, *PARTS_OF_CHANNELS])
    def test_no_file_publishes_or_appends_to_the_log(self, module: ModuleType) -> None:
        """Fails if one of them calls what would send a publication on."""
        called = [
            (node.func.attr, [ast.unparse(argument) for argument in node.args])
            for node in ast.walk(tree_of(module.__name__))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        ]
        assert not [verb for verb, _ in called if verb in SENDING]
        assert not [arguments for verb, arguments in called if verb == "append" and "draft" in arguments[0]]
        imported = _imported(module)
        assert not [
            name
            for name in imported
            if name.startswith(("heliograph.backends", "heliograph.cluster", "heliograph.client", "redis"))
            and name not in ("heliograph.ports", "heliograph.cluster.blocked_users", "heliograph.cluster.commands")
            and name not in {part.__name__ for part in PARTS_OF_CHANNELS}
        ]

    @pytest.mark.parametrize(
        ("owner", "verb"), [(RemoteDelivery, "deliver_remote"), (Following, "receive"), (Commands, "receive")]
    )
    def test_it_cannot_wait_for_anything(self, owner: type, verb: str) -> None:
        """Fails if delivering becomes a coroutine function: it could then reach the network."""
        assert isinstance(_method(owner, verb), ast.FunctionDef), "def, not async def"

    def test_its_file_knows_no_bus(self) -> None:
        """Fails if the module imports anything that could publish, or starts a task."""
        assert _imported(remote_delivery) == {
            "uuid",
            "collections.abc",
            "msgspec",
            "heliograph.cluster.commands",
            "heliograph.cluster.following",
            "heliograph.hub.announcements",
            "heliograph.hub.hub",
            "heliograph.protocol.envelope",
            "heliograph.protocol.publication",
        }


def _method(owner: type, name: str) -> ast.AST:
    """As it is written: what is compiled does not tell how it came about."""
    [class_] = [
        node
        for node in tree_of(owner.__module__).body
        if isinstance(node, ast.ClassDef) and node.name == owner.__name__
    ]
    [method] = [node for node in class_.body if getattr(node, "name", None) == name]
    return method


def _parameters(owner: type) -> dict[str, Any]:
    """What it is made with, and of which types."""
    method = _method(owner, "__init__")
    assert isinstance(method, ast.FunctionDef)
    names = {**vars(builtins), **vars(sys.modules[owner.__module__])}
    arguments = [*method.args.args[1:], *method.args.kwonlyargs]
    return {each.arg: eval(ast.unparse(each.annotation or each), names) for each in arguments}  # noqa: S307


def _verbs(protocol: type) -> set[str]:
    return {name for name in dir(protocol) if not name.startswith("_")}


def _imported(module: ModuleType) -> set[str]:
    return {
        name
        for node in ast.walk(tree_of(module.__name__))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }


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

    def test_what_is_for_a_channel_goes_to_those_who_listen(self) -> None:
        """Fails if a channel's message goes to users, or to a channel whose name only resembles it."""
        here = Here()
        said = Envelope(msgspec.Raw(b'"hi"'), channel="room:1", node_id="other")
        assert here.deliver(said) == 0
        here.hub.subscribe(here.bob, "room:1")
        assert here.deliver(said) == 1
        assert here.deliver(msgspec.structs.replace(said, channel="room:11")) == 0
        assert here.deliver(msgspec.structs.replace(said, node_id="me")) == 0
        (frame,) = here.sink.frames
        assert (frame["type"], frame["channel"], frame["data"], frame["sent_at"]) == (
            "message",
            "room:1",
            "hi",
            "now",
        )

    @pytest.mark.parametrize("happened", ["join", "leave"])
    def test_who_comes_and_goes_is_told_to_those_who_listen(self, happened: str) -> None:
        """Fails if one is taken for the other, or for a message."""
        here = Here()
        here.hub.subscribe(here.bob, "room:1")
        assert here.deliver(Envelope(msgspec.Raw(b'"al"'), channel="room:1", presence=happened)) == 1
        assert here.sink.frames == [{"type": happened, "channel": "room:1", "user": "al"}]

    async def test_what_is_kept_comes_in_order_and_once(self) -> None:
        """Fails if a kept publication goes past its channel's order: repeated, or before one that is missing.

        Also if one takes a place there that no client could read.
        """
        here = Here()
        here.channels.start()
        try:
            async with asyncio.timeout(5):
                await here.channels.joining.listen(here.bob, "#bob")
            [opened] = await here.log.read([ReadRequest("#bob")])
            epoch, top = opened.position.epoch, opened.position.offset
            broken = Envelope(msgspec.Raw(b'"\xff"'), target_user_id="bob", node_id="n", epoch=epoch, offset=top + 1)
            with pytest.raises(BadEnvelope):
                here.deliver(broken)
            for number in (1, 1, 3, 2, 3):  # node_id: kept publications of its own come back over the bus too
                kept = Envelope(
                    msgspec.Raw(b"%d" % number), target_user_id="bob", node_id="me", epoch=epoch, offset=top + number
                )
                assert here.deliver(kept) == 0
        finally:
            await here.channels.stop()
        assert [frame["data"] for frame in here.sink.frames] == [1, 2, 3]
        assert here.sink.frames[-1]["cursor"] == format_cursor({"#bob": Position(epoch, top + 3)})


class TestCommands:
    def test_a_disconnect_closes_what_the_user_has_here(self) -> None:
        """Fails if it does not, if somebody else's connection is closed, or the command is shown as a message."""
        here = Here()
        assert here.deliver(command(DisconnectUser(reason="enough"), user="bobb")) == 0
        assert not here.sink.closed
        assert here.deliver(command(DisconnectUser(reason="enough"))) == 1
        assert (here.sink.closed, here.sink.reason) == (CloseCode.FORCED, "enough")
        assert not here.sink.frames

    def test_an_unsubscribe_reaches_whoever_drives_the_connection(self) -> None:
        """Fails if the channel's name does not arrive, or a connection that nobody drives breaks it."""
        here = Here()
        assert here.deliver(command(UnsubscribeUser("room:1"))) == 1
        left: list[Command] = []
        here.bob.on_command = left.append
        here.deliver(command(UnsubscribeUser("room:1")))
        assert left == [UnsubscribeUser("room:1")]

    def test_frames_for_a_session_are_no_command_for_a_user(self) -> None:
        """Fails if what another replica forwards is executed on connections, or does not reach the session's end."""
        here = Here()
        envelope = Envelope(msgspec.Raw(b"null"), channel="", node_id="n", command=Forward("s", b"{}"))
        assert here.deliver(envelope) == 0
        assert here.forwarded == [envelope]

    def test_its_own_command_was_carried_out_before(self) -> None:
        """Fails if the replica that gives a command carries it out again when it comes back: who is new goes too."""
        here = Here()
        assert here.deliver(command(DisconnectUser(), node_id="me")) == 0
        assert here.sink.closed is None

    def test_a_command_that_comes_twice_counts_once(self) -> None:
        """Fails if the bus and the look at what was kept each carry a command out."""
        here = Here()
        left: list[Command] = []
        here.bob.on_command = left.append
        for _ in range(2):
            here.deliver(command(UnsubscribeUser("room:1"), message_id="m"))
        assert left == [UnsubscribeUser("room:1")]

    def test_an_old_command_spares_who_came_after_it(self) -> None:
        """Fails if somebody who connected after a command is disconnected by it, since it was found late."""
        here = Here()
        assert here.commands.carry_out(command(DisconnectUser()), age_s=5.0) == 0
        assert here.sink.closed is None
        here.bob.since -= 6.0
        assert here.commands.carry_out(command(DisconnectUser()), age_s=5.0) == 1


def command(what: Command, user: str = "bob", **fields: Any) -> Envelope:
    return Envelope(msgspec.Raw(b"null"), target_user_id=user, command=what, **fields)
