"""A rolling restart as Kubernetes does it, in a short form: `python loadtest/rollout.py` is the long one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from loadtest import pods
from tests.support.cluster import ROOT

CHART = ROOT / "deploy" / "helm" / "heliograph"


def test_the_numbers_are_those_of_the_chart() -> None:
    """Fails if the chart gives a pod another time to stop, and what is acted out here says nothing about it."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["replicas"] == pods.REPLICAS
    assert values["minReadySeconds"] == pods.MIN_READY_S
    assert values["drain"]["preStopSeconds"] == pods.PRE_STOP_S
    assert values["drain"]["deadlineSeconds"] == pods.DEADLINE_S
    template = (CHART / "templates" / "deployment.yaml").read_text()
    [margin] = re.findall(
        r"terminationGracePeriodSeconds: .* (\d+) \}\}\n\s+\{\{- with .Values.priorityClass", template
    )
    assert float(margin) == pods.MARGIN_S


@pytest.mark.e2e
def test_nothing_is_lost_while_the_replicas_are_replaced(tmp_path: Path) -> None:
    """Fails if a message is lost, a replica is killed before it has drained, or clients are refused meanwhile."""
    command: list[str | Path] = [
        sys.executable,
        ROOT / "loadtest" / "rollout.py",
        "--clients",
        "200",
        "--keep",
        tmp_path,
    ]
    command += ["--pre-stop", "3", "--min-ready", "0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert int(re.findall(r"clients moved +(\d+)", done.stdout)[0]) >= 200, done.stdout
