"""Real forks, many of them, at the worst moments: no lock that another thread holds reaches a child."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("what", "channel", "times"),
    [
        ("handler", "logs:h", 60),
        ("process", "logs:m", 10),
        ("publisher", "logs:p", 40),
        ("feed", "logs:f", 40),
        ("async", "logs:a", 10),
    ],
)
def test_children_publish_too(redis_server: RedisServer, namespace: str, what: str, channel: str, times: int) -> None:
    """Fails if a child is deaf or hangs, publishes what is the parent's, or disturbs the parent's connections."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.forking", what, redis_server.url, f"{namespace}:", str(times)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Redis.from_url(redis_server.url) as redis:
        found: Any = redis.xrange(f"{namespace}:{{{channel}}}:log")
    lines = [json.loads(b"{" + fields[b"b"])["message"]["line"] for _, fields in found]
    assert len(lines) == len(set(lines))
    assert {f"child {number}" for number in range(times)} <= set(lines)
    if what != "publisher":
        assert {f"parent {number}" for number in range(times)} <= set(lines)


def test_children_publish_to_a_cluster(redis_cluster: RedisCluster, namespace: str) -> None:
    """Fails if a child waits for a lock that the parent held as it looked for the owner of a slot."""
    command = [sys.executable, "-m", "tests.client.forking", "publisher", redis_cluster.url, f"{namespace}:", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_imported_with_the_first_publication(redis_server: RedisServer, namespace: str) -> None:
    """Fails if a fork can come in the middle of an import: the child would wait for the module's lock for ever."""
    program = (
        "import sys\n"
        "from heliograph.client.publisher import Publisher\n"
        "before = set(sys.modules)\n"
        f"publisher = Publisher({redis_server.url!r}, prefix={namespace!r})\n"
        "publisher.publish('news', 1)\n"
        "publisher.publish_progress('7', 'RUNNING', 40, 'line')\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
