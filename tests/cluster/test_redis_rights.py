"""A user of Redis who has the rights that docs/operations.md names, and no more."""

import re
from pathlib import Path

import pytest

from heliograph import Publisher, PublishError
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

HANDBOOK = Path(__file__).parents[2] / "docs" / "operations.md"


def documented_rights() -> list[str]:
    found = re.search(r"ACL SETUSER heliograph on >… (.*?)```", HANDBOOK.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1].split()


async def test_everything_works(own_redis: RedisServer, start_replica: StartReplica, namespace: str) -> None:
    """Fails if something needs a right that the handbook does not name, or INFO and CONFIG for what is kept."""
    rights = [
        right.replace("heliograph:", f"{namespace}:").replace("events*", f"{namespace}:events*")
        for right in documented_rights()
    ]
    assert own_redis.command("ACL", "SETUSER", "heliograph", "on", ">pass", *rights) == "OK"
    options = {
        "redis_url": own_redis.url.replace("redis://", "redis://heliograph:pass@"),
        "namespaces": {"lobby": {"presence": True, "join_leave": True}, "run": {"run": True}},
        "api": {"key": "6c1fa0b2d5e84f3d"},
    }
    one, two = [await start_replica(f"replica-{number}", **options) for number in (1, 2)]
    async with Client(one.url, user="alice") as alice, Client(two.url, user="bob") as bob:
        assert (await alice.send("bob", "kept"))["delivery"] == "remote"
        assert (await alice.send("bob", "ephemeral", ephemeral=True))["delivery"] == "remote"
        assert (await alice.send("bob", "once", idempotency_key="k"))["type"] == "ack"
        assert await bob.messages(3) == ["kept", "ephemeral", "once"]
        for client in (alice, bob):
            await client.say({"type": "subscribe", "channel": "lobby:1", "id": "s"})
            await client.next("subscribed", id="s")
        await alice.say({"type": "history", "channel": "lobby:1", "id": "h"})
        await alice.next("history", id="h")
        await alice.say({"type": "presence", "channel": "lobby:1", "id": "p"})
        assert "alice" in (await alice.next("presence", id="p"))["users"]
        async with http_client(two.url) as http:
            assert (await http.post("/api/ticket?user=bob")).status_code == 200
            headers = {"X-API-Key": "6c1fa0b2d5e84f3d"}
            for method, body in (
                ("publish", {"channel": "run:7", "data": {"state": "RUNNING"}, "idempotency_key": "k"}),
                ("channels", {}),
                ("info", {}),
                ("presence", {"channel": "lobby:1"}),
                ("disconnect", {"user": "alice"}),
            ):
                answer = (await http.post(f"/api/{method}", json=body, headers=headers)).json()
                assert "error" not in answer, (method, answer)
            assert (await http.get("/api/runs/7?user=bob")).json()["state"] == "RUNNING"
        assert await alice.close_code() == 3503
    assert one.replica.node.reason == two.replica.node.reason == ""


@pytest.mark.parametrize("missing", ["-xadd", "-getdel", "-hincrby", "-srandmember"])
async def test_what_is_missing_is_said(
    own_redis: RedisServer,
    start_replica: StartReplica,
    namespace: str,
    missing: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fails if a right that is missing shows as `try again` to clients, and nowhere else."""
    rights = [right.replace("heliograph:", f"{namespace}:") for right in documented_rights() if right[0] != "&"]
    own_redis.command("ACL", "SETUSER", "heliograph", "on", ">pass", *rights, "allchannels", missing)
    url = own_redis.url.replace("redis://", "redis://heliograph:pass@")
    one = await start_replica(redis_url=url, ready=False)
    await eventually(lambda: one.replica.node.reason == "redis_denied")
    assert missing[1:].upper() in caplog.text


@pytest.mark.parametrize(("password", "text"), [("", "asks for a password"), (":wrong@", "username-password pair")])
async def test_a_password_that_is_wrong_is_said(
    own_redis: RedisServer, start_replica: StartReplica, caplog: pytest.LogCaptureFixture, password: str, text: str
) -> None:
    """Fails if an operator whose URL has no password, or another one, is told to look whether Redis runs."""
    own_redis.command("CONFIG", "SET", "requirepass", "secret")
    url = own_redis.url.replace("redis://", f"redis://{password}")
    one = await start_replica(redis_url=url, ready=False)
    await eventually(lambda: one.replica.node.reason == "redis_denied")
    assert text in caplog.text
    with Publisher(url, deadline_s=0) as publisher, pytest.raises(PublishError, match=text):
        publisher.publish("news", 1)
