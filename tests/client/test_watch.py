"""`heliograph watch` as a person runs it, against real replicas; its rules without a socket."""

import asyncio
import contextlib
import shlex
import signal
from collections.abc import AsyncIterator

import pytest

from heliograph.client.connection.events import Lost, Message, RunProgress, RunState, Subscribed
from heliograph.client.publisher import Publisher
from heliograph.client.watch import Kind, Print, View
from tests.client.programs import HELIOGRAPH, environment, program
from tests.conftest import StartReplica
from tests.support.redis_server import RedisServer


@pytest.fixture
def publisher(redis_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    for name, value in environment(redis_server.url, namespace).items():
        if name.startswith("HELIOGRAPH_"):
            monkeypatch.setenv(name, value)
    return Publisher()


def _watch(channel: str, port: int | str, *words: str) -> tuple[str, ...]:
    return (*HELIOGRAPH, "watch", channel, "--url", f"ws://127.0.0.1:{port}/ws", *words)


def _port(url: str) -> str:
    return url.rpartition(":")[2]


class Switch:
    """A port of loopback whose connections go where `target` says, until they are cut."""

    def __init__(self) -> None:
        self.target = ""  # a port; '' refuses
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.target:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(self.target))
        self._open |= {writer, far_writer}
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self._open.discard(writer)


@pytest.fixture
async def switch() -> AsyncIterator[Switch]:
    way = Switch()
    server = await asyncio.start_server(way.serve, "127.0.0.1", 0)
    way.port = server.sockets[0].getsockname()[1]
    yield way
    server.close()
    way.cut()


async def _publish(publisher: Publisher, channel: str, *datas: object) -> None:
    for data in datas:
        await asyncio.to_thread(publisher.publish, channel, data)


async def test_a_log_from_its_start_and_live_until_interrupted(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, publisher: Publisher
) -> None:
    """Fails if what came before is missing, streams are mixed up, or a line can do more than colour the terminal."""
    replica = await start_replica()
    await _publish(publisher, "logs:101", {"line": "one", "stream": "stdout"})
    env = environment(redis_server.url, namespace)
    async with program(*_watch("logs:101", _port(replica.url)), env=env) as watch:
        await watch.says("one")
        await _publish(
            publisher,
            "logs:101",
            {"line": "careful", "stream": "stderr"},
            {"line": "two \x1b]0;title\x07", "stream": "stdout", "more": True},
            {"line": "halves", "stream": "stdout"},
            {"dropped": 3, "stream": "dropped"},
            {"exit_code": 4, "stream": "exit"},
            "text",
            {"any": "thing"},
        )
        await watch.says("thing")
        watch.process.send_signal(signal.SIGINT)
        assert await watch.ends() == 130
    assert watch.out == ["one", "two halves", "text", '{"any": "thing"}']
    assert watch.err[0] == "careful"
    assert "3 lines are missing" in watch.err[1]
    assert watch.err[2:] == ["heliograph: ended with exit code 4"]


@pytest.mark.parametrize(("end", "code"), [("END", 0), ("FAILED", 1)])
async def test_a_run_until_its_end(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, publisher: Publisher, end: str, code: int
) -> None:
    """Fails if a script cannot tell by the exit code how a run ended, or the progress is not shown."""
    run = "run:20251105_1430_우주여행고양이"
    replica = await start_replica()
    await _publish(publisher, run, {"state": "RUNNING", "progress": 10, "message": "begun"})
    env = environment(redis_server.url, namespace)
    async with program(*_watch(run, _port(replica.url)), env=env) as watch:
        await watch.says("begun")
        await _publish(publisher, run, {"progress": 50, "message": "half"}, {"state": end, "message": "over"})
        assert await watch.ends() == code
    assert watch.out == ["begun", "half", "over"]
    assert [line.split("] ")[1] for line in watch.err] == [" 10 %  RUNNING", " 50 %  RUNNING", f" 50 %  {end}"]
    async with program(*_watch(run, _port(replica.url)), env=env) as late:
        assert await late.ends() == code
    assert late.out == ["begun", "half", "over"]


