"""The benchmark: that it measures what it says, and that its page says what was measured."""

import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest

import loadtest.bench.__main__ as bench
from loadtest.bench import processes
from loadtest.bench.measure import Failed, Work, measure, speech_of
from loadtest.bench.page import BEGIN, END, write_page
from loadtest.bench.parts import PARTS, Part
from loadtest.bench.systems import BODY, BODY_BYTES, HERE, SYSTEMS, Speech, System, rows

HELIOGRAPH, EPHEMERAL = SYSTEMS[:2]
[MIXED] = [system for system in SYSTEMS if system.name == "heliograph-mixed"]


def record(system: str, name: str, figures: dict[str, float], **work: Any) -> dict[str, Any]:
    return {"system": system, "at": 0.0, **vars(Work(name, **work)), "figures": figures}


def sent(per_s: float, p99_ms: float = 5.0) -> dict[str, float]:
    figures = {"deliveries_per_s": per_s, "cpu_us": 1e6 / per_s, "kernel_us": 0.5e6 / per_s, "server_cpu": 1.0}
    return {
        **figures,
        "bytes_each": 500.0,
        "redis_us": 5.0,
        "client_cpu": 0.5,
        "p50_us": p99_ms * 500,
        "p99_us": p99_ms * 1000,
    }


def idle(kib: float) -> dict[str, float]:
    figures = {"memory_kib": kib, "empty_kib": 60_000, "connections": 5000, "idle_cpu": 0.01}
    return {**figures, "connects_per_s": 3000.0, "connect_us": 300.0}


def connects(us: float) -> dict[str, float]:
    return {"connects_per_s": 1e6 / us, "connect_us": us}


def foreign(us: float, envelopes: float) -> dict[str, float]:
    return {"sides_us": 200.0, "foreign_us": us, "envelopes": envelopes}


WAYS = ("bound", "publish", "bound_many", "log_many", "async_many")
BETWEEN: dict[str, Any] = {"subscribers": 50, "to": "user", "publishers": 50, "replicas": 2}
RECORDS = [
    *(record("heliograph", "growth", sent(per_s), subscribers=1000) for per_s in (3e5, 5e5, 4e5)),
    *(record(name, "streams", sent(3e5), subscribers=1000, window=4) for name in ("heliograph", "nchan")),
    record("heliograph", "streams", sent(4e4), subscribers=1000, rate=40),
    record("heliograph", "polls", sent(2e4), subscribers=1000, window=4),
    record("nchan", "growth", sent(1e5), subscribers=1000),
    record("heliograph", "rate", sent(2e4, 4.0), subscribers=1000, rate=10),
    record("nchan", "rate", sent(2e4, 3.0), subscribers=1000, rate=10),
    record("channels", "rate", sent(5e3, -1.0), subscribers=1000, rate=10),
    record("heliograph", "idle", idle(5.0), subscribers=5000),
    record("nchan", "idle", idle(11.0), subscribers=5000),
    record("heliograph", "stall", sent(1e4, 2.0), subscribers=200, rate=50),
    record("heliograph", "stall", {**sent(1e4, 3.0), "closed_3008": 1.0}, subscribers=200, rate=50, stalled=1),
    *(record(name, "unicast", sent(3e4), **BETWEEN, window=8) for name in ("heliograph", "heliograph-ephemeral")),
    record("nchan", "unicast", sent(6e4), **BETWEEN, window=8),
    *(
        record(name, "unicast", sent(2e3, p99), **BETWEEN, rate=2000)
        for name, p99 in (("heliograph", 4), ("nchan", 1))
    ),
    *(record("heliograph", "channels", sent(1e4), subscribers=count, to="channel") for count in (10, 10_000)),
    *(
        record("heliograph", "connects", connects(us), subscribers=1000, before=n)
        for n, us in ((10, 300), (5000, 350))
    ),
    record("heliograph", "replicas", {"sides_us": 200.0}, **{**BETWEEN, "replicas": 2}),
    record("heliograph", "replicas", foreign(3.5, 1.0), **{**BETWEEN, "replicas": 8}),
    record("heliograph", "replicas", foreign(-0.04, 0.0), **{**BETWEEN, "replicas": 8}, routing="directed"),
    record("nchan", "replicas", {"sides_us": 120.0, "foreign_us": 0.02}, **{**BETWEEN, "replicas": 4}),
    record(
        "heliograph",
        "publisher",
        {f"{way}_{key}": 7000.0 for way in WAYS for key in ("per_s", "us", "redis_us")},
        subscribers=0,
    ),
    record(
        "heliograph",
        "api",
        {**sent(9e3), "publications_per_s": 9e3, "redis_cpu": 0.2},
        subscribers=0,
        request="batch",
        window=32,
    ),
    *(
        record("heliograph", "fronts", sent(n), subscribers=1000, window=4, front=f)
        for f, n in (("", 5e5), ("nginx", 3e5))
    ),
    record("heliograph-deflate", "deflate", sent(3e5), subscribers=1000, window=4, rows=40, compressed=True),
    record(
        "heliograph",
        "held",
        {"held_ms": 12.3, "other_ms": 99.0, "all_served_ms": 260.0},
        subscribers=19_500,
        rate=0.2,
    ),
]


