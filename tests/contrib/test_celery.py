"""Real Celery workers (prefork, Redis as the broker), watched through real replicas; and workers that are killed."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from heliograph.client.publisher import Publisher
from heliograph.errors import PublishError
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

pytest.importorskip("celery")

RUN_ID = "20251105_1430_우주여행고양이"

StartWorker = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def namespace() -> str:
    """One for the module: its worker is started once."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def start_worker(
    redis_server: RedisServer, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartWorker]:
    """Start a worker for the named queue, with one child, in a process group of its own.

    `redis_url`: of the cluster whose viewers see its runs; the queue stays where it is.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(queue: str, *pool: str, redis_url: str = redis_server.url) -> subprocess.Popen[bytes]:
        log = tmp_path_factory.mktemp("celery") / f"{queue}.log"
        command = [
            *(sys.executable, "-m", "celery", "-A", "tests.contrib.celery_app", "worker"),
            *(pool or ("--pool=prefork", "--concurrency=1")),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            *("--loglevel=info", "-Q", f"{namespace}-{queue}", "-n", f"{queue}@%h"),
        ]
        environment = {
            **os.environ,
            "TEST_BROKER": broker(redis_server),
            "HELIOGRAPH_REDIS__URL": redis_url,
            "HELIOGRAPH_REDIS__PREFIX": f"{namespace}:",
            "HELIOGRAPH_BUS__CHANNEL": f"{namespace}:events",
        }
        with log.open("wb") as output:
            worker = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


@pytest.fixture(scope="module")
def worker(start_worker: StartWorker) -> subprocess.Popen[bytes]:
    """The worker that most tests use, and that outlives those that are killed."""
    return start_worker("main")


@pytest.fixture(scope="module")
def celery(redis_server: RedisServer) -> Iterator[Celery]:
    with Celery("sender", broker=broker(redis_server), set_as_current=False) as app:
        app.conf.task_ignore_result = True
        yield app


Send = Callable[..., str]


@pytest.fixture
def send(celery: Celery, namespace: str) -> Send:
    """Send a task by its name, as a program does that does not share the workers' code; returns its run's id."""

    def send(name: str, *args: Any, run_id: str = "", queue: str = "main", **options: Any) -> str:
        run_id = run_id or f"{uuid.uuid4().hex[:8]}_우주여행고양이"
        if name != "count":
            args = (run_id, *args)
            task_id = uuid.uuid4().hex
        else:
            task_id = run_id
        celery.send_task(name, args, task_id=task_id, queue=f"{namespace}-{queue}", **options)
        return run_id

    return send


def broker(redis_server: RedisServer) -> str:
    return redis_server.url.removesuffix("/0") + "/1"


async def until(viewer: Client, *states: str, within_s: float = 10) -> list[dict[str, Any]]:
    """The run's progress up to the first of these states."""
    seen = [await viewer.next("progress", within_s=within_s)]
    while seen[-1]["state"] not in states:
        seen.append(await viewer.next("progress", within_s=within_s))
    return seen


@pytest.fixture
async def url(start_replica: StartReplica) -> str:
    return (await start_replica()).url


async def test_a_run_from_its_start_to_its_end(
    worker: subprocess.Popen[bytes], start_replica: StartReplica, url: str, send: Send
) -> None:
    """Fails if a viewer misses a step, sees one twice, or END does not come by itself: early or late, anywhere."""
    other = await start_replica("replica-2")
    async with Client(url, user="early", path=f"/ws/runs/{RUN_ID}") as early:
        assert await early.next("initial_state") == {
            "type": "initial_state",
            "state": None,
            "progress": 0,
            "logs": [],
        }
        send("count", 20, 0.05, run_id=RUN_ID)
        await early.next("progress", progress=25)
        async with Client(other.url, user="late", path=f"/ws/runs/{RUN_ID}") as late:
            initial = await late.next("initial_state")
            rest = await until(late, "END")
        async with Client(other.url, user="last", path=f"/ws/runs/{RUN_ID}") as last:
            final = await last.next("initial_state")
        seen = await until(early, "END")
    steps = [f"step {i}" for i in range(1, 21)]
    assert {frame["run_id"] for frame in seen} == {RUN_ID}
    assert (seen[0]["state"], seen[0]["progress"]) == ("RUNNING", 0)
    assert [frame["message"] for frame in seen[1:-1]] == [step for step in steps if step != "step 5"]
    assert initial["state"] == "RUNNING"
    assert initial["progress"] >= 25
    assert initial["logs"] + [frame["message"] for frame in rest[:-1]] == steps
    assert (rest[-1]["progress"], rest[-1]["message"]) == (100, None)
    assert (final["state"], final["progress"], final["logs"]) == ("END", 100, steps)


