"""`heliograph pipe` and `heliograph publish` as a person runs them, watched on a real cluster."""

import asyncio
import json
import os
import pty
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.client.programs import HELIOGRAPH, ROOT, environment, program
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer


def _pipe(*words: str) -> tuple[str, ...]:
    return (*HELIOGRAPH, "pipe", *words)


def _waits_for(gate: Path) -> str:
    """Shell: wait until the test has made this file."""
    return f"while [ ! -e {shlex.quote(str(gate))} ]; do sleep 0.05; done"


async def _data_until_exit(viewer: Client) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1]["stream"] != "exit":
        seen.append((await viewer.next("message", within_s=10))["data"])
    await viewer.nothing_more()
    return seen


def _lines(seen: list[dict[str, Any]], stream: str) -> list[str]:
    return [data["line"] for data in seen if data["stream"] == stream]


async def test_each_line_comes_at_once_and_the_exit_code_last(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    """Fails if a program that buffers away from a terminal is seen only at its end, or its exit code is lost."""
    gate = tmp_path / "gate"
    script = (
        "import os, sys, time\n"
        "print('one')\n"  # not flushed
        "sys.stderr.write('careful\\n')\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
        "print('two')\n"
        "sys.exit(3)\n"
    )
    replica = await start_replica()
    async with (
        Client(replica.url, user="ann", path="/ws/logs/101") as ann,
        program(
            *_pipe("logs:101", "--", sys.executable, "-c", script), env=environment(redis_server.url, namespace)
        ) as pipe,
    ):
        first = [(await ann.next("message", within_s=10))["data"] for _ in range(2)]
        assert pipe.running
        assert {(data["line"], data["stream"]) for data in first} == {("one", "stdout"), ("careful", "stderr")}
        gate.touch()
        rest = await _data_until_exit(ann)
        assert await pipe.ends() == 3
    assert rest == [{"line": "two", "stream": "stdout"}, {"exit_code": 3, "stream": "exit"}]
    assert pipe.out == ["one", "two"]
    assert pipe.err == ["careful"]


@pytest.mark.parametrize(("command", "state", "code"), [("exit 0", "END", 0), ("exit 4", "FAILED", 4)])
async def test_a_run_gets_its_log_and_its_end(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, command: str, state: str, code: int
) -> None:
    """Fails if a run that is a piped command has no log, or does not end with the command."""
    replica = await start_replica()
    async with Client(replica.url, user="ann", path="/ws/runs/20251105_1430_우주여행고양이") as ann:
        words = ("run:20251105_1430_우주여행고양이", "--quiet", "--", "sh", "-c", f"echo working; {command}")
        async with program(*_pipe(*words), env=environment(redis_server.url, namespace)) as pipe:
            assert await pipe.ends() == code
            assert pipe.out == pipe.err == []
        seen = [await ann.next("progress") for _ in range(3)]
    assert [(frame["state"], frame["message"]) for frame in seen[:2]] == [("RUNNING", None), ("RUNNING", "working")]
    assert seen[2]["state"] == state
    assert seen[2]["progress"] == (100 if code == 0 else 0)


async def test_signals_reach_the_command(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if stopping the pipe kills it instead of the command, or loses what that says on its way out."""
    script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    replica = await start_replica()
    async with (
        Client(replica.url, user="ann", path="/ws/logs/101") as ann,
        program(*_pipe("logs:101", "--", "sh", "-c", script), env=environment(redis_server.url, namespace)) as pipe,
    ):
        await pipe.says("ready")
        pipe.process.send_signal(signal.SIGTERM)
        assert await pipe.ends() == 7
        seen = await _data_until_exit(ann)
    assert _lines(seen, "stdout") == ["ready", "bye"]
    assert seen[-1]["exit_code"] == 7


async def test_a_killed_command_and_one_that_leaves_a_child(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if death by a signal looks like success, or a daemon that keeps the output open holds up the pipe."""
    replica = await start_replica()
    script = "sleep 30 & echo $!; kill -9 $$"
    async with (
        Client(replica.url, user="ann", path="/ws/logs/101") as ann,
        program(*_pipe("logs:101", "--", "sh", "-c", script), env=environment(redis_server.url, namespace)) as pipe,
    ):
        assert await pipe.ends(within_s=8) == 128 + signal.SIGKILL
        seen = await _data_until_exit(ann)
    assert seen[-1] == {"exit_code": 137, "stream": "exit"}
    await asyncio.create_subprocess_exec("kill", pipe.out[0])


async def test_without_redis_the_command_runs_as_ever(namespace: str) -> None:
    """Fails if the absence of Redis holds up, breaks or kills the command, or is kept quiet."""
    env = environment(f"redis://127.0.0.1:{free_port()}/0", namespace)
    words = ("--wait", "0.2", "logs:101", "--", "sh", "-c", "seq 3000; exit 5")
    began = time.monotonic()
    async with program(*_pipe(*words), env=env) as pipe:
        assert await pipe.ends() == 5
    assert time.monotonic() - began < 6
    assert pipe.out == [str(n) for n in range(1, 3001)]
    assert "3000 lines could not be published" in pipe.err[-1]


async def test_what_does_not_fit_while_redis_is_away_is_counted(
    start_replica: StartReplica, own_redis: RedisServer, namespace: str, tmp_path: Path
) -> None:
    """Fails if lines are lost in silence while Redis is frozen, if the newest go first, or any comes twice."""
    more, end = tmp_path / "more", tmp_path / "end"
    script = f"echo go; {_waits_for(more)}; seq 30; {_waits_for(end)}; echo end"
    words = ("--buffer", "10", "logs:101", "--", "sh", "-c", script)
    own_redis.freeze()
    async with program(*_pipe(*words), env=environment(own_redis.url, namespace)) as pipe:
        await pipe.says("kept and sent later")
        more.touch()
        await pipe.says("30")
        own_redis.thaw()
        await pipe.says("reached again")
        end.touch()
        assert await pipe.ends() == 0
        assert "20 lines could not be published" in pipe.err[-1]
    replica = await start_replica(redis_url=own_redis.url)
    async with Client(replica.url, user="ann", path="/ws/logs/101") as ann:
        seen = await _data_until_exit(ann)
    assert _lines(seen, "stdout") == ["go", *(str(n) for n in range(21, 31)), "end"]
    assert seen[1] == {"dropped": 20, "stream": "dropped"}


async def test_standard_input_and_plain_text(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if what is piped in is not published to its last byte, or --plain lets control sequences through."""
    env = environment(redis_server.url, namespace)
    replica = await start_replica()
    async with Client(replica.url, user="ann", path="/ws/logs/101") as ann:
        for words, texts in (((), ["\x1b[31mred\x1b[0m", "\ufffd end"]), (("--plain",), ["red", "\ufffd end"])):
            async with program(*_pipe("logs:101", *words), env=env, stdin=asyncio.subprocess.PIPE) as pipe:
                assert pipe.process.stdin is not None
                pipe.process.stdin.write(b"\x1b[31mred\x1b[0m\n\xff")
                assert (await ann.next("message", within_s=10))["data"] == {"line": texts[0], "stream": "stdout"}
                pipe.process.stdin.write(b" end")
                pipe.process.stdin.close()
                assert await pipe.ends() == 0
            assert (await ann.messages(1)) == [{"line": texts[1], "stream": "stdout"}]
        await ann.nothing_more()


async def test_a_command_that_cannot_be_run(redis_server: RedisServer, namespace: str) -> None:
    """Fails if the exit codes of shells (127, 126) or the reason are not given."""
    for command, code in (("no-such-command", 127), ("/etc/passwd", 126)):
        async with program(*_pipe("logs:101", "--", command), env=environment(redis_server.url, namespace)) as pipe:
            assert await pipe.ends() == code
        assert f"cannot run '{command}'" in pipe.err[0]


FULL = "No space left on device"


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        (">/dev/full", f"standard output: {FULL}; nothing more is shown there"),
        ("2>/dev/full", ""),
        (">/dev/full 2>/dev/full", ""),
        (">&-", ""),
        ("2>&-", ""),
        ("<&- >&- 2>&-", ""),
        ("| true", ""),
    ],
)
async def test_an_output_that_takes_nothing(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, redirection: str, said: str
) -> None:
    """Fails if the job ends, or its lines or its exit code are lost, because nobody can be shown its output."""
    replica = await start_replica()
    job = "for n in 1 2 3; do echo line $n; echo careful $n >&2; sleep 0.1; done; exit 7"
    pipe = shlex.join(_pipe("run:42", "--", "sh", "-c", job))
    code = "${PIPESTATUS[0]}" if redirection.startswith("|") else "$?"
    script = f"{pipe} {redirection}; echo code {code} >/dev/stderr" if said else f"{pipe} {redirection}; exit {code}"
    async with program("bash", "-c", script, env=environment(redis_server.url, namespace)) as shell:
        ended = await shell.ends()
    if said:
        assert f"heliograph: {said}" in shell.err
        assert "code 7" in shell.err
    else:
        assert ended == 7
    assert not any("Traceback" in line for line in shell.err)
    async with Client(replica.url, user="ann", path="/ws/runs/42") as ann:
        state = await ann.next("initial_state")
    assert state["state"] == "FAILED"
    assert sorted(state["logs"][:-1]) == sorted(
        [*(f"line {n}" for n in (1, 2, 3)), *(f"careful {n}" for n in (1, 2, 3))]
    )
    assert state["logs"][-1] == "exit code 7"


async def test_an_output_that_does_not_block(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a full pipe that another program has made non-blocking is an error, or anything is left out of it."""
    replica = await start_replica()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = await asyncio.create_subprocess_exec(
        *_pipe("run:42", "--", "sh", "-c", "seq 20000; exit 7"),
        cwd=ROOT,
        env=environment(redis_server.url, namespace),
        stdout=writer,
    )
    os.close(writer)

    def read_slowly() -> bytes:
        with open(reader, "rb") as output:
            pieces = []
            while piece := output.read(65_536):
                pieces.append(piece)
                time.sleep(0.02)
        return b"".join(pieces)

    shown = await asyncio.to_thread(read_slowly)
    assert await asyncio.wait_for(process.wait(), 20) == 7
    assert shown.split() == [b"%d" % n for n in range(1, 20_001)]
    async with Client(replica.url, user="ann", path="/ws/runs/42") as ann:
        assert (await ann.next("initial_state"))["state"] == "FAILED"


async def test_a_terminal_that_is_gone(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    """Fails if a job that outlives its terminal is ended by the pipe, or not published to its end."""
    replica = await start_replica()
    gate = tmp_path / "gate"
    ours, theirs = pty.openpty()
    job = f"echo ready; {_waits_for(gate)}; seq 100; exit 7"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", "trap '' HUP; exec \"$@\"", "sh"),
        *_pipe("run:42", "--", "sh", "-c", job),
        cwd=ROOT,
        env=environment(redis_server.url, namespace),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    async with Client(replica.url, user="ann", path="/ws/runs/42") as ann:
        await ann.next("progress", message="ready", within_s=10)
        os.close(ours)
        gate.touch()
        await ann.next("progress", message="100", within_s=10)
        await ann.next("progress", state="FAILED")
    assert await asyncio.wait_for(process.wait(), 10) == 7


async def test_no_pager_is_switched_on(redis_server: RedisServer, namespace: str, tmp_path: Path) -> None:
    """Fails if `git log` waits in a pager because of our terminal, or a pager that was asked for is not used."""
    git = f"git -C {shlex.quote(str(tmp_path))} -c user.name=ann -c user.email=ann@localhost"
    show = (
        f"{git} init -q; {git} commit -q --allow-empty -m shown; "
        f"echo $PAGER-$GIT_PAGER-$MANPAGER; {git} log -1 --format=%s; echo $?"
    )
    env = {name: value for name, value in environment(redis_server.url, namespace).items() if "PAGER" not in name}
    for more, pagers in (({}, "cat-cat-cat"), ({"PAGER": "less", "GIT_PAGER": "tail"}, "less-tail-cat")):
        async with program(*_pipe("logs:101", "--", "sh", "-c", show), env={**env, **more}) as pipe:
            assert await pipe.ends() == 0
        assert pipe.out == [pagers, "shown", "0"]
    async with program(*_pipe("logs:101", "--no-pty", "--", "sh", "-c", show), env=env) as pipe:
        assert await pipe.ends() == 0
    assert pipe.out == ["--", "shown", "0"]


async def test_an_input_that_cannot_be_read(redis_server: RedisServer, namespace: str) -> None:
    """Fails if what could not be read looks like what has been read."""
    script = f"{shlex.join(_pipe('run:42'))} 0>/dev/null"
    async with program("bash", "-c", script, env=environment(redis_server.url, namespace)) as pipe:
        assert await pipe.ends() == 1
    assert pipe.err == ["heliograph: cannot read standard input: Bad file descriptor"]


async def test_publish_where_nobody_can_be_told(redis_server: RedisServer, namespace: str) -> None:
    """Fails if what is published looks as if it were not, so that it is published again."""
    publish = shlex.join((*HELIOGRAPH, "publish", "news", "1"))
    for redirection, says in ((">/dev/full", "published at news="), (">&-", ""), ("<&- 2>&- >/dev/null", "")):
        env = environment(redis_server.url, namespace)
        async with program("bash", "-c", f"{publish} {redirection}", env=env) as running:
            assert await running.ends() == 0
        assert [line.partition("heliograph: ")[2][: len(says)] for line in running.err] == ([says] if says else [])
    async with program(*HELIOGRAPH, "publish", "news", b"\xff".decode("utf-8", "surrogateescape"), env=env) as bad:
        assert await bad.ends() == 1
    assert "Traceback" not in " ".join(bad.err)


async def test_publish(start_replica: StartReplica, redis_server: RedisServer, namespace: str) -> None:
    """Fails if JSON, text, users or repetitions are not told apart, or a failure looks like success."""

    async def publish(*words: str, url: str = redis_server.url) -> tuple[int, str]:
        async with program(*HELIOGRAPH, "publish", *words, env=environment(url, namespace)) as running:
            return await running.ends(), " ".join((*running.out, *running.err))

    replica = await start_replica()
    async with Client(replica.url, user="bob", path="/ws") as bob:
        await bob.say({"type": "subscribe", "channel": "news"})
        await bob.next("subscribed")
        text = json.dumps({"text": "안녕"}, ensure_ascii=False)
        answers = await asyncio.gather(publish("--user", "bob", text), publish("news", "--text", "7"))
        got = [await bob.next("message") for _ in answers]
        assert {(frame["channel"], str(frame["data"])) for frame in got} == {
            ("#bob", "{'text': '안녕'}"),
            ("news", "7"),
        }
        assert sorted(answers) == sorted((0, frame["cursor"]) for frame in got)
    refused, failed = await asyncio.gather(
        publish("run:7", "no update"), publish("--wait", "0.2", "news", "x", url="redis://127.0.0.1:1/0")
    )
    assert refused[0] == failed[0] == 1
    assert "a run's update is an object" in refused[1]
    assert "Redis cannot be reached" in failed[1]
