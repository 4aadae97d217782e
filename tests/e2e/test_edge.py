"""What strangers and faults meet first: nginx, and what it does with a replica that does not answer."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from heliograph.api.methods import METHODS
from tests.server.test_http import BODY, KEY, curl, java
from tests.support.client import Client
from tests.support.cluster import ROOT, SOURCES, LocalClusterProcess
from tests.support.http import http_client
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

TEMPLATE = (ROOT / "app/heliograph/local_cluster/templates/nginx.conf.template").read_text()


@pytest.fixture
def strict_cluster(tmp_path: Path) -> Iterator[LocalClusterProcess]:
    """A cluster whose nginx believes what its clients say about their address, and allows few requests."""
    with LocalClusterProcess(
        tmp_path / "log",
        replicas=1,
        HELIOGRAPH_NGINX_TRUSTED_PROXIES="set_real_ip_from 127.0.0.1;",
        HELIOGRAPH_NGINX_REQUESTS_PER_SECOND="1",
        HELIOGRAPH_NGINX_REQUEST_BURST="20",
        HELIOGRAPH_API__KEY=KEY,
    ) as running:
        yield running


@pytest.fixture
def watched_cluster(tmp_path: Path) -> Iterator[LocalClusterProcess]:
    """A cluster whose watchdogs are less patient than usual."""
    with LocalClusterProcess(tmp_path / "log", HELIOGRAPH_WATCHDOG_S="3", HELIOGRAPH_API__KEY=KEY) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics%0a", "/metrics%0A%0a", "/metrics%00", "/health%7f", "/metrics/"]
)
async def test_metrics_have_no_second_name(cluster: LocalClusterProcess, path: str) -> None:
    """Fails if a path that nginx does not take for /metrics is one for a replica."""
    async with http_client(cluster.url) as client:
        answer = await client.get(path)
        assert answer.status_code == (404 if path.strip("/") == "metrics" else 400)
        assert "heliograph" not in answer.text


@pytest.mark.alone  # it measures how long nginx keeps one
async def test_requests_share_connections_to_a_replica(strict_cluster: LocalClusterProcess) -> None:
    """Fails if nginx opens a connection to a replica for each request, or keeps one until the replica closes it."""
    replica = strict_cluster.port + 1

    def kept() -> int:
        return sum(
            each.status == psutil.CONN_ESTABLISHED and bool(each.raddr) and each.raddr.port == replica
            for each in psutil.net_connections("tcp")
        )

    async with http_client(strict_cluster.url, headers={"X-API-Key": KEY}) as client:
        for number in range(30):
            answer = await client.post("/api/publish", json={"channel": "news", "data": number})
            assert answer.json()["result"]["offset"] == number + 1
        assert 1 <= kept() <= 4, "one for each worker of nginx, at most"
    began = time.monotonic()
    await eventually(lambda: kept() == 0)
    assert time.monotonic() - began < 4, "a replica waits for five seconds"


async def test_an_unwanted_upgrade_is_not_passed_on(strict_cluster: LocalClusterProcess) -> None:
    """Fails if `curl --http2` or Java's HttpClient cannot publish through nginx."""
    url = f"{strict_cluster.url}/api/publish"
    assert await curl("--http2", "-H", f"X-API-Key: {KEY}", "-d", BODY.decode(), url) == 200
    if shutil.which("javac") is not None:
        assert await java(url, KEY, BODY.decode()) == 200


@pytest.mark.alone  # nginx counts by the second
async def test_one_address_has_so_many_requests(strict_cluster: LocalClusterProcess) -> None:
    """Fails if who asks without end is answered without end, or the /64 of one customer counts as many addresses."""
    async with http_client(strict_cluster.url) as client:

        async def ask(address: str, path: str = "/health", method: str = "GET") -> httpx.Response:
            headers = {"X-Forwarded-For": address, "X-API-Key": KEY}
            return await client.request(method, path, headers=headers, content=BODY if method == "POST" else None)

        async def flood(address_of: str, path: str = "/health") -> int:
            answers = await asyncio.gather(*(ask(address_of.format(i % 5000), path) for i in range(60)))
            refused = [answer for answer in answers if answer.status_code == 429]
            if refused:
                assert refused[0].headers["retry-after"] == "5"
                assert refused[0].json()["error"]["code"] == 429
            return len(refused)

        assert await flood("2001:db8:1:2::{}") > 0
        assert (await ask("2001:db8:1:2:ffff::1")).status_code == 429
        for other in ("2001:db8:1:3::1", "203.0.113.7", "::ffff:203.0.113.8"):
            assert (await ask(other)).status_code == 200
        assert await flood("::ffff:198.51.100.7") > 0
        assert (await ask("::ffff:203.0.113.8")).status_code == 200, "mapped addresses are not one /64"
        assert (await ask("2001:db8:1:2::9", "/api/publish", "POST")).status_code == 200, (
            "the server API is not counted"
        )


