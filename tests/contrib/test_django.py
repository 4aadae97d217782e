"""`heliograph.contrib.django` with the real Django. A whole site is in tests/examples/test_django.py."""

import time
from types import SimpleNamespace
from typing import Any

import django
import msgspec
import pytest
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.test import RequestFactory

import heliograph
from heliograph.client.tokens import TokenMaker
from heliograph.errors import PublishError
from heliograph.protocol.lifecycle import EventBatch, LifecycleEvent
from heliograph.protocol.signature import read_secrets, signed_headers
from heliograph.testing import RecordingPublisher
from tests.conftest import StartReplica
from tests.support.tokens import JWT, SECRET

if not settings.configured:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    settings.configure(SECRET_KEY="of the tests", DATABASES={"default": database}, USE_TZ=True)
    django.setup()

from heliograph.contrib import django as contrib

WEBHOOK_SECRET = "whsec_" + "a" * 32
ALICE = SimpleNamespace(pk=7, is_authenticated=True)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> RecordingPublisher:
    publisher = RecordingPublisher()
    monkeypatch.setattr(contrib, "publisher", lambda: publisher)
    return publisher


def test_a_user_is_told_when_the_transaction_is_committed(recorder: RecordingPublisher) -> None:
    """Fails if somebody is told of what nobody can read yet, or of what was rolled back."""
    with transaction.atomic():
        contrib.send_on_commit(ALICE, {"order": 7}, "order-7")
        assert recorder.recorded == []
    assert recorder.data("#7") == [{"order": 7}]
    with transaction.atomic():
        contrib.send_on_commit(ALICE, {"order": 8})
        transaction.set_rollback(True)
    assert recorder.data("#7") == [{"order": 7}]


def test_an_order_is_paid_although_redis_is_away(
    recorder: RecordingPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if a notification that cannot be sent breaks the request, or nobody learns of it."""
    recorder.fail_with(PublishError("Redis is away"))
    with transaction.atomic():
        contrib.send_on_commit(ALICE, {"order": 7})
    assert "user 7 was not told" in caplog.text


async def test_a_page_connects_with_the_token_of_the_view(start_replica: StartReplica) -> None:
    """Fails if the token is another user's, gives other channels, may be stored, or is given to anybody."""
    replica = await start_replica(auth=JWT)
    view = contrib.token_view(channels=["news"], tokens=TokenMaker(SECRET))
    request: Any = RequestFactory().get("/token")
    request.user = SimpleNamespace(is_authenticated=False)
    refused = view(request)
    assert (refused.status_code, refused.content) == (401, b"")
    request.user = ALICE
    given = view(request)
    assert given["Cache-Control"] == "no-store"
    async with heliograph.connect(replica.url, token=given.content.decode(), channels=["news"]) as alice:
        assert alice.state.user == "7"


def test_the_publisher_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if each request opens connections of its own."""
    monkeypatch.setenv("HELIOGRAPH_REDIS__URL", "redis://127.0.0.1:1/0")
    contrib.publisher.cache_clear()
    assert contrib.publisher() is contrib.publisher()
    contrib.publisher.cache_clear()


def test_a_webhook_reaches_a_view_as_events() -> None:
    """Fails if a view gets what the cluster did not sign, or not what it did, or Django asks it for a CSRF token."""
    told: list[LifecycleEvent] = []

    @contrib.webhook(WEBHOOK_SECRET)
    def on_events(_: HttpRequest, events: list[LifecycleEvent]) -> None:
        told.extend(events)

    event = LifecycleEvent(id="1-0", seq=1, event="user_offline", at_ms=5, user="bob")

    def posted(body: bytes, *, is_signed: bool = True) -> int:
        headers = signed_headers(read_secrets(WEBHOOK_SECRET), "1-0_1-0", int(time.time()), body)
        shown = headers if is_signed else {}
        request: Any = RequestFactory().post("/live/events", body, content_type="application/json", headers=shown)
        return int(on_events(request).status_code)

    body = msgspec.json.encode(EventBatch([event]))
    assert [posted(body), posted(body, is_signed=False), posted(b"{}")] == [204, 403, 400]
    assert on_events(RequestFactory().get("/live/events")).status_code == 405
    assert told == [event]
    assert getattr(on_events, "csrf_exempt", False)

    async def later(_: HttpRequest, __: list[LifecycleEvent]) -> None: ...

    with pytest.raises(TypeError, match="must not be async"):  # its events would count as taken, and be lost
        contrib.webhook(WEBHOOK_SECRET)(later)  # type: ignore[arg-type]


def test_a_hook_must_not_be_async() -> None:
    """Fails if a coroutine function becomes a hook: each question to it would be answered with 500."""
    hooks = contrib.Hooks("of-sixteen-bytes")

    async def later(_: HttpRequest, __: object) -> bool:
        return True

    with pytest.raises(TypeError, match="must not be async"):
        hooks.subscribe(later)
