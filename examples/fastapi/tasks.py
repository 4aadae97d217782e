"""The job. `ProgressTask` reports its start, its end, a failure and a lost worker by itself."""

import os
import time

from celery import Celery

from heliograph.contrib.celery import ProgressTask

app = Celery("tasks", broker=os.environ["CELERY_BROKER_URL"])


@app.task(base=ProgressTask, bind=True)
def build(self: ProgressTask, files: int) -> None:
    for number in range(1, files + 1):
        time.sleep(0.1)  # the work
        self.progress(progress=100 * number / files, log=f"compiled file {number} of {files}")
