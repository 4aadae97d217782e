"""The leases of runs: a worker renews those of its runs. A run whose lease has expired has lost its worker.

Any number of workers, replicas and publishers may look for expired ones. See `lua/run_lost.lua`.
"""

import logging
import uuid
from collections.abc import Sequence

import msgspec

from heliograph.backends.redis.call_batch import NOTHING, Call
from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.log import AppendCalls
from heliograph.backends.redis.server import RedisServer
from heliograph.clock import Clock, SystemClock, iso8601
from heliograph.ports import Draft
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.run import RunUpdate, channel_of_run

logger = logging.getLogger(__name__)

WORKER_LOST = "worker lost"  # the message of a run that FAILED this way
BATCH = 100  # runs in one call


async def reap_lost_runs(server: RedisServer, namespaces: Namespaces, clock: Clock | None = None) -> int:
    """Publish FAILED ("worker lost") for each run whose lease has expired. Return how many.

    Any number of processes may call it at the same time, each about every second: FAILED is published once. `server`
    is the one that keeps messages; if that is a second one, replicas notice with their next heartbeat.

    Raises:
        BusUnavailable: not now. Nothing is lost: the next call does the rest.
    """
    with as_bus_unavailable():
        [expired] = await server.scripts.run_many("run_expired", [expired_call(server.keys)])
        if not expired:
            return 0
        calls = lost_calls(server.keys, namespaces, decoded(expired), clock or SystemClock())
        lost = sum(bool(answer) for answer in await server.keep("run_lost", calls))
    if lost:
        logger.warning("%d runs lost their worker and were marked FAILED", lost)
    return lost


def lease_call(keys: Keys, run_ids: Sequence[str], ttl_s: float) -> Call:
    """Return the call that takes or renews leases, for `ttl_s` from now."""
    return [keys.run_leases], [round(ttl_s * 1000), *run_ids], NOTHING


def expired_call(keys: Keys) -> Call:
    """Return the call that lists runs with an expired lease."""
    return [keys.run_leases], [BATCH], NOTHING


def lost_calls(keys: Keys, namespaces: Namespaces, run_ids: Sequence[str], clock: Clock) -> list[Call]:
    """Return the calls that declare runs lost, if they still are."""
    append_calls = AppendCalls(keys)
    calls: list[Call] = []
    for run_id in run_ids:
        channel = channel_of_run(run_id)
        draft = Draft(
            channel=channel,
            data=msgspec.Raw(b"{}"),
            message_id=uuid.uuid4().hex,
            sent_at=iso8601(clock.now()),
            update=RunUpdate(state="FAILED", message=WORKER_LOST),
        )
        names, arguments, common = append_calls.of(draft, namespaces.of(channel), lease="")
        calls.append(([*names, keys.run_leases], [*arguments, run_id], common))
    return calls


def decoded(run_ids: Sequence[bytes]) -> list[str]:
    """Decode run ids from the scripts."""
    return [run_id.decode() for run_id in run_ids]
