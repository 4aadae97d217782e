"""Whether a replica is ready, where one of several Redis servers fails."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.health import Breakdown, Health, ShardHealth
from heliograph.cluster.sharded_manager import ShardedManager
from heliograph.ports import BusState, Fault, ProbeFailure

DEAF_AFTER_S = 3.0
GONE = ProbeFailure(Fault.UNREACHABLE, "gone")
OTHER = ProbeFailure(Fault.LAYOUT, "another shard")


def shard(
    *,
    ready: bool = True,
    unheard_s: float = 0.5,
    failure: ProbeFailure | None = None,
    fault: Fault | None = None,
    answered_s: float = 60.0,
) -> ShardHealth:
    """`answered_s`: for how long the probe has succeeded by now."""
    bus: Any = SimpleNamespace(ready=ready, unheard_s=unheard_s, state=BusState.LOST)
    probe: Any = SimpleNamespace(
        is_vital=True, failure=failure, fault=fault, answered_s=lambda age_s: min(age_s, answered_s)
    )
    return ShardHealth(bus, [probe], None, deaf_after_s=DEAF_AFTER_S)


@pytest.mark.parametrize(
    ("failing", "is_ready"),
    [
        ({"ready": False, "unheard_s": 0.4}, True),
        ({"ready": False, "failure": GONE, "unheard_s": 60}, True),
        ({"ready": False, "unheard_s": 60, "answered_s": 1.0}, True),
        ({"ready": False, "unheard_s": 3.5}, False),
        ({"ready": False, "unheard_s": math.inf, "answered_s": 0.1}, False),
        ({"failure": OTHER, "fault": Fault.LAYOUT}, False),
    ],
    ids=["just lost", "gone", "just back", "deaf", "never heard yet", "another layout"],
)
def test_one_shard_of_two(failing: dict[str, Any], is_ready: bool) -> None:
    """Fails if a dead Redis takes every replica out, or a replica that is deaf to a living one stays in."""
    assert Health([shard(), shard(**failing)], Breakdown()).ready is is_ready


def test_without_any_shard_there_is_nothing_to_be_ready_for() -> None:
    """Fails if a replica takes clients that it can do nothing for, with one Redis or with several."""
    dead = {"ready": False, "failure": GONE, "unheard_s": 60.0}
    for count in (1, 2):
        assert not Health([shard(**dead) for _ in range(count)], Breakdown()).ready  # type: ignore[arg-type]


def test_every_method_for_a_channel_or_user_finds_its_shard() -> None:
    """Fails if a new method of the router would ask the first shard for what another one owns."""

    def public(kind: type) -> set[str]:
        return {name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}

    # The first two answer one connection; `publish` goes over `submit`.
    assert public(ConnectionManager) - public(ShardedManager) == {"send_event", "send_error", "publish"}
