"""What locust loads: the users, and what happens around a run. Started by `python -m loadtest`; see README.md."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locust import events
from locust.runners import LocalRunner

from loadtest.flood import Flood
from loadtest.report import write_report
from loadtest.run import RUNS, Load, Run
from loadtest.sources import CannotSpread, Target, find_sources
from loadtest.summary import Summary
from loadtest.users import ChurnUser, FloodUser, PairUser, PublisherUser, SseUser, SubscriberUser

if TYPE_CHECKING:
    from locust.argument_parser import LocustArgumentParser
    from locust.env import Environment

__all__ = ["ChurnUser", "FloodUser", "PairUser", "PublisherUser", "SseUser", "SubscriberUser"]

logger = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Heliograph")
    group.add_argument("--rate", type=float, default=2.0, help="Messages a second of each user who sends")
    group.add_argument("--bytes", type=int, default=128, help="Size of the data of a message")
    group.add_argument("--channels", type=int, default=4, help="Channels that subscribers are spread over")
    group.add_argument("--replicas", type=int, help="How many there must be (unset: the cluster is asked)")
    group.add_argument("--sources", default="", help="Addresses of this machine to come from, in different /24s")
    group.add_argument("--report", default="artifacts/loadtest", help="Directory for report.html and summary.json")


@events.init.add_listener
def prepare(environment: Environment, runner: Any, **_: Any) -> None:
    """Refuse at once what cannot work: a listener of a later event could not."""
    if not isinstance(runner, LocalRunner):
        _refuse("The books are kept in one process: run it several times against one cluster instead of distributed.")
    try:
        _find_sources(environment)
    except CannotSpread as error:
        _refuse(str(error))


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    options = _options(environment)
    target, sources = _find_sources(environment)
    for line in sources.describe():
        logger.info("spread: %s", line)
    payload = "x" * max(0, options.bytes - 90)  # the rest of a stamp
    run = RUNS.present = Run(environment, target, sources, Load(options.rate, payload, options.channels))
    if FloodUser in environment.user_classes:
        run.flood = Flood(begins_at=(options.run_time or 60) / 2)


@events.user_error.add_listener
def count_broken(user_instance: Any, exception: Exception, **_: Any) -> None:
    """A task or a start that failed: locust prints it, and goes on."""
    user = getattr(user_instance, "user", user_instance)
    user.run_of.ledger.broken.append(f"{user.name}: {exception!r}")


@events.test_stopping.add_listener
def stop_sending(**_: Any) -> None:
    if RUNS.present is not None:  # locust stops what it has never started, too
        RUNS.present.stopping = True


@events.test_stop.add_listener
def judge(environment: Environment, **_: Any) -> None:
    run = RUNS.present
    if run is None:
        return
    run.end()
    RUNS.ended += 1
    directory = Path(_options(environment).report)
    if environment.web_ui is not None:
        directory /= f"run-{RUNS.ended}"  # there may be more
    summary = Summary.of(run)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "summary.json").write_text(summary.json() + "\n")
    write_report(directory / "report.html", summary, run)
    print(summary.text(), f"\nreport: {directory / 'report.html'}", sep="\n", flush=True)
    RUNS.failed |= not summary.passed


@events.quitting.add_listener
def tell(environment: Environment, **_: Any) -> None:
    """Locust's exit status: 0 only if there was a run, and nothing was wrong with any."""
    if environment.runner is not None:
        environment.runner.stop()  # after Ctrl-C a run may still go on: it is judged too
    environment.process_exit_code = 0 if RUNS.ended and not RUNS.failed else 1


def _find_sources(environment: Environment) -> tuple[Target, Any]:
    options = _options(environment)
    target = Target.of(environment.host or "")
    named = [address.strip() for address in options.sources.split(",") if address.strip()]
    return target, find_sources(target, named=named, replicas=options.replicas)


def _options(environment: Environment) -> Any:
    """Return the options of the command line: locust's own, and those of `add_options`."""
    return environment.parsed_options


def _refuse(why: str) -> None:
    print(f"loadtest: {why}", file=sys.stderr, flush=True)
    sys.exit(2)
