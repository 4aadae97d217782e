"""Celery tasks that publish their progress.

    @app.task(base=ProgressTask, bind=True)
    def build(self, project):
        self.progress(progress=40, log="compiling…")

The run's id is the task's, or one of its arguments (`run_argument="run_id"` in the decorator). Celery's signals make
this module publish RUNNING, END and FAILED. While a task runs, a thread of its process renews the run's lease in
Redis. If the whole worker dies, the lease expires; another worker or a replica then publishes FAILED, "worker lost".

Publishing progress never fails the task, and hardly delays it: without Redis, updates are left out, and the end of
the run is published later. The settings are the cluster's (`HELIOGRAPH_REDIS__URL`), or see `configure`.
"""

import functools
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from billiard.exceptions import WorkerLostError  # type: ignore[import-untyped]
from celery import Task, signals

from heliograph.backends.redis.run_leases import WORKER_LOST
from heliograph.client.drafts import as_number, described
from heliograph.client.publisher import Publisher
from heliograph.errors import BadData, HeliographError, PublishError

__all__ = ["ProgressTask", "configure"]

logger = logging.getLogger(__name__)

PROGRESS_DEADLINE_S: Final = 2.0  # how long one update may delay its task
END_DEADLINE_S: Final = 5.0  # how long the end may delay it; after that it is published in the background
SETTLE_S: Final = 0.5  # how long attempts that fail may hold up the leases
SILENCE_S: Final = 5.0  # after an update that could not be published, those of its shard are skipped for this long
MESSAGE_CHARACTERS: Final = 1000  # of an exception's text


@dataclass(frozen=True, slots=True)
class _Options:
    publisher: Callable[[], Publisher] = Publisher
    lease_ttl_s: float = 10.0
    sweep_interval_s: float = 1.0


