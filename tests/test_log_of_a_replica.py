"""What a replica writes while clients do what they like: whole JSON lines, no token, no body."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.client import Client
from tests.support.ports import free_port
from tests.support.tokens import SECRET, token
from tests.support.waiting import eventually

BODY = "nobody-but-bob-may-read-this"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "replica.log"


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


async def test_neither_tokens_nor_bodies_are_logged_at_any_level(log: Path) -> None:
    """Fails if a line is not JSON, does not say whom it is about, or shows what nobody but the users may see."""
    port = free_port()
    environment = {
        **os.environ,
        "HELIOGRAPH_AUTH__MODE": "jwt",
        "HELIOGRAPH_AUTH__SECRET": SECRET,
        "HELIOGRAPH_NAMESPACES": '{"#":{"client_send":true}}',
        "HELIOGRAPH_LOG__LEVEL": "debug",
        "HELIOGRAPH_LOG__FORMAT": "json",
        "HELIOGRAPH_DRAIN__GRACE_S": "0",
    }
    command = [sys.executable, "-m", "heliograph", "serve", "--port", str(port), "--name", "replica-5"]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=output, stderr=output)
    try:
        await eventually(lambda: any("serves on" in each["message"] for each in lines(log)), within_s=30)
        good, expired = token("alice\u202e고양이"), token(expires_in=-60)
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(InvalidStatus):
            async with Client(url, path=f"/ws?token={good}"):
                pass
        async with Client(url) as alice:
            await alice.say({"type": "connect", "token": good})
            await alice.next("connected")
            await alice.say({"type": "send", "to": "alice\u202e고양이", "data": BODY})
            await alice.next("message")
            await alice.say(f'{{"type":"send","to":"bob","data":"{BODY}')
            await alice.next("error")
        async with Client(url) as mallory:
            await mallory.say({"type": "connect", "token": expired})
            assert await mallory.close_code() == 3005
        with pytest.raises(InvalidStatus):
            async with Client(url, path=f"/nowhere?token={good}"):
                pass
        await eventually(lambda: sum(each["message"].startswith("ended") for each in lines(log)) == 2)
    finally:
        process.terminate()
        await process.wait()
    logged = lines(log)
    for secret in (good, expired, good.rpartition(".")[2], SECRET, BODY):
        assert not any(secret in str(value) for each in logged for value in each.values())
    assert {each["replica"] for each in logged} == {"replica-5"}
    [came] = [each for each in logged if each["message"] == "connected"]
    assert came["user"] == "alice\u202e고양이"
    [went] = [each for each in logged if each["message"] == "ended (1000)"]
    assert went["connection"] == came["connection"]
    assert [each["level"] for each in logged if each["level"] not in ("debug", "info")] == []
