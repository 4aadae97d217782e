"""Put load on a cluster with locust: `python -m loadtest`, or `scripts/loadtest`, which also installs it.

Without --url it starts a cluster of its own on free ports (three replicas, nginx, Redis) and stops it at the end.
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from heliograph.local_cluster.machine import raise_open_files
from loadtest.sources import CannotSpread, Target
from tests.support.cluster import LocalClusterProcess

ROOT = Path(__file__).parents[1]
# locust is a separate program: gevent patches the modules that it loads, and not this process.
CLASSES = {
    "pairs": ["PairUser"],
    "channels": ["SubscriberUser", "PublisherUser"],
    "sse": ["SseUser", "PublisherUser"],
    "churn": ["ChurnUser", "PublisherUser"],
    "flood": ["PairUser", "FloodUser"],
}
BY_DEFAULT = "pairs,channels,sse,churn"
SPARE_FILES = 200
END_WITHIN_S = 90.0  # after a run locust waits for late messages, and writes the report
# Messages of a run must still be kept when a user comes back, whatever the rate.
NAMESPACES = {
    "load": {"history_size": 10_000, "client_publish": True},
    "#": {"history_size": 10_000, "client_publish": False},
}

NO_LIMITS = {
    "HELIOGRAPH_LIMITS__MESSAGES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS": "0",
    "HELIOGRAPH_LIMITS__USER_MESSAGES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__USER_BYTES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__RECIPIENT_MESSAGES_PER_SECOND": "0",
}


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/loadtest", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--url", help="nginx of a cluster that runs already, in open mode; unset: start one")
    parser.add_argument("--users", type=_positive, default=300, help="how many (%(default)s)")
    parser.add_argument("--spawn-rate", type=_positive, default=50, help="how many come in a second (%(default)s)")
    parser.add_argument("--seconds", type=_positive, default=60, help="how long (%(default)s)")
    parser.add_argument(
        "--scenarios", default=BY_DEFAULT, help="which, separated by commas (%(default)s; flood too)", metavar="NAMES"
    )
    parser.add_argument("--rate", type=float, default=2.0, help="messages a second of each who sends (%(default)s)")
    parser.add_argument("--bytes", type=_positive, default=128, help="size of a message's data (%(default)s)")
    parser.add_argument("--channels", type=_positive, default=4, help="channels that listeners share (%(default)s)")
    parser.add_argument(
        "--replicas", type=_positive, help="how many the cluster has (its own: 3; with --url it is asked)"
    )
    parser.add_argument(
        "--sources", default="", help="addresses of this machine, in different /24s (those of loopback)"
    )
    parser.add_argument("--report", type=Path, help="directory for the report (artifacts/loadtest/TIME)")
    parser.add_argument("--web", action="store_true", help="with locust's web page; it goes on until Ctrl-C")
    parser.add_argument("--web-port", type=_positive, default=8089, help="where that is (%(default)s)")
    options = parser.parse_args(words)
    options.scenarios = [name.strip() for name in options.scenarios.split(",") if name.strip()]
    if unknown := sorted(set(options.scenarios) - set(CLASSES)):
        parser.error(f"there is no scenario {', '.join(unknown)}; there are {', '.join(CLASSES)}")
    if not options.scenarios:
        parser.error(f"name at least one scenario of {', '.join(CLASSES)}")
    if options.rate <= 0:
        parser.error("--rate must be more than 0")
    if options.report is None:
        options.report = ROOT / "artifacts" / "loadtest" / time.strftime("%Y%m%d-%H%M%S")
    return options


def main() -> int:
    options = parse()
    open_files = raise_open_files()
    if options.users + SPARE_FILES > open_files:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return _refuse(
            f"{options.users} users need {options.users + SPARE_FILES} open files; the limit here is {hard}."
        )
    options.report.mkdir(parents=True, exist_ok=True)
    with _cluster(options) as url:
        try:
            if "sse" in options.scenarios and not _has_sse(url):
                print("loadtest: this cluster has no /sse: the scenario sse is left out", flush=True)
                options.scenarios.remove("sse")
                if not options.scenarios:
                    return _refuse("No scenario is left.")
        except CannotSpread as error:
            return _refuse(str(error))
        return _run_locust(options, url)


@contextlib.contextmanager
def _cluster(options: argparse.Namespace) -> Iterator[str]:
    """Yield the address of nginx."""
    if options.url:
        yield options.url
        return
    environment = {"HELIOGRAPH_NAMESPACES": json.dumps(NAMESPACES)}
    if "flood" not in options.scenarios:
        environment |= NO_LIMITS
    log = options.report / "cluster.log"
    options.replicas = options.replicas or 3
    with LocalClusterProcess(
        log, replicas=options.replicas, own_session=True, sentinel=False, redis_cluster=False, **environment
    ) as cluster:
        print(f"loadtest: a cluster of {options.replicas} on {cluster.url}, its log in {log}", flush=True)
        yield cluster.url


def _has_sse(url: str) -> bool:
    return Target.of(url).get("/sse?user=%00")[0] != 404  # nobody can be called that: whoever knows /sse refuses


def _run_locust(options: argparse.Namespace, url: str) -> int:
    classes = sorted({name for scenario in options.scenarios for name in CLASSES[scenario]})
    command = [
        *(sys.executable, "-m", "locust", "--locustfile", ROOT / "loadtest" / "locustfile.py", "--host", url),
        *("--users", options.users, "--spawn-rate", options.spawn_rate, "--run-time", f"{options.seconds}s"),
        *("--rate", options.rate, "--bytes", options.bytes, "--channels", options.channels),
        *("--report", options.report, "--sources", options.sources),
        *("--stop-timeout", "60", "--loglevel", "INFO", "--only-summary"),
    ]
    if options.replicas:
        command += ["--replicas", options.replicas]
    if options.web:
        command += ["--web-host", "127.0.0.1", "--web-port", options.web_port]
        print(f"loadtest: http://127.0.0.1:{options.web_port} is locust's page; Ctrl-C ends it", flush=True)
    else:
        command += ["--headless", "--csv", options.report / "locust", "--csv-full-history"]
    command += classes
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    locust = subprocess.Popen([str(word) for word in command], cwd=ROOT, env=environment)  # noqa: S603 - our own words
    # Ctrl-C reaches locust too, which ends by itself: users leave in order, and the report is written.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: locust.terminate())
    try:
        ramp_s = options.users / options.spawn_rate
        return locust.wait(None if options.web else options.seconds + ramp_s + END_WITHIN_S)
    except subprocess.TimeoutExpired:
        return _refuse("locust did not end in time; it was killed.")
    finally:
        if locust.poll() is None:
            locust.kill()
            locust.wait()


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _refuse(why: str) -> int:
    print(f"loadtest: {why}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
