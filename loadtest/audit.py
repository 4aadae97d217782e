"""The audit: does any subscriber miss, repeat or reorder a kept message while everything around it breaks?

    python -m loadtest.audit --seconds 60
    python -m loadtest.audit --topology sentinel --break kill=20
    python -m loadtest.audit --experiment F1 --ack replica --history F1.jsonl
    python -m loadtest.audit --judge F1.jsonl

It starts a real cluster of its own on one of several kinds of Redis. Publishers on every replica number their
messages. (One publishes directly through Redis, and repeats with an idempotency key until it gets an answer.)
Subscribers on every replica note what they get. If they are dropped they come back on another replica with their
cursor; on an error they stay. Meanwhile bus connections are killed several times a second, replicas are killed with
-9, servers of Redis are restarted, killed, frozen, cut off or replaced, and some subscribers leave on purpose.

All of that is noted in a history, which can be kept and judged again. What the servers themselves have lost nobody
can deliver: where the mode of acknowledgement allows that, it may be missing, if the reader was told of a gap that it
can be in. What is in the log at the end must have come to every reader all the same.

The exit status is 0 if nothing that is kept or was acknowledged was lost, nothing came twice or out of order, no gap
went unsaid or was said without a reason, no socket was closed but those of a killed replica, no channel took no
publications for too long, and no replica met with an error that nobody expected.
"""

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from loadtest.auditing.experiments import ACKS, EXPERIMENTS, PROGRAMS, Plan  # noqa: E402
from loadtest.auditing.history import AnyEvent, History, read  # noqa: E402
from loadtest.auditing.judge import judge  # noqa: E402
from loadtest.auditing.running import run  # noqa: E402
from loadtest.auditing.topologies import TOPOLOGIES  # noqa: E402


def main() -> None:
    options = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    events = list(read(options.judge)) if options.judge else _audited(options)
    verdict = judge(events)
    print(verdict.heading())
    print(verdict.table())
    sys.exit(0 if verdict.passed else 1)


def _audited(options: argparse.Namespace) -> list[AnyEvent]:
    plan = _plan(options)
    with contextlib.ExitStack() as stack:
        directory = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        history = stack.enter_context(History(options.history))
        asyncio.run(run(plan, directory, history))
    return history.events


def _plan(options: argparse.Namespace) -> Plan:
    _, plan = EXPERIMENTS[options.experiment] if options.experiment else ("", Plan())
    return plan.but(
        topology=options.topology,
        server=options.server,
        ack=options.ack,
        break_every_s=dict(options.break_) or None,
        unavailable_s=options.unavailable,
        seconds=options.seconds,
        seed=options.seed,
        rate=options.rate,
        subscribers=options.subscribers,
        verdicts=options.verdicts,
        experiment=options.experiment,
    )


def _parser() -> argparse.ArgumentParser:
    presets = "\n".join(f"  {name}  {what}" for name, (what, _) in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog=f"experiments:\n{presets}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--experiment", choices=EXPERIMENTS, help="one of those below; other options change it")
    parser.add_argument("--topology", choices=TOPOLOGIES, help="what Redis is (single)")
    parser.add_argument("--server", choices=PROGRAMS, help="which program Redis is (redis)")
    parser.add_argument("--ack", choices=ACKS, help="the mode of acknowledgement (memory)")
    parser.add_argument(
        "--break",
        dest="break_",
        action="append",
        type=_way,
        default=[],
        metavar="NAME=SECONDS",
        help="break only this, in the mean so often; may be repeated",
    )
    parser.add_argument("--unavailable", type=float, help="how long a channel may take no publications, in s")
    parser.add_argument("--seconds", type=float, help="how long to break things (60)")
    parser.add_argument("--seed", type=int, help="of the dice (0)")
    parser.add_argument("--rate", type=float, help="publications a second of each of four publishers (30)")
    parser.add_argument("--subscribers", type=int, help="how many (12)")
    parser.add_argument("--verdicts", type=int, help="ask what became of so many messages; one Redis only (0)")
    parser.add_argument("--keep", type=Path, help="a directory for the cluster's log and Redis' files")
    parser.add_argument("--history", type=Path, help="a file for the history, one event a line")
    parser.add_argument("--judge", type=Path, help="judge this history, and run nothing")
    return parser


def _way(text: str) -> tuple[str, float]:
    name, _, seconds = text.partition("=")
    return name, float(seconds)


if __name__ == "__main__":
    main()
