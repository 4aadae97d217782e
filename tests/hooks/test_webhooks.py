"""Webhooks: signed, in order, until they are taken; one replica pushes, and another takes over."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr, ValidationError

from heliograph.backends.redis.client import connect
from heliograph.backends.redis.event_feed import RedisLifecycleFeed
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.server import RedisServer as Server
from heliograph.cli import main
from heliograph.clock import SystemClock
from heliograph.contrib.webhooks import WebhookReceiver
from heliograph.errors import BadSetting, BadSignature
from heliograph.hooks import webhook_pusher
from heliograph.hooks.webhook_endpoint import WebhookEndpoint
from heliograph.hooks.webhook_pusher import WebhookPusher
from heliograph.protocol.signature import check_signature, read_secrets, signed_headers
from heliograph.settings import WebhookSettings
from heliograph.telemetry import WebhookStats
from tests.support.lifecycle import Teller, told
from tests.support.redis_server import RedisServer
from tests.support.replica_info import replica_info
from tests.support.site import ServedApp
from tests.support.waiting import eventually
from tests.support.webhook_receiver import SECRET, Receiver


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_pusher, "IDLE_S", 0.01)
    monkeypatch.setattr(webhook_pusher, "STANDBY_S", 0.02)


class Stage:
    """Events in Redis, and replicas that push them."""

    def __init__(self, redis_url: str, namespace: str) -> None:
        self.url = redis_url
        self.client = connect(redis_url)
        self.keys = Keys(f"{namespace}:", f"{namespace}:events")
        self.teller = Teller.at(self.client, self.keys)
        self.pushers: list[WebhookPusher] = []

    async def change(self, count: int, prefix: str = "user") -> None:
        """Have so many users come."""
        await self.teller.directory.take("n.0", replica_info(), 600)
        await self.teller.directory.hold("n.0", {f"{prefix}-{number}": 1 for number in range(count)})

    def start(self, url: str, name: str = "replica-1", **options: Any) -> WebhookStats:
        """Have one more replica push. Return its counters."""
        settings = WebhookSettings(url=f"{url}/events", secret=SecretStr(SECRET), **options)
        clock, stats = SystemClock(), WebhookStats()
        feed = RedisLifecycleFeed(Server(self.client, self.keys, node_id=name), clock)
        endpoint = WebhookEndpoint(settings, clock.now)
        pusher = WebhookPusher(feed, endpoint, settings, stats, clock, retry_first_s=0.001)
        pusher.start()
        self.pushers.append(pusher)
        return stats

    async def ids(self) -> list[str]:
        return [event.id for event in await told(self.client, self.keys)]


@pytest.fixture
async def stage(redis_server: RedisServer, namespace: str) -> AsyncIterator[Stage]:
    made = Stage(redis_server.url, namespace)
    yield made
    await asyncio.gather(*(pusher.stop() for pusher in made.pushers))
    await made.client.aclose()


async def test_a_receiver_that_was_down_gets_everything_in_order(stage: Stage) -> None:
    """Fails if an event is lost, told twice or out of order as the receiver refuses, dies and comes back."""
    receiver = Receiver()
    await stage.change(30, "before")
    async with ServedApp(receiver.app) as site:
        stats = stage.start(site.url, batch=10)
        await eventually(lambda: len(receiver.taken) == 31)
        receiver.status = lambda events: 503
        await stage.change(30, "refused")
        await eventually(lambda: len(receiver.asked) > 10)
        assert stats.oldest_s > 0
        receiver.status = lambda events: 204
        await eventually(lambda: len(receiver.taken) == 61)
    failed = stats.failed
    await stage.change(30, "down")
    await eventually(lambda: stats.failed > failed + 3)  # nobody listens there
    async with ServedApp(receiver.app, port=site.port):
        await eventually(lambda: len(receiver.taken) == 91)
    assert [event.id for event in receiver.taken] == await stage.ids()
    assert (stats.delivered, stats.dead, stats.oldest_s) == (91, 0, 0)
    assert sum(stats.time.counts) >= 10


async def test_a_receiver_that_hangs_is_asked_again(stage: Stage) -> None:
    """Fails if a receiver that never answers holds up the events for ever, or its time-out loses one."""
    receiver = Receiver()
    receiver.may_answer.clear()
    await stage.change(5)
    async with ServedApp(receiver.app) as site:
        stats = stage.start(site.url, timeout_s=0.2)
        await eventually(lambda: stats.failed >= 2)
        assert receiver.taken == []
        receiver.may_answer.set()
        await eventually(lambda: stats.delivered == 6)
    assert list(dict.fromkeys(event.id for event in receiver.taken)) == await stage.ids()


def test_the_oldest_is_that_of_all_servers() -> None:
    """Fails if a server whose events are taken hides another one's that wait."""
    stats = WebhookStats()
    stats.waiting_s = {"one": 301.0, "two": 0.0}
    assert stats.oldest_s == 301.0


