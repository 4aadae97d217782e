"""A real `ansible-playbook` with the callback plugin, watched live on a real cluster."""

import time
from pathlib import Path
from typing import Any

from tests.client.programs import FIXTURES, PLAYBOOK, environment, program
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.ports import free_port
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer


async def _until(viewer: Client, line: str, **fields: str) -> list[dict[str, Any]]:
    """What the viewer gets, up to and with the message whose line begins so."""
    seen: list[dict[str, Any]] = []
    while True:
        data = (await viewer.next("message", within_s=20))["data"]
        seen.append(data)
        if data["line"].startswith(line) and fields.items() <= data.items():
            return seen


async def test_a_playbook_is_seen_live_on_two_replicas_and_whole_by_who_comes_late(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    """Fails if a line waits for the playbook's end, or if a viewer misses one, gets one twice or in another order.

    It also fails if what a task hides with `no_log` is published.
    """
    first, second = await start_replica("replica-1"), await start_replica("replica-2")
    gate = tmp_path / "gate"
    env = environment(redis_server.url, namespace, HELIOGRAPH_LOG_ID="101")
    async with (
        Client(first.url, user="ann", path="/ws/logs/101") as ann,
        Client(second.url, user="bob", path="/ws/logs/101") as bob,
        program(*PLAYBOOK, "-e", f"gate={gate}", str(FIXTURES / "site.yml"), env=env) as playbook,
    ):
        seen_by_ann = await _until(ann, "TASK [Wait for the night]")
        seen_by_bob = await _until(bob, "TASK [Wait for the night]")
        assert playbook.running  # it waits for the gate: what has come so far came at once
        assert [data["line"] for data in seen_by_ann if data["event"] == "changed"] == [
            "changed: [near]",
            "step 1",
            "step 2",
            "careful",
        ]

        async with Client(second.url, user="eve", path="/ws/logs/101") as eve:
            gate.touch()
            seen_by_ann += await _until(ann, "near ", event="recap")
            seen_by_bob += await _until(bob, "near ", event="recap")
            seen_by_eve = await _until(eve, "near ", event="recap")
            assert await playbook.ends() == 0
            for viewer in (ann, bob, eve):
                await viewer.nothing_more()

    assert seen_by_ann == seen_by_bob == seen_by_eve
    events = [data["event"] for data in seen_by_ann]
    assert {"ok", "changed", "failed", "ignored", "skipped", "unreachable", "recap"} <= set(events)
    lines = [data["line"] for data in seen_by_ann]
    assert lines[:6:5] == ["PLAYBOOK site.yml", "ok: [near]"]
    for line in (
        "hello from near",
        "ok: [near] => (item=moon)",
        'item: "mars"',
        "skipping: [near]",
        "fatal: [near]: FAILED!",
        "grey",
        "fatal: [away]: UNREACHABLE!",
        "RUNNING HANDLER [Close the dome] ***********************************************",
    ):
        assert lines.count(line) == 1, line
    assert [data["stream"] for data in seen_by_ann if data["line"] == "careful"] == ["stderr"]
    assert "s3cret" not in str(seen_by_ann)
    assert "no_log: true" in str(seen_by_ann)


async def test_a_playbook_neither_fails_nor_waits_when_redis_is_away(namespace: str) -> None:
    """Fails if the plugin raises into the playbook, holds it up, or loses lines without saying how many."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    env = environment(url, namespace, HELIOGRAPH_LOG_ID="101", HELIOGRAPH_WAIT="0.3")
    began = time.monotonic()
    async with program(*PLAYBOOK, str(FIXTURES / "small.yml"), env=env) as playbook:
        assert await playbook.ends() == 0
    assert time.monotonic() - began < 8
    assert "10 lines could not be published" in " ".join(playbook.err)


async def test_without_an_id_nothing_is_published_and_the_playbook_runs(
    redis_server: RedisServer, namespace: str
) -> None:
    """Fails if enabling the plugin for all playbooks breaks those that nobody wants to watch."""
    async with program(
        *PLAYBOOK, str(FIXTURES / "small.yml"), env=environment(redis_server.url, namespace)
    ) as playbook:
        assert await playbook.ends() == 0
    assert "HELIOGRAPH_LOG_ID" in "\n".join(playbook.err)
    assert redis_server.command("KEYS", f"{namespace}:*") == ""


async def test_what_a_task_has_changed(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    """Fails if `--diff` shows in the terminal what nobody sees on the channel, or there what is hidden here."""
    replica = await start_replica()
    file = tmp_path / "sky"
    file.write_text("old moon\n")
    env = environment(redis_server.url, namespace, HELIOGRAPH_LOG_ID="101", ANSIBLE_FORCE_COLOR="true")
    async with (
        Client(replica.url, user="ann", path="/ws/logs/101") as ann,
        program(*PLAYBOOK, "--diff", "-e", f"file={file}", str(FIXTURES / "diff.yml"), env=env) as playbook,
    ):
        seen = await _until(ann, "near ", event="recap")
        assert await playbook.ends() == 0
    diff = [data["line"] for data in seen if data["event"] == "diff"]
    for line in ("-old moon", "+new moon", "-new moon", "+mars", "-mars", "+venus"):
        assert diff.count(line) == 1, diff
    assert {data["host"] for data in seen if data["event"] == "diff"} == {"near"}
    assert "s3cret" not in str(seen)
    assert "\x1b" not in str(seen)


async def test_a_cluster_with_two_servers(
    start_replica: StartReplica, redis_server: RedisServer, own_redis: RedisServer, namespace: str, tmp_path: Path
) -> None:
    """Fails if what is published is kept where no replica looks for it, be it by variables or by ansible.cfg."""
    replica = await start_replica(redis={"durable_url": own_redis.url})
    variables = {"HELIOGRAPH_LOG_ID": "101", "HELIOGRAPH_REDIS__DURABLE_URL": own_redis.url}
    config = tmp_path / "ansible.cfg"
    config.write_text(
        f"[callback_heliograph]\nredis_url = {redis_server.url}\ndurable_url = {own_redis.url}\nlog_id = 101\n"
    )
    without = environment(redis_server.url, namespace, ANSIBLE_CONFIG=str(config))
    without.pop("HELIOGRAPH_REDIS__URL")
    async with Client(replica.url, user="ann", path="/ws/logs/101") as ann:
        await ann.next("subscribed")
        for env in (environment(redis_server.url, namespace, **variables), without):
            async with program(*PLAYBOOK, str(FIXTURES / "small.yml"), env=env) as playbook:
                await _until(ann, "near ", event="recap")
                assert await playbook.ends() == 0
            assert playbook.err == []


async def test_a_redis_cluster(start_replica: StartReplica, redis_cluster: RedisCluster, namespace: str) -> None:
    """Fails if a playbook cannot use the URL of a cluster."""
    url = redis_cluster.url.replace("virtual_shards=1", "virtual_shards=4")
    replica = await start_replica(redis_url=url)
    env = environment(url, namespace, HELIOGRAPH_LOG_ID="101")
    async with (
        Client(replica.url, user="ann", path="/ws/logs/101") as ann,
        program(*PLAYBOOK, str(FIXTURES / "small.yml"), env=env) as playbook,
    ):
        await _until(ann, "near ", event="recap")
        assert await playbook.ends() == 0
    assert playbook.err == []
