"""`heliograph.contrib.fastapi` in a real FastAPI application; for `mount` see tests/transports/test_mounted.py."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
import msgspec
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException

import heliograph
from heliograph.client.tokens import TokenMaker
from heliograph.contrib.fastapi import LivePublisher, publish_from, token_endpoint, webhook
from heliograph.errors import BadSetting
from heliograph.protocol.lifecycle import EventBatch, LifecycleEvent
from heliograph.protocol.signature import read_secrets, signed_headers
from heliograph.testing import AsyncRecordingPublisher
from tests.conftest import StartReplica
from tests.support.tokens import JWT, SECRET

WEBHOOK_SECRET = "whsec_" + "a" * 32


def http_of(api: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://site")


def current_user(name: Annotated[str | None, Header()] = None) -> str:
    """What an application has of its own: here the user is who says so."""
    if name is None:
        raise HTTPException(401)
    return name


async def test_endpoints_publish_while_the_application_runs() -> None:
    """Fails if endpoints get no publisher, the application's own lifespan is left out, or nothing is closed."""
    said: list[str] = []

    @asynccontextmanager
    async def own(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        said.append("begun")
        yield {"mine": "kept"}
        said.append("ended")

    class Recorder(AsyncRecordingPublisher):
        async def close(self) -> None:
            said.append("closed")
            await super().close()

    recorder = Recorder()
    api = FastAPI(lifespan=own)
    publish_from(api, lambda: recorder)

    @api.post("/orders/{order_id}/pay")
    async def pay(order_id: int, live: LivePublisher) -> int:
        return (await live.publish(f"orders:{order_id}", {"paid": True})).offset

    async with http_of(api) as http:
        with pytest.raises(RuntimeError, match="publish_from"):
            await http.post("/orders/7/pay")
        async with api.router.lifespan_context(api) as state:
            assert state == {"mine": "kept"}
            assert (await http.post("/orders/7/pay")).json() == 1
    assert recorder.data("orders:7") == [{"paid": True}]
    assert said == ["begun", "ended", "closed"]


async def test_a_page_connects_with_the_token_of_the_endpoint(start_replica: StartReplica) -> None:
    """Fails if the token is another user's, gives other channels, may be stored, or is given to anybody."""
    replica = await start_replica(auth=JWT)
    api = FastAPI()
    endpoint = token_endpoint(current_user, channels=lambda user: [f"of:{user}"], tokens=TokenMaker(SECRET))
    api.get("/token")(endpoint)
    async with http_of(api) as http:
        assert (await http.get("/token")).status_code == 401
        given = await http.get("/token", headers={"name": "bob"})
        assert given.headers["cache-control"] == "no-store"
    async with heliograph.connect(replica.url, token=given.text, channels=["of:bob"]) as bob:
        assert bob.state.user == "bob"


def test_without_a_secret_the_application_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a missing secret is found by the first user."""
    monkeypatch.delenv("HELIOGRAPH_AUTH__SECRET", raising=False)
    with pytest.raises(BadSetting):
        token_endpoint(current_user)


async def test_a_webhook_reaches_an_endpoint_as_events() -> None:
    """Fails if an endpoint gets what the cluster did not sign, or not what it did."""
    api = FastAPI()
    told: list[LifecycleEvent] = []

    @api.post("/live/events", status_code=204)
    async def on_events(events: Annotated[list[LifecycleEvent], Depends(webhook(WEBHOOK_SECRET))]) -> None:
        told.extend(events)

    event = LifecycleEvent(id="1-0", seq=1, event="user_offline", at_ms=5, user="bob")
    body = msgspec.json.encode(EventBatch([event]))
    headers = signed_headers(read_secrets(WEBHOOK_SECRET), "1-0_1-0", int(time.time()), body)
    async with http_of(api) as http:
        assert (await http.post("/live/events", content=body, headers=headers)).status_code == 204
        assert told == [event]
        assert (await http.post("/live/events", content=body)).status_code == 403
        nothing = signed_headers(read_secrets(WEBHOOK_SECRET), "1", int(time.time()), b"{}")
        assert (await http.post("/live/events", content=b"{}", headers=nothing)).status_code == 400
    assert told == [event]
