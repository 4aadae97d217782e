"""The Celery application whose real workers the tests start (`celery -A tests.contrib.celery_app worker`)."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

from celery import Celery

from heliograph.contrib.celery import ProgressTask, configure

configure(lease_ttl_s=2.0, sweep_interval_s=0.2)

app = Celery("tests", broker=os.environ["TEST_BROKER"], set_as_current=False)
app.conf.update(task_ignore_result=True, worker_send_task_events=False, broker_connection_retry_on_startup=True)


@app.task(base=ProgressTask, bind=True, name="count")
def count(self: Any, steps: int, pause_s: float) -> None:
    for step in range(1, steps + 1):
        self.progress(progress=100 * step / steps, log=f"step {step}")
        time.sleep(pause_s)


@app.task(base=ProgressTask, bind=True, name="fail", run_argument="run_id")
def fail(self: Any, run_id: str, how: str = "plainly") -> None:
    self.progress(progress=40, state="BUILDING", log=how)
    if how == "once" and self.request.retries == 0:
        raise self.retry(exc=OSError("not yet"), countdown=0.1)
    if how == "plainly":
        raise ValueError("고양이가 없다")
    if how == "late":
        raise ValueError("\n\n  expected\n  but got")
    if how == "mute":
        raise Mute


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Scalar(float):
    """As NumPy's: a float of another class."""


@app.task(base=ProgressTask, bind=True, name="spread", run_argument="run_id")
def spread(self: Any, run_id: str) -> None:
    """Tells of its progress from threads, in numbers of other libraries, and with what is no progress."""

    def part(number: int) -> None:
        self.progress(progress=(Scalar(40), Decimal("41.5"), "x", None)[number], log=f"part {number}")

    for number in range(4):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(part, number).result()


@app.task(base=ProgressTask, bind=True, name="hang", run_argument="run_id")
def hang(self: Any, run_id: str) -> None:
    self.progress(progress=40, log=str(os.getpid()))
    time.sleep(600)


both = threading.Barrier(2, timeout=20)


@app.task(base=ProgressTask, bind=True, name="pair", run_argument="run_id")
def pair(self: Any, run_id: str) -> None:
    """Two of these run at once in one process; each has a thread that says whose it is, and that does not know."""
    both.wait()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(self.progress, log="of nobody").result()
        pool.submit(self.progress, log=f"of {run_id}", run_id=run_id).result()
    both.wait()