async def test_a_task_that_raises(worker: subprocess.Popen[bytes], url: str, send: Send) -> None:
    """Fails if an exception does not end the run, with its text and at the progress where it was."""
    run_id = f"{uuid.uuid4().hex}_고양이"
    async with Client(url, user="eve", path=f"/ws/runs/{run_id}") as viewer:
        await viewer.next("initial_state")
        send("fail", run_id=run_id)
        seen = await until(viewer, "FAILED", "END")
    assert [(frame["state"], frame["progress"], frame["message"]) for frame in seen] == [
        ("RUNNING", 0, None),
        ("BUILDING", 40, "plainly"),
        ("FAILED", 40, "ValueError: 고양이가 없다"),
    ]


async def test_progress_from_threads(worker: subprocess.Popen[bytes], url: str, send: Send) -> None:
    """Fails if what a task's own threads say is lost, or a line is because of the number beside it."""
    run_id = f"{uuid.uuid4().hex}_고양이"
    async with Client(url, user="eve", path=f"/ws/runs/{run_id}") as viewer:
        await viewer.next("initial_state")
        send("spread", run_id=run_id)
        seen = await until(viewer, "FAILED", "END")
    assert [(frame["progress"], frame["message"]) for frame in seen] == [
        (0, None),
        (40, "part 0"),
        (41.5, "part 1"),
        (41.5, "part 2"),
        (41.5, "part 3"),
        (100, None),
    ]


@pytest.mark.parametrize(("how", "text"), [("late", "ValueError:   expected"), ("mute", "Mute")])
async def test_the_text_of_an_exception(
    worker: subprocess.Popen[bytes], url: str, send: Send, how: str, text: str
) -> None:
    """Fails if a text that begins with a line's end is lost, or one that cannot be had keeps the end from coming."""
    run_id = f"{uuid.uuid4().hex}_고양이"
    async with Client(url, user="eve", path=f"/ws/runs/{run_id}") as viewer:
        await viewer.next("initial_state")
        send("fail", how, run_id=run_id)
        seen = await until(viewer, "FAILED", "END")
    assert (seen[-1]["state"], seen[-1]["message"]) == ("FAILED", text)


async def test_threads_of_one_of_several_calls(start_worker: StartWorker, url: str, send: Send) -> None:
    """Fails if a thread's progress goes to the run of another call in the same process."""
    start_worker("pair", "--pool=threads", "--concurrency=2")
    runs = [f"{uuid.uuid4().hex}_{name}" for name in ("고양이", "cat")]
    async with Client(url, user="eve", path=f"/ws/runs/{runs[0]}") as viewer:
        await viewer.next("initial_state")
        for run_id in runs:
            send("pair", run_id=run_id, queue="pair")
        seen = await until(viewer, "FAILED", "END", within_s=20)
    assert [frame["message"] for frame in seen if frame["message"]] == [f"of {runs[0]}"]