class TestPage:
    @pytest.fixture
    def page(self, tmp_path: Path) -> str:
        path = tmp_path / "performance.md"
        path.write_text(f"before\n{BEGIN}\nwhat was measured before\n{END}\nafter\n", encoding="utf-8")
        write_page(path, RECORDS)
        assert (tmp_path / "images/bench-cpu.svg").read_text().startswith("<?xml")
        return path.read_text(encoding="utf-8")

    def test_only_what_is_between_the_marks_is_made_anew(self, page: str) -> None:
        """Fails if what people wrote is lost, or what was measured before is still there."""
        assert page.startswith(f"before\n{BEGIN}\n")
        assert page.endswith(f"{END}\nafter\n")
        assert "what was measured before" not in page

    def test_medians_and_how_far_they_are_apart(self, page: str) -> None:
        """Fails if the best run is shown for all, or a spread is kept quiet."""
        assert "| Heliograph, kept | 400,000 (300,000–500,000) |" in page
        assert "| Nchan (C) | 100,000 |" in page

    def test_what_several_calls_have_added_counts_together(self, tmp_path: Path) -> None:
        """Fails if three calls with `--quick` are called one run."""
        few = [
            record("heliograph", "growth", sent(100_000), subscribers=1000, window=4, seconds=s) for s in (1, 2, 3)
        ]
        write_page(tmp_path / "performance.md", few)
        assert "Medians of up to 3 runs" in (tmp_path / "performance.md").read_text(encoding="utf-8")

    def test_who_is_behind_by_seconds_has_no_latency(self, tmp_path: Path) -> None:
        """Fails if the client's word for "none" is shown as a time below zero."""
        late = {**sent(700), "p50_us": -1.0, "p99_us": -1.0}
        write_page(
            tmp_path / "performance.md", [record("naive", "unicast", late, subscribers=50, rate=2000, to="user")]
        )
        page = (tmp_path / "performance.md").read_text(encoding="utf-8")
        assert "| one send_json per socket | 700 | – | – |" in page

    def test_what_is_not_better_is_said(self, page: str) -> None:
        """Fails if the page is silent about who is ahead, or names somebody who was too slow to have a latency."""
        worse = page.partition("### What is not better")[2]
        assert "- p99 at 10 messages a second: ahead of kept: Nchan (C).\n" in worse
        assert "- user to user, messages/s: ahead of both: Nchan (C).\n" in worse
        assert "Django" not in worse
        assert "memory" not in worse

    @pytest.mark.parametrize(
        "row",
        [
            "| Heliograph, kept | 30,000 | 33.33 |",
            "| Heliograph, kept | 2,000 | 2,000 | 4,000 |",
            "| µs CPU a message | 10 | 10,000 |",
            "| Heliograph, kept | 300 | 350 |",
            "| Heliograph, kept | shared | 2 | 200.0 |  |  |",
            "| Heliograph, kept | shared | 8 | 200.0 | 3.50 | 1.00 |",
            "| Heliograph, kept | directed | 8 | 200.0 | -0.04 | 0.00 |",
            "| Nchan (C) |  | 4 | 120.0 | 0.02 |  |",
            "| Heliograph, kept | 2.00 | 3.00 | 1.50 | yes |",
            "| `Publisher.publish`, each awaited | 7,000 | 7000 | 7000 |",
            "### By HTTP: batch, 32 connections",
            "| Heliograph, kept | 500,000 | 300,000 |  |  |",
            "| Heliograph, kept | 9,000 | 111.1 |",
            "| Heliograph, kept, compressed | 500 | 300,000 |",
            "| Heliograph, kept | 12.3 | 99.0 | 260.0 |",
        ],
    )
    def test_each_part_has_its_place(self, page: str, row: str) -> None:
        """Fails if something is measured and not shown, or in the wrong unit."""
        assert row in page

    def test_it_is_the_same_for_the_same_results(self, page: str, tmp_path: Path) -> None:
        """Fails if each run changes every plot in the repository."""
        before = {each.name: each.read_bytes() for each in (tmp_path / "images").iterdir()}
        write_page(tmp_path / "performance.md", RECORDS)
        assert (tmp_path / "performance.md").read_text(encoding="utf-8") == page
        assert {each.name: each.read_bytes() for each in (tmp_path / "images").iterdir()} == before


