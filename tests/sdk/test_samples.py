"""The samples of docs/sdks.md, as they stand there, beside a client of the plain protocol."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartReplica
from tests.sdk.sdks import DRIVERS, build_java, install_javascript
from tests.support.client import Client
from tests.support.cluster import ROOT

pytestmark = pytest.mark.e2e


def sample(language: str, url: str) -> str:
    """The first sample in that language, with the address of this replica."""
    text = (ROOT / "docs" / "sdks.md").read_text(encoding="utf-8")
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"docs/sdks.md has no sample in {language}"
    assert "ws://localhost:8080/" in found[1]
    return found[1].replace("ws://localhost:8080", url.replace("http", "ws", 1))


def prepare(language: str, code: str, place: Path) -> list[str]:
    """Put the program there, as its reader would; return the command that runs it."""
    match language:
        case "js":
            (place / "node_modules").symlink_to(install_javascript() / "node_modules")
            (place / "lobby.mjs").write_text(code, encoding="utf-8")
            (place / "websocket.mjs").write_text('globalThis.WebSocket = (await import("ws")).WebSocket;\n')
            return ["node", "--import", f"{place}/websocket.mjs", f"{place}/lobby.mjs"]
        case "python":
            return [sys.executable, "-u", "-c", code]
        case "go":
            for file in ("go.mod", "go.sum"):
                shutil.copy(DRIVERS / "go" / file, place)
            (place / "main.go").write_text(code, encoding="utf-8")
            subprocess.run(["go", "build", "-o", "lobby", "."], cwd=place, check=True, timeout=120)
            return [f"{place}/lobby"]
        case "java":
            packages = build_java()
            (place / "Lobby.java").write_text(code, encoding="utf-8")
            subprocess.run(
                ["javac", "-d", place, "-cp", packages, place / "Lobby.java"], check=True, timeout=120, env=os.environ
            )
            return ["java", "-cp", f"{place}:{packages}", "Lobby"]
    raise ValueError(language)


async def test_sample(language: str, start_replica: StartReplica, tmp_path: Path) -> None:
    """Fails if a sample does not do what it says: publish, hear itself, and hear what a plain client sends."""
    replica = await start_replica()
    command = await asyncio.to_thread(prepare, language, sample(language, replica.url), tmp_path)
    async with Client(replica.url, user="bob") as bob:
        await bob.say({"type": "subscribe", "channel": "chat:lobby"})
        await bob.next("subscribed")
        program = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert program.stdout is not None
        try:
            line = await asyncio.wait_for(program.stdout.readline(), 20)
            assert re.fullmatch(rb"1 alice .*hello.*\n", line)
            message = await bob.next("message")
            assert (message["data"], message["from"]) == ({"text": "hello"}, "alice")
            await bob.send("alice", {"text": "to you"})
            line = await asyncio.wait_for(program.stdout.readline(), 20)
            assert re.fullmatch(rb"#alice .*to you.*\n", line)
        finally:
            program.kill()
            await program.wait()
