"""The load test with locust, in a short form: `scripts/loadtest` is the long one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.support.cluster import ROOT, SOURCES, LocalClusterProcess

pytestmark = [pytest.mark.e2e, pytest.mark.alone]  # what comes late is a fault

USERS = 60


def loadtest(*options: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "loadtest", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


def loadtest_in_background(*options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "loadtest", *map(str, options)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def summary_in(directory: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return summary


def test_users_on_all_replicas_lose_nothing(cluster: LocalClusterProcess, tmp_path: Path) -> None:
    """Fails if a message is lost, doubled or late, a return with a cursor does not recover, or the load was none."""
    done = loadtest(
        *("--url", cluster.url, "--users", USERS, "--spawn-rate", 60, "--seconds", 12, "--report", tmp_path)
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "Traceback" not in done.stdout + done.stderr
    summary = summary_in(tmp_path)
    assert summary["passed"]
    assert not any(summary["faults"].values())
    assert summary["users"] == USERS
    assert set(summary["replicas"]) == {"replica-1", "replica-2", "replica-3"}
    assert all(replica["most_connections"] >= USERS // 6 for replica in summary["replicas"].values())
    assert summary["pairs_on_two_replicas"] == summary["pairs"] > 0
    assert summary["returns"] > 0
    assert all(
        summary["latency"][scenario]["count"] > 0
        for scenario in ("pairs kept", "pairs ephemeral", "channels", "sse", "churn live", "churn missed")
    )
    assert summary["acknowledged"] + summary["unknown"] == summary["sent"]
    report = (tmp_path / "report.html").read_text()
    assert report.count("<svg") >= 8
    assert not re.findall(r"<script|@import|(?:src|href)=.?http", report)  # it needs no other file


def test_what_goes_wrong_fails_the_run_and_is_named(own_cluster: LocalClusterProcess, tmp_path: Path) -> None:
    """A load test that cannot fail proves nothing: here a replica is killed, and a message put on the bus twice."""
    process = loadtest_in_background(
        *("--url", own_cluster.url, "--users", USERS, "--spawn-rate", 60, "--seconds", 10, "--report", tmp_path)
    )
    try:
        own_cluster.wait(lambda: _connections(own_cluster) > USERS // 2, within_s=30)
        _repeat_an_ephemeral_message(own_cluster)
        os.kill(own_cluster.pids()["replica-2"], signal.SIGKILL)
        output, _ = process.communicate(timeout=90)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, output
    summary = summary_in(tmp_path)
    assert summary["faults"]["doubled"] == 1
    assert " ephemeral again" in summary["examples"]["doubled"][0]
    assert summary["faults"]["connections ended unasked"] > 0
    assert "on replica-2: cut" in summary["examples"]["connections ended unasked"][0]
    assert "FAILED: doubled 1, " in output
    # All of them came back with their cursors. What is kept is kept.
    assert summary["faults"]["lost"] == summary["faults"]["out of order"] == summary["faults"]["not recovered"] == 0


def _connections(cluster: LocalClusterProcess) -> int:
    return sum(int(member["connections"]) for member in cluster.members().values())


def _repeat_an_ephemeral_message(cluster: LocalClusterProcess) -> None:
    with Redis(port=cluster.redis_port) as redis, redis.pubsub() as pubsub:
        pubsub.subscribe("events")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            message = pubsub.get_message(ignore_subscribe_messages=True, timeout=1)
            if message is not None and b" ephemeral" in message["data"]:
                redis.publish("events", message["data"])
                return
    raise AssertionError("no ephemeral message crossed the bus")


def test_networks_that_all_lead_to_one_replica_are_refused(cluster: LocalClusterProcess, tmp_path: Path) -> None:
    done = loadtest("--url", cluster.url, "--sources", f"{SOURCES[0]},127.0.0.2", "--report", tmp_path)
    assert done.returncode == 2
    assert "Replicas that would get nobody" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_flood_costs_the_others_nothing_that_they_are_promised(tmp_path: Path) -> None:
    """Fails if one user with 20 sockets has others refused, cut off, or makes them wait for ever.

    How much slower they may be is for `scripts/loadtest --scenarios flood` on a quiet machine to say.
    """
    done = loadtest(*("--scenarios", "flood", "--users", 40, "--seconds", 16, "--report", tmp_path))
    summary = summary_in(tmp_path)
    slowed = summary["faults"].pop("slowed down by the flood")
    assert not any(summary["faults"].values()), done.stdout
    assert done.returncode == (1 if slowed else 0)
    assert summary["flood"]["writes"] > 100
    assert summary["flood"]["refused"] > 100
    for before, during in summary["flood"]["p99_ms"].values():
        assert during < max(2 * before, 250)