def test_what_is_missing_is_left_out_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if a peer that is not installed ends the benchmark, or is not there and nobody is told."""
    gone = System("gone", "Gone", lambda port, redis_port: [], Speech("/", "/", ""), lambda: "its package")
    monkeypatch.setattr(bench, "SYSTEMS", [HELIOGRAPH, gone])
    assert bench._present(["heliograph", "gone"]) == [HELIOGRAPH]
    assert capsys.readouterr().out == "left out: Gone; this machine lacks its package\n"


def test_all_systems_carry_the_same_message() -> None:
    """Fails if one of them has less to carry than the others."""
    assert len(BODY.replace("{mark}", "x" * 26)) == BODY_BYTES
    spoken = [speech for each in SYSTEMS for speech in (each.speech, each.to_user, each.to_channel) if speech]
    assert all(BODY in speech.publish for speech in spoken)
    for each in SYSTEMS:
        assert all("{n}" in speech.publish + speech.pub_path for speech in (each.to_user, each.to_channel) if speech)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_part_measures_heliograph(part: Part) -> None:
    """Fails if a part has no points, is measured under another name, or leaves out whom it is about."""
    for quick in (True, False):
        points = part.works(quick, 3.0)
        assert points
        assert {each.name for each in points} == {part.name}
        for each in points:
            measured = [system.name for system in part.of(SYSTEMS, each)]
            assert ("heliograph-deflate" if each.compressed else "heliograph") in measured
            assert part.only or part.name in ("api", "deflate") or "heliograph-ephemeral" in measured


def test_only_who_can_is_asked() -> None:
    """Fails if a system is asked for what it has no like of: it would be shown as broken."""
    systems = {each.name: each for each in SYSTEMS}
    for part in PARTS:
        for work in part.works(False, 3.0):
            of = part.of(SYSTEMS, work)
            assert all(speech_of(system, work) for system in of)
            assert systems["epoll"] not in of or work.to == "all"
            assert systems["nchan"] not in of or work.routing == "shared"


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--systems", "nobody"]])
def test_an_unknown_name_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Fails if a misspelt part measures nothing and says nothing."""
    monkeypatch.setattr("sys.argv", ["bench", "--results", str(tmp_path / "r.jsonl"), *arguments])
    with pytest.raises(SystemExit):
        bench.main()
    assert f"{arguments[1]}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the load clients, compiled."""
    directory = tmp_path_factory.mktemp("programs")
    for program in ("client", "streams", "epoll"):
        source = HERE / f"{program}.c"
        flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["cc", *flags, "-o", directory / program, source, "-lz"], check=True)
    return directory