async def test_one_replica_pushes_and_another_goes_on(stage: Stage) -> None:
    """Fails if two push at the same time, or the next one skips or repeats what the first has or has not done."""
    receiver = Receiver()
    async with ServedApp(receiver.app) as site:
        counters = [stage.start(site.url, f"replica-{number}", batch=5) for number in (1, 2, 3)]
        await stage.change(40, "first")
        await eventually(lambda: len(receiver.taken) == 41)
        assert sorted(stats.delivered for stats in counters) == [0, 0, 41]
        owner = next(i for i, stats in enumerate(counters) if stats.delivered)
        receiver.status = lambda events: 500
        await stage.change(10, "second")
        await eventually(lambda: counters[owner].failed > 0)
        await stage.pushers[owner].stop()
        receiver.status = lambda events: 200
        await eventually(lambda: len(receiver.taken) == 51)
    assert [event.id for event in receiver.taken] == await stage.ids()
    assert sorted(stats.delivered for stats in counters) == [0, 10, 41]


async def test_what_another_replica_has_passed_on_is_not_repeated(stage: Stage) -> None:
    """Fails if a replica that pushes again, after another one did, goes on with what it had before, out of order."""
    receiver = Receiver()
    receiver.status = lambda events: 503
    await stage.change(2, "before")
    async with ServedApp(receiver.app) as site:
        stats = stage.start(site.url)
        pusher = stage.pushers[0]
        pusher._retry_first_s = 0.5
        await eventually(lambda: stats.failed > 0)
        await stage.client.set(stage.keys.webhook_pusher, "another")
        await eventually(lambda: not pusher._owned)
        other = RedisLifecycleFeed(Server(stage.client, stage.keys, node_id="another"), SystemClock())
        await other.acknowledge(await other.next(100))
        receiver.status = lambda events: 204
        await other.disown()
        await eventually(lambda: pusher._owned)
        await stage.change(1, "after")
        await eventually(lambda: stats.delivered > 0)
    assert [event.user for event in receiver.taken] == ["after-0"]


