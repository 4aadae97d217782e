"""The audit, in short forms: `python -m loadtest.audit` is the long one, and the judge of both."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.alone]  # it has limits in time


def audit(*options: str | Path) -> str:
    """What the audit prints; fails if it finds a fault."""
    command: list[str | Path] = [sys.executable, "-m", "loadtest.audit", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("ack", ["disk", "memory"])
def test_nothing_is_lost_doubled_or_reordered_while_everything_breaks(tmp_path: Path, ack: str) -> None:
    """Fails if a kept message is lost, doubled, out of order, or a socket closed that nobody hurt."""
    audit("--seconds", "12", "--ack", ack, "--verdicts", "100", "--keep", tmp_path)


def test_a_master_that_dies_takes_nothing_with_it_in_silence(tmp_path: Path) -> None:
    """Fails if a loss is not told of, sockets close, or a channel takes no publications for long (F1 in short)."""
    history = tmp_path / "history.jsonl"
    output = audit(
        "--experiment", "F1", "--topology", "sentinel", "--break", "kill=4", "--seconds", "10", "--history", history
    )
    assert "masters killed" in output
    assert audit("--judge", history) == output


def test_nobody_notices_that_slots_move_and_masters_are_replaced() -> None:
    """Fails if a Redis Cluster that loses nothing loses or doubles a message, or says a gap (F5 and F6 in short)."""
    ways = ("--break", "replace=3", "--break", "slots=1", "--unavailable", "10")
    output = audit("--experiment", "F6", *ways, "--seconds", "6")
    assert "masters replaced in order" in output
    assert "slots moved" in output
