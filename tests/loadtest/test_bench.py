"""The benchmark: that it measures what it says, and that its page says what was measured."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

import loadtest.bench.__main__ as bench
from loadtest.bench import processes
from loadtest.bench.measure import Failed, Work, measure
from loadtest.bench.page import BEGIN, END, write_page
from loadtest.bench.systems import BODY, BODY_BYTES, HERE, SYSTEMS, Speech, System

HELIOGRAPH = SYSTEMS[0]


def record(system: str, name: str, figures: dict[str, float], run: int = 0, **work: Any) -> dict[str, Any]:
    return {"system": system, "run": run, "at": 0.0, **vars(Work(name, **work)), "figures": figures}


def sent(per_s: float, p99_ms: float = 5.0) -> dict[str, float]:
    figures = {"deliveries_per_s": per_s, "cpu_us": 1e6 / per_s, "kernel_us": 0.5e6 / per_s, "server_cpu": 1.0}
    return {**figures, "client_cpu": 0.5, "p50_us": p99_ms * 500, "p99_us": p99_ms * 1000}


def idle(kib: float) -> dict[str, float]:
    figures = {"memory_kib": kib, "empty_kib": 60_000, "connections": 5000, "idle_cpu": 0.01}
    return {**figures, "connects_per_s": 3000.0, "connect_us": 300.0}


RECORDS = [
    *(
        record("heliograph", "growth", sent(per_s), run, subscribers=1000)
        for run, per_s in enumerate((3e5, 5e5, 4e5))
    ),
    record("nchan", "growth", sent(1e5), subscribers=1000),
    record("heliograph", "rate", sent(2e4, 4.0), subscribers=1000, rate=20),
    record("nchan", "rate", sent(2e4, 3.0), subscribers=1000, rate=20),
    record("channels", "rate", sent(5e3, -1.0), subscribers=1000, rate=20),
    record("heliograph", "idle", idle(5.0), subscribers=5000),
    record("nchan", "idle", idle(11.0), subscribers=5000),
    record("heliograph", "stall", sent(1e4, 2.0), subscribers=200, rate=50),
    record("heliograph", "stall", sent(1e4, 3.0), subscribers=200, rate=50, stalled=1),
]


class TestPage:
    @pytest.fixture
    def page(self, tmp_path: Path) -> str:
        path = tmp_path / "performance.md"
        path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
        write_page(path, RECORDS)
        assert (tmp_path / "images/bench-cpu.svg").read_text().startswith("<?xml")
        return path.read_text(encoding="utf-8")

    def test_only_what_is_between_the_marks_is_made_anew(self, page: str) -> None:
        """Fails if what people wrote is lost, or what was measured before is still there."""
        assert page.startswith(f"before\n{BEGIN}\n")
        assert page.endswith(f"{END}\nafter\n")
        assert "old" not in page

    def test_medians_and_how_far_they_are_apart(self, page: str) -> None:
        """Fails if the best run is shown for all, or a spread is kept quiet."""
        assert "| Heliograph, kept | 400,000 (300,000–500,000) |" in page
        assert "| Nchan (C) | 100,000 |" in page
        assert "| Heliograph, kept | 2.00 | 3.00 | 1.50 |" in page

    def test_what_is_not_better_is_said(self, page: str) -> None:
        """Fails if the page is silent about who is ahead, or names somebody who was too slow to have a latency."""
        worse = page.partition("### What is not better")[2]
        assert "p99 at 20 messages a second: Nchan (C) is ahead of Heliograph, kept." in worse
        assert "Django" not in worse
        assert "memory" not in worse

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
    assert all(BODY in system.speech.publish for system in SYSTEMS)


@pytest.mark.e2e
class TestMeasuring:
    @pytest.fixture(autouse=True)
    def client(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for program in ("client", "epoll"):
            source = HERE / f"{program}.c"
            flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
            subprocess.run(["cc", *flags, "-o", tmp_path / program, source], check=True)
        monkeypatch.setattr(processes, "HOME", tmp_path)
        self.log = tmp_path / "log"
        self.home = tmp_path

    @pytest.mark.parametrize("system", SYSTEMS[:2], ids=lambda system: system.name)
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

    def test_idle_connections_are_small_and_quiet(self) -> None:
        """Fails if an idle connection takes more than 20 KiB, or thousands keep a core busy."""
        figures = measure(HELIOGRAPH, Work("idle", 1000, seconds=2), self.log)
        assert figures["connections"] == 1000
        assert 0 < figures["memory_kib"] < 20
        assert figures["idle_cpu"] < 0.2

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