@pytest.mark.e2e
@pytest.mark.alone  # it measures
class TestMeasuring:
    @pytest.fixture(autouse=True)
    def client(self, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "HOME", programs)
        self.log = tmp_path / "log"
        self.home = programs

    @pytest.mark.parametrize("system", [EPHEMERAL, MIXED], ids=lambda system: system.name)
    def test_every_subscriber_gets_every_message(self, system: System) -> None:
        """Fails if the client counts what is not there, or misses what is."""
        figures = measure(system, Work("rate", 30, rate=50, warmup=0.5, seconds=2), self.log)
        assert figures["delivered"] == pytest.approx(30 * 100, abs=30 * 5)
        assert 0 < figures["p50_us"] <= figures["p99_us"] < 2e6
        assert figures["cpu_us"] > 0

    def test_a_window_is_kept_full(self) -> None:
        """Fails if the next message waits for more than its place in the window."""
        figures = measure(HELIOGRAPH, Work("growth", 30, window=4, warmup=0.2, seconds=1), self.log)
        assert figures["delivered"] > 30 * 100
        assert figures["delivered"] == pytest.approx(30 * figures["published"], rel=0.1, abs=30 * 8)

    @pytest.mark.parametrize("name", ["streams", "polls"])
    def test_who_listens_by_http_gets_every_message(self, name: str) -> None:
        """Fails if events of streams or polls are lost, or counted twice."""
        figures = measure(HELIOGRAPH, Work(name, 30, window=4, warmup=0.3, seconds=0.7), self.log)
        assert figures["delivered"] > 30 * 50
        assert figures["delivered"] == pytest.approx(30 * figures["published"], rel=0.1, abs=30 * 8)
        assert 200 < figures["bytes_each"] < 800

    def test_compressed_messages_are_counted_as_others(self) -> None:
        """Fails if a compressed message is not counted, inflated for each subscriber, or not compressed at all."""
        [system] = [each for each in SYSTEMS if each.name == "heliograph-deflate"]
        work = Work("deflate", 30, window=2, rows=40, compressed=True, warmup=0.3, seconds=0.7)
        figures = measure(system, work, self.log)
        assert figures["delivered"] == pytest.approx(30 * figures["published"], rel=0.1, abs=30 * 8)
        assert 0 < figures["inflated_frames"] < figures["compressed_frames"] / 25
        assert 200 < figures["bytes_each"] < 0.4 * len(rows(40))

    def test_what_is_posted_is_counted(self) -> None:
        """Fails if publications of a batch count as one."""
        figures = measure(HELIOGRAPH, Work("api", 0, window=2, request="batch", seconds=1), self.log)
        assert figures["publications_per_s"] == pytest.approx(100 * figures["requests_per_s"])
        assert 0 < figures["p50_us"] <= figures["p99_us"]

    def test_what_a_proxy_uses_counts(self) -> None:
        """Fails if messages do not pass the proxy, or its CPU is not counted with the server's."""
        work = Work("fronts", 30, window=2, front="nginx", warmup=0.3, seconds=0.7)
        figures = measure(HELIOGRAPH, work, self.log)
        assert figures["delivered"] == pytest.approx(30 * figures["published"], rel=0.1, abs=30 * 8)
        assert figures["cpu_us"] > 0

    def test_idle_connections_are_small_and_quiet(self) -> None:
        """Fails if an idle connection takes more than 20 KiB, or thousands keep a core busy."""
        figures = measure(HELIOGRAPH, Work("idle", 1000, seconds=2), self.log)
        assert figures["connections"] == 1000
        assert 0 < figures["memory_kib"] < 20
        assert figures["idle_cpu"] < 0.2

    @pytest.mark.parametrize("system", SYSTEMS[:2], ids=lambda system: system.name)
    def test_a_message_reaches_the_one_it_is_for(self, system: System) -> None:
        """Fails if messages to users of another replica are lost, or a window is not kept."""
        work = Work("unicast", 5, to="user", publishers=5, replicas=2, window=4, warmup=0.3, seconds=1)
        figures = measure(system, work, self.log)
        assert figures["delivered"] == pytest.approx(figures["published"], abs=5 * 4 * 2)
        assert figures["delivered"] > 500

    def test_each_channel_gets_its_share(self) -> None:
        """Fails if messages to many channels are lost."""
        work = Work("channels", 30, to="channel", rate=300, warmup=0.5, seconds=1)
        figures = measure(HELIOGRAPH, work, self.log)
        assert figures["delivered"] == pytest.approx(300, abs=30)

    @pytest.mark.parametrize(("routing", "envelopes"), [("shared", 1), ("directed", 0)])
    def test_who_holds_neither_side_hears_it_only_if_all_do(
        self, routing: Literal["shared", "directed"], envelopes: int
    ) -> None:
        """Fails if directed routing reaches a replica in vain, or if what is counted is something else."""
        work = Work("replicas", 5, to="user", publishers=5, replicas=3, routing=routing, rate=200, seconds=1)
        figures = measure(HELIOGRAPH, work, self.log)
        assert figures["envelopes"] == pytest.approx(envelopes, abs=0.1 * envelopes)
        assert figures["sides_us"] > 0

    def test_more_connect_when_some_are_there(self) -> None:
        """Fails if those who come later take the names of those who are there."""
        figures = measure(HELIOGRAPH, Work("connects", 50, before=20), self.log)
        assert figures["connections"] == 50
        assert figures["connect_us"] > 0

    def test_somebody_else_is_served_meanwhile(self) -> None:
        """Fails if the one message is not sent while the other is looked at."""
        figures = measure(HELIOGRAPH, Work("held", 200, rate=0.2, warmup=1, seconds=6), self.log)
        assert figures["delivered"] == 200
        assert min(figures["held_ms"], figures["other_ms"], figures["all_served_ms"]) > 0

    def test_a_server_that_refuses_is_no_result(self) -> None:
        """Fails if a system that was spoken to in the wrong way gets figures."""
        wrong = System("wrong", "", HELIOGRAPH.command, Speech("/nothing", "/", ""), str, HELIOGRAPH.environment)
        with pytest.raises(Failed, match="handshake was refused"):
            measure(wrong, Work("idle", 1), self.log)

    def test_the_bound_is_measured_the_same_way(self) -> None:
        """Fails if the C server beside does not do the same job."""
        epoll = System("epoll", "", lambda port, _: [str(self.home / "epoll"), str(port)], SYSTEMS[-1].speech, str)
        figures = measure(epoll, Work("rate", 30, rate=50, warmup=0.5, seconds=1), self.log)
        assert figures["delivered"] == pytest.approx(30 * 50, abs=30 * 3)