def test_nginx_knows_the_methods_of_the_server_api() -> None:
    """Fails if a method of the server API is limited as what pages ask."""
    [line] = [line for line in TEMPLATE.splitlines() if "|broadcast|" in line]
    assert set(line.partition("/(")[2].partition(")")[0].split("|")) == set(METHODS)


@pytest.mark.alone  # a watchdog with little patience, and it has seconds
async def test_a_frozen_replica_is_replaced(watched_cluster: LocalClusterProcess) -> None:
    """SIGSTOP: its clients are cut, and they and new ones are served elsewhere; what it was asked is never done."""
    cluster = watched_cluster
    async with (
        Client(cluster.url, user="nora", source=SOURCES[0]) as nora,
        Client(cluster.url, user="olga", source=SOURCES[1]) as olga,
    ):
        await olga.say({"type": "subscribe", "channel": "news", "id": 1})
        await olga.next("subscribed")
        victim = cluster.pids()[nora.replica]
        os.kill(victim, signal.SIGSTOP)
        began = time.monotonic()

        async def handshake() -> str:
            async with Client(cluster.url, user="new", source=SOURCES[0]) as new:
                return new.replica

        async def publish() -> int:
            async with http_client(cluster.url, source=SOURCES[0], timeout=20) as client:
                answer = await client.post("/api/publish", headers={"X-API-Key": KEY}, content=BODY)
                assert "idempotency_key" in answer.text
                return answer.status_code

        served_by, status, code = await asyncio.gather(handshake(), publish(), nora.close_code(within_s=15))
        assert time.monotonic() - began < 10
        assert served_by != nora.replica
        assert status in (503, 504)
        assert code == 1006
        await eventually(lambda: cluster.pids().get(nora.replica, victim) != victim, within_s=10)
        await olga.nothing_more()
    assert f"process {victim} has stood still for" in cluster.output()


async def test_one_that_thaws_does_nothing_late(tmp_path: Path) -> None:
    """Fails if a publish that was answered with 504 is carried out when its replica goes on."""
    with LocalClusterProcess(
        tmp_path / "log", replicas=1, HELIOGRAPH_WATCHDOG_S="0", HELIOGRAPH_API__KEY=KEY
    ) as cluster:
        async with Client(cluster.url, user="pia") as pia, http_client(cluster.url, timeout=20) as client:
            await pia.say({"type": "subscribe", "channel": "news", "id": 1})
            await pia.next("subscribed")
            os.kill(cluster.pids()["replica-1"], signal.SIGSTOP)
            asked = [client.post("/api/publish", headers={"X-API-Key": KEY}, content=BODY) for _ in range(20)]
            assert {answer.status_code for answer in await asyncio.gather(*asked)} == {504}
            os.kill(cluster.pids()["replica-1"], signal.SIGCONT)

            async def goes_on() -> bool:
                answer = await client.post(
                    "/api/publish", headers={"X-API-Key": KEY}, content=json.dumps({"channel": "news", "data": "new"})
                )
                return answer.status_code == 200

            await eventually(goes_on, within_s=10)
            assert (await pia.next("message"))["data"] == "new"
            await pia.nothing_more()


async def test_a_reload_of_nginx_and_replicas_that_drain(own_cluster: LocalClusterProcess) -> None:
    """nginx -s reload, then the replicas one by one: every client moves, none is cut, and the old workers end."""
    cluster = own_cluster
    master = cluster.pids()["nginx"]

    def workers() -> set[int]:
        listed = Path(f"/proc/{master}/task/{master}/children").read_text()
        return {int(pid) for pid in listed.split()}

    old = workers()
    moved: list[str] = []

    async def stay(user: str, source: str) -> None:
        async with Client(cluster.url, user=user, source=source) as client:
            assert (await client.next("reconnect", within_s=60))["in_ms"] >= 0
            async with Client(cluster.url, user=user, source=source):
                assert await client.close_code(within_s=10) == 3001
                moved.append(user)

    async with asyncio.TaskGroup() as group:
        for i in range(12):
            group.create_task(stay(f"user-{i}", SOURCES[i % 3]))
        await eventually(lambda: sum(each["connections"] for each in cluster.members().values()) == 12)
        os.kill(master, signal.SIGHUP)
        await eventually(lambda: not workers() <= old)
        for name in ("replica-1", "replica-2", "replica-3"):
            before = cluster.members()[name]["node_id"]
            os.kill(cluster.pids()[name], signal.SIGTERM)
            await eventually(
                lambda name=name, before=before: (
                    (found := cluster.members().get(name)) is not None
                    and found["node_id"] != before
                    and found["ready"]
                ),
                within_s=30,
            )
    assert len(moved) == 12
    await eventually(lambda: not workers() & old, within_s=10)