@pytest.mark.parametrize("channel", ["logs:101", "run:42", "#ann", "news"])
async def test_it_comes_back_on_another_replica_where_it_was(
    start_replica: StartReplica,
    redis_server: RedisServer,
    namespace: str,
    publisher: Publisher,
    switch: Switch,
    channel: str,
) -> None:
    """Fails if a line is lost or comes twice because the connection broke, even if many were the same."""

    def line(text: str) -> object:
        return {"message": text} if channel.startswith("run:") else {"line": text, "stream": "stdout"}

    first, second = await start_replica("replica-1"), await start_replica("replica-2")
    switch.target = _port(first.url)
    env = environment(redis_server.url, namespace)
    await _publish(publisher, channel, line("same"))
    async with program(*_watch(channel, switch.port, "--replay"), env=env) as watch:
        await watch.says("same")
        await _publish(publisher, channel, line("same"), line("live"))
        await watch.says("live")
        switch.target = ""
        switch.cut()
        await watch.says("trying again")
        await _publish(publisher, channel, line("same"), line("same"), line("missed"))
        switch.target = _port(second.url)
        await watch.says("missed")
        switch.cut()
        await _publish(publisher, channel, line("same"), line("last"))
        await watch.says("last")
    assert watch.out == ["same", "same", "live", "same", "same", "missed", "same", "last"]


async def test_it_leaves_a_replica_that_drains(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, publisher: Publisher, switch: Switch
) -> None:
    """Fails if a deploy loses a line of a log that somebody watches, or shows one twice."""
    first, second = await start_replica("replica-1"), await start_replica("replica-2")
    switch.target = _port(first.url)
    env = environment(redis_server.url, namespace)
    async with program(*_watch("logs:101", switch.port), env=env) as watch:
        await _publish(publisher, "logs:101", "one")
        await watch.says("one")
        switch.target = _port(second.url)
        stopping = asyncio.create_task(first.stop())
        await _publish(publisher, "logs:101", *(f"line {n}" for n in range(50)), "last")
        await watch.says("last")
        await stopping
    assert watch.out == ["one", *(f"line {n}" for n in range(50)), "last"]


async def test_what_would_fail_again_ends_it(start_replica: StartReplica, namespace: str) -> None:
    """Fails if a person waits for ever on a cluster that has refused them, without a word."""
    closed = await start_replica("replica-1", auth={"mode": "jwt", "secret": "s" * 32})
    env = environment("redis://127.0.0.1:1/0", namespace)
    async with program(*_watch("logs:101", _port(closed.url), "--token", "no"), env=env) as watch:
        assert await watch.ends() == 2
    assert "token" in watch.err[-1]
    assert watch.out == []


async def test_it_finds_the_cluster_of_this_machine_whatever_proxy_is_set(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, publisher: Publisher
) -> None:
    """Fails if what is on loopback is asked for of a proxy, or the port that `heliograph up` uses is not."""
    replica = await start_replica()
    proxies = {f"{kind}_PROXY": "http://127.0.0.1:9" for kind in ("HTTP", "HTTPS", "ALL")}
    proxies |= {name.lower(): value for name, value in proxies.items()}
    port = _port(replica.url)
    env = environment(redis_server.url, namespace, HELIOGRAPH_PORT=port, **proxies)
    env.pop("no_proxy", None)
    env.pop("NO_PROXY", None)
    await _publish(publisher, "logs:101", "one")
    for words in ((), ("--url", f"ws://127.0.0.1:{port}/ws"), ("--url", f"ws://localhost:{port}/ws")):
        async with program(*HELIOGRAPH, "watch", "logs:101", *words, env=env) as watch:
            await watch.says("one")