def test_a_task_whose_settings_are_wrong(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Fails if a task fails, or its log is full of tracebacks, because nobody said where Redis is."""
    from heliograph.contrib import celery as module

    monkeypatch.delenv("HELIOGRAPH_REDIS__URL", raising=False)
    app = Celery("eager", set_as_current=False)
    app.conf.update(task_always_eager=True)

    @app.task(base=module.ProgressTask, bind=True, name="lonely")
    def lonely(self: Any) -> str:
        self.progress(1)
        return "done"

    module.configure()
    assert lonely.delay().get() == "done"
    assert "HELIOGRAPH_REDIS__URL" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_task_that_is_tried_again(worker: subprocess.Popen[bytes], url: str, send: Send) -> None:
    """Fails if a retry ends the run, or the second try does not."""
    run_id = f"{uuid.uuid4().hex}_고양이"
    async with Client(url, user="eve", path=f"/ws/runs/{run_id}") as viewer:
        await viewer.next("initial_state")
        send("fail", "once", run_id=run_id)
        seen = await until(viewer, "FAILED", "END")
    states = [frame["state"] for frame in seen]
    assert states == ["RUNNING", "BUILDING", "RETRY", "RUNNING", "BUILDING", "END"]


async def test_a_task_that_is_revoked(
    worker: subprocess.Popen[bytes], url: str, send: Send, celery: Celery, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a task that expired before it could run leaves its run as if it were still to come."""
    run_id = f"{uuid.uuid4().hex}_고양이"
    async with Client(url, user="eve", path=f"/ws/runs/{run_id}") as viewer:
        await viewer.next("initial_state")
        send("hang", run_id=run_id, expires=-1)
        [frame] = await until(viewer, "FAILED")
        assert frame["message"] == "expired"


async def test_a_child_that_is_killed(worker: subprocess.Popen[bytes], url: str, send: Send) -> None:
    """Fails if the kernel's OOM killer leaves a run at 40 % for ever."""
    run_id = f"{uuid.uuid4().hex}_고양이"
    async with Client(url, user="eve", path=f"/ws/runs/{run_id}") as viewer:
        await viewer.next("initial_state")
        send("hang", run_id=run_id)
        frame = await viewer.next("progress", progress=40)
        os.kill(int(frame["message"]), signal.SIGKILL)
        seen = await until(viewer, "FAILED")
        assert seen[-1]["message"] == "worker lost"
        assert seen[-1]["progress"] == 40
        await asyncio.sleep(2.5)  # longer than its lease: nothing else may be said
        await viewer.nothing_more()
        # Celery, which waits before it gives a child up, and the lease may both say so: the same once more at most.
        again = [(each["state"], each["message"]) for each in viewer._seen if each["type"] == "progress"]
        assert again in ([], [("FAILED", "worker lost")])


async def test_a_worker_that_is_killed(
    worker: subprocess.Popen[bytes],
    start_worker: StartWorker,
    url: str,
    send: Send,
    redis_server: RedisServer,
    namespace: str,
) -> None:
    """Fails if nobody notices that a whole worker is gone: another worker must, by the lease."""
    run_id = f"{uuid.uuid4().hex}_고양이"
    doomed = start_worker("doomed")
    async with Client(url, user="eve", path=f"/ws/runs/{run_id}") as viewer:
        await viewer.next("initial_state")
        send("hang", run_id=run_id, queue="doomed")
        await viewer.next("progress", progress=40, within_s=15)
        await asyncio.sleep(2.5)  # longer than the lease: it is renewed while the task sleeps
        await viewer.nothing_more()
        assert [each for each in viewer._seen if each.get("state") == "FAILED"] == []
        os.killpg(doomed.pid, signal.SIGKILL)
        [*_, frame] = await until(viewer, "FAILED", within_s=4)
    assert (frame["progress"], frame["message"]) == (40, "worker lost")
    with Redis.from_url(redis_server.url) as redis:
        assert redis.zscore(f"{namespace}:runs:leases", run_id) is None


async def test_runs_on_a_redis_cluster(
    start_worker: StartWorker, start_replica: StartReplica, redis_cluster: RedisCluster, send: Send
) -> None:
    """Fails if a worker's children, which are forked, do not reach some virtual shard, or a lost run is not seen."""
    url = redis_cluster.url.replace("virtual_shards=1", "virtual_shards=4")
    worker = start_worker("cluster", redis_url=url)
    replica = await start_replica(redis_url=url)
    runs = [send("count", 2, 0.01, queue="cluster") for _ in range(8)]
    for run_id in runs:
        async with Client(replica.url, user="eve", path=f"/ws/runs/{run_id}") as viewer:
            state = await viewer.next("initial_state")
            if state["state"] != "END":
                await until(viewer, "END", within_s=30)
    last = send("count", 1000, 0.05, queue="cluster")
    async with Client(replica.url, user="eve", path=f"/ws/runs/{last}") as viewer:
        await until(viewer, "RUNNING", within_s=10)
        os.killpg(worker.pid, signal.SIGKILL)
        lost = (await until(viewer, "FAILED", within_s=20))[-1]
    assert lost["message"] == "worker lost"


def test_a_worker_without_redis_works_on(
    own_redis: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a task fails or stalls because its progress cannot be published, or its end is never told."""
    from heliograph.contrib import celery as module

    monkeypatch.setattr(module, "PROGRESS_DEADLINE_S", 0.2)
    monkeypatch.setattr(module, "END_DEADLINE_S", 0.2)
    app = Celery("eager", set_as_current=False)
    app.conf.update(task_always_eager=True)

    @app.task(base=module.ProgressTask, bind=True)
    def job(self: Any) -> str:
        for i in range(200):
            self.progress(progress=i, log="\ud800")  # beyond 100 %, no valid text
        self.progress(progress="x", state=7, log=[])
        return "done"

    module.configure(publisher=lambda: Publisher(own_redis.url, prefix=f"{namespace}:"), lease_ttl_s=0.4)
    try:
        own_redis.freeze()
        result = job.delay()
        assert result.get() == "done"
        own_redis.thaw()
        with Redis.from_url(own_redis.url, decode_responses=True) as redis:
            state: dict[str, Any] = {}
            for _ in range(500):
                state = redis.hgetall(f"{namespace}:{{run:{result.id}}}:state")
                if state.get("state") == '"END"':
                    break
                module._runs()._stopped.wait(0.01)
            assert state == {"state": '"END"', "progress": "100"}
    finally:
        module._on_shutdown()
        module.configure()


def test_a_shard_that_is_gone_keeps_no_end_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the end of a run is not told as long as the Redis of another run is away."""
    from heliograph.contrib import celery as module

    class OneGone(Publisher):
        def publish_progress(self, run_id: str, *_: Any, **__: Any) -> Any:
            if run_id.startswith("gone"):
                raise PublishError("away")
            told.append(run_id)

        def lease_runs(self, run_ids: Sequence[str], ttl_s: float) -> None:
            raise PublishError("away")

    told: list[str] = []
    monkeypatch.setattr(module, "SETTLE_S", 0)  # as if each attempt took long
    runs = module._Runs(module._Options(lambda: OneGone("redis://localhost/0"), lease_ttl_s=0.2))
    try:
        for run_id in ("gone-1", "gone-2", "other"):
            runs.end(run_id, "FAILED", None, None)
        for _ in range(500):
            if told:
                break
            runs._stopped.wait(0.01)
    finally:
        runs.stop()
    assert told == ["other"]


def test_a_shard_that_is_gone_silences_no_run_of_others() -> None:
    """Fails if updates of a run are left out because the Redis of another run is away."""
    from heliograph.contrib import celery as module

    class OneGone(Publisher):
        def publish_progress(self, run_id: str, *_: Any, **__: Any) -> Any:
            tried.append(run_id)
            if self.shard_of_run(run_id) == 0:
                raise PublishError("away")

    tried: list[str] = []
    shards = ["redis://localhost:1/0", "redis://localhost:2/0"]
    runs = module._Runs(module._Options(lambda: OneGone(shards)))
    of = runs._publisher.shard_of_run
    gone, also_gone = [f"{number}" for number in range(100) if of(f"{number}") == 0][:2]
    here = next(f"{number}" for number in range(100) if of(f"{number}") == 1)
    for run_id in (gone, here, also_gone, here, gone, "\0"):
        runs.publish(run_id, "RUNNING", 1, None)
    assert tried == [gone, here, here]
    runs.stop()
