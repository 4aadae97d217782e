"""`/api/runs/{run_id}`: the state of a run for who only asks (S1.4)."""

from urllib.parse import quote

import httpx

from tests.conftest import StartReplica
from tests.support.http import http_client
from tests.support.poller import Poller
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, token
from tests.support.waiting import eventually

RUN = "20251105_1430_우주여행고양이"


async def ask(replica: RunningReplica, run_id: str, **headers: str) -> httpx.Response:
    async with http_client(replica.url) as http:
        return await http.get(f"/api/runs/{quote(run_id, safe='')}", headers=headers)


async def test_every_replica_says_the_same(start_replica: StartReplica) -> None:
    """Fails if a replica knows less of a run than another, or its id has to be plain."""
    replicas = [await start_replica(f"replica-{number}") for number in (1, 2)]
    publish = replicas[0].replica.manager.publish
    for run_id in (RUN, "a/b", "%", "?", " "):
        await publish(f"run:{run_id}", {"state": "RUNNING", "progress": 10, "message": "시작"})
        await publish(f"run:{run_id}", {"progress": 40, "message": "절반"})
        answers = [await ask(replica, run_id) for replica in replicas]
        assert [answer.status_code for answer in answers] == [200, 200], run_id
        run = answers[0].json()
        assert answers[1].json() == run
        cursor = run.pop("cursor")
        assert run == {"run_id": run_id, "state": "RUNNING", "progress": 40.0, "logs": ["시작", "절반"]}
        assert answers[0].headers["cache-control"] == "no-store"
        # Its cursor is one like any other: what follows it is what is new.
        await publish(f"run:{run_id}", {"state": "END", "progress": 100})
        async with Poller(replicas[1].url, cursor=cursor, user="alice", channels=f"run:{run_id}") as poller:
            [event] = [each for each in await poller.poll() if each["type"] == "initial_state"]
            assert event["state"] == "END"


async def test_an_unknown_run_is_404(start_replica: StartReplica) -> None:
    """Fails if a run that nobody has heard of looks like one that has not begun."""
    one = await start_replica(redis_url=None)
    for run_id in ("nothing", "", "없음"):
        answer = await ask(one, run_id)
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert error["code"] == "not_found"
        assert repr(run_id) in error["message"]
    for run_id in ("x" * 600, "a\tb"):
        answer = await ask(one, run_id)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


async def test_in_jwt_mode_it_needs_a_token(start_replica: StartReplica) -> None:
    """Fails if a run's log can be read by anyone, or not by those who may subscribe to it."""
    one = await start_replica(redis_url=None, auth=JWT)
    await one.replica.manager.publish("run:7", {"progress": 1})
    assert (await ask(one, "7")).status_code == 401
    assert (await ask(one, "7", Authorization="Bearer no")).json()["error"]["code"] == "invalid_token"
    assert (await ask(one, "7", Authorization=f"Bearer {token('alice')}")).json()["error"]["code"] == "not_allowed"
    allowed = token("alice", channels={"run:7": ["subscribe"]})
    assert (await ask(one, "7", Authorization=f"Bearer {allowed}")).json()["progress"] == 1.0


async def test_what_may_not_be_subscribed_to_may_not_be_read(start_replica: StartReplica) -> None:
    """Fails if this endpoint is wider than the others."""
    one = await start_replica(redis_url=None, namespaces={"run": {"run": True, "client_subscribe": False}})
    await one.replica.manager.publish("run:7", {"progress": 1})
    answer = await ask(one, "7")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_allowed")


async def test_without_redis_it_is_503(start_replica: StartReplica, own_redis: RedisServer) -> None:
    """Fails if a run looks unknown because Redis is away."""
    one = await start_replica(redis_url=own_redis.url)
    await one.replica.manager.publish("run:7", {"progress": 1})
    own_redis.stop()
    await eventually(lambda: not one.replica.node.ready, within_s=10)
    answer = await ask(one, "7")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