@pytest.mark.parametrize(("redirection", "code"), [("| head -1", 141), (">/dev/full", 2)])
async def test_an_output_that_takes_nothing(
    start_replica: StartReplica,
    redis_server: RedisServer,
    namespace: str,
    publisher: Publisher,
    redirection: str,
    code: int,
) -> None:
    """Fails if a reader that has left (`head`) or a full disk is taken for the network, and tried again for ever."""
    replica = await start_replica()
    await _publish(publisher, "logs:101", "one")
    command = f"{shlex.join(_watch('logs:101', _port(replica.url)))} {redirection}; exit ${{PIPESTATUS[0]}}"
    async with program("bash", "-c", command, env=environment(redis_server.url, namespace)) as watch:
        if code == 141:
            await watch.says("one")
        while watch.running:
            await _publish(publisher, "logs:101", "two")
            await asyncio.sleep(0.05)
        assert await watch.ends() == code
    assert not any("trying again" in line for line in watch.err)


async def test_text_that_the_terminal_cannot_show(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, publisher: Publisher
) -> None:
    """Fails if a line in Korean ends the watch where the terminal knows only ASCII."""
    replica = await start_replica()
    await _publish(publisher, "logs:101", "고양이", "two")
    env = environment(redis_server.url, namespace, PYTHONIOENCODING="ascii")
    async with program(*_watch("logs:101", _port(replica.url)), env=env) as watch:
        await watch.says("two")
    assert watch.out[0] == "\\uace0\\uc591\\uc774"


# -- the rules


def _at(cursor: str, *, recovered: bool = True) -> Subscribed:
    return Subscribed("run:42", cursor, recovered=recovered, lost=False, anew=False)


def _run_view(*logs: str) -> View:
    view = View("run:42")
    view.receive(_at("run%3A42=e1.3"))
    assert view.receive(RunState("run:42", "RUNNING", 1, logs)) == [Print(line) for line in logs]
    return view


def _back_at(view: View, cursor: str, *logs: str) -> None:
    view.receive(_at(cursor))
    assert view.receive(RunState("run:42", "END", 9, logs)) == []


def _publications(*entries: tuple[str, str | None]) -> list[Message]:
    return [Message("run:42", {"message": text}, "m", "now", cursor, None, None, "") for cursor, text in entries]


def test_a_run_goes_on_behind_what_was_missed() -> None:
    """Fails if a line is left out or comes twice, or the watch ends before all was shown."""
    view = _run_view("a")
    _back_at(view, "run%3A42=e1.5", "a", "b")
    assert view.cursor == "run%3A42=e1.3"
    assert not view.ended
    shown = view.read(_publications(("run%3A42=e1.4", None), ("run%3A42=e1.5", "b"), ("run%3A42=e1.6", "live")))
    assert shown == [Print("b")]
    assert view.receive(RunProgress("run:42", "END", 9, "live")) == [Print("live")]
    assert view.cursor == "run%3A42=e1.6"
    assert view.ended


def test_a_run_whose_past_is_lost_says_so() -> None:
    """Fails if a gap in a run's log is papered over: the log began anew, or its beginning was trimmed."""
    for entries in ([("run%3A42=e2.4", "b")], [("run%3A42=e1.9", "b")], []):
        view = _run_view("a")
        _back_at(view, "run%3A42=e2.9" if entries[:1] == [("run%3A42=e2.4", "b")] else "run%3A42=e1.9", "x", "y")
        shown = view.read(_publications(*entries))
        assert shown[0].kind is Kind.NOTE
        assert shown[1:] == [Print("x"), Print("y")]
        assert view.ended


def test_a_run_that_lost_something_while_it_was_watched_is_read_on() -> None:
    """Fails if what was lost was the run's end, and the watch waits for it for ever."""
    view = _run_view("a")
    assert view.receive(_at("run%3A42=e2.5", recovered=False)) == []
    assert view.receive(RunState("run:42", "END", 9, ("a", "b"))) == []
    assert [line.text for line in view.read(_publications(("run%3A42=e2.5", "b")))][1:] == ["a", "b"]
    assert view.ended


def test_a_log_whose_past_is_lost_says_so() -> None:
    """Fails if a loss is not told to the person who watches."""
    assert [line.kind for line in View("logs:1").receive(Lost("logs:1"))] == [Kind.NOTE]
