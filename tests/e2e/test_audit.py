"""The audit, in a short form: `python loadtest/audit.py --seconds 600` is the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import ROOT

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_nothing_is_lost_doubled_or_reordered_while_everything_breaks(tmp_path: Path, appendfsync: str) -> None:
    """Fails if a kept message is lost, doubled, out of order, or a socket closed that nobody hurt."""
    command: list[str | Path] = [
        sys.executable,
        ROOT / "loadtest" / "audit.py",
        "--seconds",
        "12",
        "--keep",
        tmp_path,
    ]
    command += ["--appendfsync", appendfsync, "--verdicts", "100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