class ProgressTask(Task):  # type: ignore[misc]
    """The base of tasks that publish their progress: `@app.task(base=ProgressTask, bind=True)`.

    `run_argument`: the name of the argument that holds the run's id; by default the id is the task's own.
    """

    abstract = True
    run_argument: ClassVar[str | None] = None

    def progress(
        self,
        progress: float | None = None,
        state: str | None = None,
        log: object = None,
        *,
        run_id: str | None = None,
    ) -> None:
        """Publish how far the run is. Any thread may call it.

        Args:
            progress: percent, clamped to 0 and 100. If it is left out, or not a number, it keeps its value.
            state: by default the state that this task has published last, at first `RUNNING`.
            log: one line.
            run_id: by default the run of this call of the task. In a thread that the task has started, Celery does
                not know the call; pass the id there if this process runs several calls of the task at once
                (`--pool=threads`).

        Never raises, whatever the settings, Redis and the arguments: the job matters more than its progress.
        """
        try:
            if run_id is None:
                run_id = self._present_run()
            if run_id is not None:
                _runs().publish(run_id, _text(state), _in_percent(progress), _text(log))
        except Exception as error:  # noqa: BLE001 - the arguments, and what is overridden in here, are the task's own
            logger.warning("progress of %s not published: %s", self.name, described(error))

    def _present_run(self) -> str | None:
        """Return the run of the calling thread; None (with a log line) if there is none, or it is not certain."""
        request = self.request
        if request.id is not None:
            return self.run_id(request.id, request.args or (), request.kwargs or {})
        if self.request_stack.top is None:  # no call of the task in this thread: one that the task has started?
            runs = _runs().present(self.name)
            if len(runs) == 1:
                return runs[0]
            if runs:
                logger.warning(
                    "progress of %s not published: this process runs %d calls of it; pass run_id=… to say which",
                    self.name,
                    len(runs),
                )
                return None
        logger.debug("%s was called as a function, not as a task: no progress is published", self.name)
        return None

    def run_id(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Return the run id of a call of this task. May be overridden; the same call must give the same id."""
        if self.run_argument is None:
            return task_id
        try:
            bound = inspect.signature(self.run).bind_partial(*args, **kwargs)
        except TypeError:
            return task_id  # the call is wrong; Celery reports that
        bound.apply_defaults()
        return str(bound.arguments.get(self.run_argument, task_id))


def configure(
    *, publisher: Callable[[], Publisher] = Publisher, lease_ttl_s: float = 10.0, sweep_interval_s: float = 1.0
) -> None:
    """Set how this program's workers publish. Call it where the Celery app is created, before a task runs.

    Args:
        publisher: creates the Publisher of a process; each process has its own.
        lease_ttl_s: a run whose lease was not renewed for this long is lost. Leases are renewed four times as often.
        sweep_interval_s: how often each worker looks for lost runs.
    """
    global _options, _current
    _options = _Options(publisher, lease_ttl_s, sweep_interval_s)
    _current = None


@dataclass
class _Ending:
    """The end of a run that is not published yet. Its key makes sure that retries publish it once."""

    state: str
    progress: float | None
    message: str | None
    key: str = field(default_factory=lambda: os.urandom(8).hex())


class _Runs:
    """The runs of this process, and the ends that it has not published yet."""

    def __init__(self, options: _Options) -> None:
        self.pid = os.getpid()
        self._options = options
        self._publisher = options.publisher()
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}  # run id -> the last state that its task has published
        self._tasks: dict[str, str] = {}  # run id -> the name of its task
        self._owed: dict[str, _Ending] = {}
        self._silent_until: dict[int, float] = {}  # shard -> monotonic seconds
        self._due = threading.Event()
        self._keeper: threading.Thread | None = None
        self._sweeper: threading.Thread | None = None
        self._stopped = threading.Event()

    # -- what a task does

    def present(self, task: str) -> list[str]:
        """Return the runs of this task in this process."""
        with self._lock:
            return [run_id for run_id, name in self._tasks.items() if name == task]

    def begin(self, run_id: str, task: str) -> None:
        with self._lock:
            self._states[run_id] = "RUNNING"
            self._tasks[run_id] = task
            self._owed.pop(run_id, None)  # it runs again: its last end no longer counts
        self._keep()
        try:
            self._publisher.lease_runs([run_id], self._options.lease_ttl_s)
        except PublishError as error:
            logger.warning("lease of run %s not taken, retrying: %s", run_id, error.reason)
        self.publish(run_id, "RUNNING", 0, None)

    def publish(self, run_id: str, state: str | None, progress: float | None, log: str | None) -> None:
        with self._lock:
            # In every update: another worker may have declared this run lost (FAILED) meanwhile.
            state = state or self._states.get(run_id, "RUNNING")
            if run_id in self._states:
                self._states[run_id] = state
        try:
            shard = self._publisher.shard_of_run(run_id)
            if time.monotonic() < self._silent_until.get(shard, 0.0):
                return
            self._publisher.publish_progress(run_id, state, progress, log, deadline_s=PROGRESS_DEADLINE_S)
        except PublishError as error:
            self._silent_until[shard] = time.monotonic() + SILENCE_S
            logger.warning(
                "progress of run %s not published, and skipped for the next %g s: %s", run_id, SILENCE_S, error.reason
            )
        except HeliographError as error:
            logger.warning("progress of run %s not published: %s", run_id, error)

    def end(self, run_id: str, state: str, progress: float | None, message: str | None) -> None:
        """Publish the end: at once if the task ran in this process, else (a child was lost) in the background."""
        ending = _Ending(state, progress, message)
        with self._lock:
            here = run_id in self._states
        if not (here and self._publish_end(run_id, ending, END_DEADLINE_S)):
            with self._lock:
                self._owed[run_id] = ending
            self._keep()
            self._due.set()

    def leave(self, run_id: str) -> None:
        """Note that the task is over. A run keeps its lease until its end is published."""
        with self._lock:
            self._tasks.pop(run_id, None)
            if self._states.pop(run_id, None) is None or run_id in self._owed:
                return
        self._release(run_id)

    def _publish_end(self, run_id: str, ending: _Ending, deadline_s: float) -> bool:
        try:
            self._publisher.publish_progress(
                run_id,
                ending.state,
                ending.progress,
                ending.message,
                idempotency_key=ending.key,
                deadline_s=deadline_s,
            )
        except PublishError as error:
            logger.warning(
                "%s of run %s not published, retrying in the background: %s", ending.state, run_id, error.reason
            )
            return False
        except HeliographError as error:
            logger.warning("%s of run %s cannot be published: %s", ending.state, run_id, error)
        return True

    def _release(self, run_id: str) -> None:
        try:
            self._publisher.release_run(run_id)
        except HeliographError as error:
            logger.debug(
                "lease of run %s not released; it expires by itself: %s", run_id, error
            )  # it has no effect on a run that has ended

    # -- in the background

    def _keep(self) -> None:
        with self._lock:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep_loop, name="heliograph-leases", daemon=True)
                self._keeper.start()

    def _keep_loop(self) -> None:
        while not self._stopped.is_set():
            self._due.wait(self._options.lease_ttl_s / 4)
            self._due.clear()
            with self._lock:
                held = list({**self._states, **self._owed})
            try:
                self._publisher.lease_runs(held, self._options.lease_ttl_s)
            except Exception as error:  # noqa: BLE001 - without this thread all runs here would be taken for lost
                logger.warning("leases of %d runs not all renewed, retrying: %s", len(held), described(error))
            try:
                self.settle(0)
            except Exception as error:  # noqa: BLE001 - likewise
                logger.warning("ends of runs not published, retrying: %s", described(error))

    def settle(self, deadline_s: float) -> None:
        """Publish the ends that are still due, as far as possible now.

        One whose Redis is away waits behind those of other shards. If that took long, the rest is for the next time.
        """
        until = time.monotonic() + deadline_s + SETTLE_S
        with self._lock:
            owed = dict(self._owed)
        for run_id, ending in owed.items():
            if not self._publish_end(run_id, ending, deadline_s):
                with self._lock:
                    if self._owed.get(run_id) is ending:
                        self._owed[run_id] = self._owed.pop(run_id)
                if time.monotonic() > until:
                    return
                continue
            with self._lock:
                if self._owed.get(run_id) is ending:
                    del self._owed[run_id]
                over = run_id not in self._states and run_id not in self._owed
            if over:
                self._release(run_id)

    def start_sweeping(self) -> None:
        """Look for runs that have lost their worker, of any program, until `stop`."""
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=self._sweep_loop, name="heliograph-sweeper", daemon=True)
            self._sweeper.start()

    def _sweep_loop(self) -> None:
        while not self._stopped.wait(self._options.sweep_interval_s):
            try:
                lost = self._publisher.reap_lost_runs()
            except Exception as error:  # noqa: BLE001 - the next look is as good
                logger.debug("search for lost runs failed, retrying: %s", described(error))
            else:
                if lost:
                    logger.warning("%d runs lost their worker and were marked FAILED", lost)

    def stop(self) -> None:
        self.settle(END_DEADLINE_S)
        self._stopped.set()
        self._due.set()
        self._publisher.close()


_options = _Options()
_current: _Runs | None = None
_making = threading.Lock()


def _runs() -> _Runs:
    """Return this process's runs: a forked child shares no connection and no lock with its parent."""
    global _current
    with _making:
        if _current is None or _current.pid != os.getpid():
            _current = _Runs(_options)
        return _current


def _after_fork() -> None:
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


# -- Celery's signals. They arrive in the process that runs the task, except for tasks that have lost theirs.


def _harmless(receiver: Callable[..., None]) -> Callable[..., None]:
    """Log an error here (for example no Redis in the settings) as one line, so that the task goes on."""

    @functools.wraps(receiver)
    def receive(sender: Any = None, **facts: Any) -> None:
        try:
            receiver(sender, **facts)
        except Exception as error:  # noqa: BLE001 - as above
            logger.warning("the run of %s is not reported: %s", getattr(sender, "name", sender), described(error))

    return receive


@_harmless
def _on_prerun(sender: Any, task_id: str, args: Any, kwargs: Any, **_: Any) -> None:
    if isinstance(sender, ProgressTask):
        _runs().begin(sender.run_id(task_id, args, kwargs), sender.name)


@_harmless
def _on_success(sender: Any, **_: Any) -> None:
    if isinstance(sender, ProgressTask):
        _runs().end(_run_of_request(sender, sender.request), "END", 100, None)


@_harmless
def _on_failure(sender: Any, task_id: str, exception: BaseException, args: Any, kwargs: Any, **_: Any) -> None:
    if isinstance(sender, ProgressTask):
        lost = isinstance(exception, WorkerLostError)
        text = WORKER_LOST if lost else described(exception)[:MESSAGE_CHARACTERS]
        _runs().end(sender.run_id(task_id, args or (), kwargs or {}), "FAILED", None, text)


@_harmless
def _on_revoked(sender: Any, request: Any, terminated: bool, expired: bool, **_: Any) -> None:
    if isinstance(sender, ProgressTask):
        text = "expired" if expired else "terminated" if terminated else "revoked"
        _runs().end(_run_of_request(sender, request), "FAILED", None, text)


@_harmless
def _on_retry(sender: Any, request: Any, reason: Any, **_: Any) -> None:
    if isinstance(sender, ProgressTask):
        text = f"to be tried again: {described(reason)[:MESSAGE_CHARACTERS]}"
        _runs().publish(_run_of_request(sender, request), "RETRY", None, text)


@_harmless
def _on_postrun(sender: Any, task_id: str, args: Any, kwargs: Any, **_: Any) -> None:
    if isinstance(sender, ProgressTask):
        _runs().leave(sender.run_id(task_id, args, kwargs))


@_harmless
def _on_worker_ready(sender: Any, **_: Any) -> None:
    _runs().start_sweeping()


@_harmless
def _on_shutdown(sender: Any, **_: Any) -> None:
    global _current
    if _current is not None and _current.pid == os.getpid():
        _current.stop()
        _current = None


def _run_of_request(task: ProgressTask, request: Any) -> str:
    return task.run_id(str(request.id), request.args or (), request.kwargs or {})


def _in_percent(progress: object) -> float | None:
    if progress is None:
        return None
    try:
        number = as_number(progress)
    except BadData as error:
        logger.warning("progress left out of an update because it is not a number: %s", error)
        return None
    return None if number != number else min(100.0, max(0.0, number))  # NaN: unknown


def _text(value: object) -> str | None:
    return None if value is None else str(value)


signals.task_prerun.connect(_on_prerun)
signals.task_success.connect(_on_success)
signals.task_failure.connect(_on_failure)
signals.task_revoked.connect(_on_revoked)
signals.task_retry.connect(_on_retry)
signals.task_postrun.connect(_on_postrun)
signals.worker_ready.connect(_on_worker_ready)
signals.worker_process_shutdown.connect(_on_shutdown)
signals.worker_shutdown.connect(_on_shutdown)
