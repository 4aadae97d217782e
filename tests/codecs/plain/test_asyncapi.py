"""The AsyncAPI document: it is made from the code, and what goes over a real socket is what it says."""

import asyncio
import json
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from heliograph.codecs.plain.asyncapi import ANSWERS, document
from heliograph.codecs.plain.client_frames import ClientFrame
from heliograph.codecs.plain.server_frames import ServerFrame
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.replicas import RunningReplica
from tests.support.site import Site
from tests.support.tokens import JWT, token

DOCUMENT = document(metadata.version("heliograph"))
COMMITTED = Path(__file__).parents[3] / "docs" / "asyncapi.json"


def test_the_committed_document_is_the_present_one() -> None:
    """Fails if what can be said is changed and the document is not. `heliograph asyncapi >docs/asyncapi.json`"""
    committed = json.loads(COMMITTED.read_text(encoding="utf-8"))
    # What is installed may be of another version than the sources; tests/test_public_names.py looks at that.
    assert committed == json.loads(json.dumps(document(committed["info"]["version"])))


def test_every_reference_leads_somewhere() -> None:
    """Fails if a message or a schema is referred to that is not there."""

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [each for value in node.values() for each in references(value)]
        return [each for value in node for each in references(value)] if isinstance(node, list) else []

    for reference in references(DOCUMENT):
        place: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_every_operation_and_every_event_is_in_it() -> None:
    """Fails if something that can be said is left out: it must be asked for, be an answer, or come unasked."""
    assert set(ANSWERS) == set(get_args(ClientFrame))
    operations = DOCUMENT["operations"]
    answers = [each for operation in operations.values() for each in operation.get("reply", {}).get("messages", [])]
    named = {each["$ref"].rpartition("/")[2] for each in (*answers, *operations["tell"]["messages"])}
    assert named == {frame.__name__ for frame in get_args(ServerFrame)}


class Heard(Client):
    """A client that keeps every frame, in both directions."""

    def __init__(self, one: RunningReplica, user: str | None = None) -> None:
        super().__init__(one.url, user=user)
        self.said: list[dict[str, Any]] = []
        self.heard: list[dict[str, Any]] = []

    async def say(self, frame: dict[str, Any] | str) -> None:
        if isinstance(frame, dict):
            self.said.append(frame)
        await super().say(frame)

    async def next(self, *types: str, within_s: float = 5.0, **fields: Any) -> dict[str, Any]:
        frame = await super().next(*types, within_s=within_s, **fields)
        self.heard.append(frame)
        return frame

    async def ask(self, operation: str, *answers: str, **fields: Any) -> dict[str, Any]:
        await self.say({"type": operation, "id": f"{operation}-1", **fields})
        return await self.next(*answers, id=f"{operation}-1")


CHAT = {"presence": True, "join_leave": True}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as site:
        yield site


@pytest.fixture
async def conversation(start_replica: StartReplica, site: Site) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Everything that clients can say and be told, on a replica that drains and one with tokens: (said, heard)."""
    one = await start_replica(
        hooks=site.urls("rpc"),
        namespaces={"chat": CHAT, "run": {"run": True, "client_publish": True}},
        presence={"grace_s": 0.05},
        drain={"grace_s": 0.5},
        emit={"events": ["clicked"]},
    )
    async with Heard(one, "alice") as alice, Heard(one) as carol:
        await carol.ask("connect", "connected", user="carol")
        await alice.ask("subscribe", "subscribed", channel="chat:1")
        async with Client(one.url, user="bob") as bob:
            await bob.say({"type": "subscribe", "channel": "chat:1"})
            await alice.next("join", user="bob")
            await alice.ask("presence", "presence", channel="chat:1")
        await alice.next("leave", user="bob")
        await alice.ask("publish", "ack", channel="chat:1", data={"text": "안녕", "n": [1, None, 2.5]})
        await alice.next("message", channel="chat:1")
        await alice.ask("publish", "ack", channel="chat:1", data=1, ephemeral=True)
        await alice.next("message", channel="chat:1")
        await alice.ask("history", "history", channel="chat:1", limit=10)
        await alice.ask("send", "ack", to="alice", data="hi")
        message = await alice.next("message", channel="#alice")
        await alice.ask("received", "received", cursor=message["cursor"])
        await alice.ask("send", "error", to="", data="hi")
        await alice.ask("emit", "ack", event="clicked", data={})
        await alice.ask("rpc", "rpc", method="price", data={})
        await alice.ask("subscribe", "subscribed", channel="run:42")
        await alice.next("initial_state")
        await alice.ask("publish", "ack", channel="run:42", data={"state": "RUNNING", "progress": 40, "message": "x"})
        await alice.next("progress")
        await alice.ask("unsubscribe", "unsubscribed", channel="chat:1")
        await alice.ask("ping", "pong")
        drain = asyncio.create_task(one.replica.node.drain())
        await alice.next("reconnect")
    await drain
    closed = await start_replica("replica-2", auth=JWT, redis_url=None)
    async with Heard(closed) as dave:
        await dave.ask("connect", "connected", token=token("dave", channels=["news"]))
        await dave.next("subscribed", channel="news")
        await dave.ask("refresh", "refreshed", token=token("dave"))
        await closed.replica.user_commands.unsubscribe_user("dave", "news")
        await dave.next("unsubscribed", channel="news")
    return alice.said + carol.said + dave.said, alice.heard + carol.heard + dave.heard


async def test_a_conversation_is_as_it_says(
    conversation: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    """Fails if a frame on the wire is none of those in the document, or a kind of frame was not looked at."""
    said, heard = conversation
    assert {frame["type"] for frame in said} == set(DOCUMENT["operations"]) - {"tell"}
    for frame in said:
        [operation] = [each for each in get_args(ClientFrame) if _tag(each) == frame["type"]]
        assert _fits(frame, operation.__name__)
    matched: set[str] = set()
    for frame in heard:
        candidates = [each.__name__ for each in get_args(ServerFrame) if _tag(each) == frame["type"]]
        fitting = [name for name in candidates if _fits(frame, name)]
        assert fitting, f"{frame} is none of {candidates}"
        matched.update(fitting)
    assert matched == {frame.__name__ for frame in get_args(ServerFrame)}


def _tag(struct: type) -> object:
    return struct.__struct_config__.tag  # type: ignore[attr-defined]


def _fits(frame: dict[str, Any], name: str) -> bool:
    """Valid, and nothing in it that the document does not mention."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    properties = DOCUMENT["components"]["schemas"][name]["properties"]
    return jsonschema.Draft202012Validator(schema).is_valid(frame) and set(frame) <= set(properties)