async def test_what_is_never_taken_goes_to_the_dead_letters(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    """Fails if one event that breaks the receiver holds up the others for ever, takes them with it, or is gone."""
    receiver = Receiver()
    receiver.status = lambda events: 500 if any(event.user == "user-3" for event in events) else 204
    await stage.change(6)
    settings = {
        "HELIOGRAPH_AUTH__MODE": "open",
        "HELIOGRAPH_REDIS__URL": stage.url,
        "HELIOGRAPH_REDIS__PREFIX": f"{namespace}:",
        "HELIOGRAPH_EVENTS__KINDS": '["user_online"]',
        "HELIOGRAPH_WEBHOOKS__SECRET": SECRET,
    }
    async with ServedApp(receiver.app) as site:
        stats = stage.start(site.url, retry_for_s=0)
        await eventually(lambda: stats.dead == 1)
        await eventually(lambda: stats.delivered == 6)
        assert [event.user for event in receiver.taken if event.user] == [f"user-{n}" for n in (0, 1, 2, 4, 5)]
        for name, value in {**settings, "HELIOGRAPH_WEBHOOKS__URL": f"{site.url}/events"}.items():
            monkeypatch.setenv(name, value)

        async def command(*words: str) -> tuple[int, str]:
            result = await asyncio.to_thread(CliRunner().invoke, main, ["webhooks", *words])
            return result.exit_code, result.output

        code, listed = await command("dead")
        dead = json.loads(listed)
        assert (code, dead["user"], dead["dead_reason"]) == (0, "user-3", "it answers 500")
        code, output = await command("resend", "--all")
        assert (code, "it answers 500" in output) == (1, True)
        receiver.status = lambda events: 204
        code, output = await command("resend", "1-1")
        assert code == 1
        assert "1 of these ids are no dead letters" in output
        assert await command("resend", dead["id"]) == (0, "1 events sent\n")
        assert (receiver.taken[-1].user, receiver.taken[-1].id) == ("user-3", dead["dead_id"])
        assert await command("dead") == (0, "")


async def test_a_batch_that_is_too_large_is_split(stage: Stage) -> None:
    """Fails if a receiver with a smaller limit than our batch gets nothing."""
    receiver = Receiver()
    receiver.status = lambda events: 413 if len(events) > 3 else 200
    await stage.change(20)
    async with ServedApp(receiver.app) as site:
        stage.start(site.url)
        await eventually(lambda: len(receiver.taken) == 21)
    assert [event.id for event in receiver.taken] == await stage.ids()


async def test_what_is_no_event_and_what_was_dropped_stop_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if an entry that another program has written, or one that MAXLEN dropped, ends the pushing."""
    receiver = Receiver()
    receiver.status = lambda events: 503
    await stage.change(3)
    first, *_ = await told(stage.client, stage.keys)
    stream = stage.keys.lifecycle[0]
    await stage.client.xadd(stream, {"what": "ever"})
    async with ServedApp(receiver.app) as site:
        stats = stage.start(site.url)
        await eventually(lambda: stats.failed > 0)
        await stage.pushers[0].stop()
        await stage.client.xdel(stream, first.id)
        receiver.status = lambda events: 200
        stage.start(site.url)
        await eventually(lambda: len(receiver.taken) == 3)
    assert "1 lifecycle events were dropped before they were pushed" in caplog.text
    assert await stage.client.xlen(stage.keys.dead_letters("events")) == 1


class TestSignature:
    def test_it_is_that_of_the_specification(self) -> None:
        """Fails if libraries for Standard Webhooks refuse ours. The values are those of its reference libraries."""
        [secret] = read_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        body = b'{"test": 2432232314}'
        headers = signed_headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
        assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    def test_others_are_refused(self) -> None:
        """Fails if anybody but the cluster can tell a backend of events, or repeat old ones."""
        old, new = read_secrets(f"{SECRET} {base64.b64encode(b'n' * 24).decode()}")
        body, now = b'{"events":[]}', 1_700_000_000
        headers = signed_headers([old, new], "a_b", now, body)
        check_signature([old], headers, body, now + 60)
        check_signature([new], {name.title(): value for name, value in headers.items()}, body, now - 60)
        [other] = read_secrets(base64.b64encode(b"o" * 24).decode())
        refused: list[tuple[list[bytes], dict[str, str], bytes, float, str]] = [
            ([other], headers, body, now, "no signature matches"),
            ([old], headers, body + b" ", now, "no signature matches"),
            ([old], {**headers, "webhook-id": "b"}, body, now, "no signature matches"),
            ([old], headers, body, now + 301, "301 s ago"),
            ([old], {**headers, "webhook-timestamp": "soon"}, body, now, "seconds since the epoch"),
            ([old], {**headers, "webhook-signature": "v1,é v2,x"}, body, now, "no signature matches"),
            ([old], {"webhook-id": "a_b"}, body, now, "webhook-timestamp is missing"),
        ]
        for keys, shown, said, at, why in refused:
            with pytest.raises(BadSignature, match=why):
                check_signature(keys, shown, said, at)

    def test_a_secret_that_is_none_is_found_at_the_start(self) -> None:
        """Fails if webhooks go out that anybody could have signed."""
        for secret in ("", "no base64 at all", base64.b64encode(b"short").decode()):
            with pytest.raises(BadSetting):
                WebhookReceiver(secret)
            with pytest.raises(ValidationError, match="secret of webhooks"):
                WebhookSettings(url="https://x/y", secret=SecretStr(secret))
