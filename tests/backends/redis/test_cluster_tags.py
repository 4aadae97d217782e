"""The slots of a cluster's virtual shards."""

import pytest

from heliograph.backends.redis.cluster.tags import SLOTS, balanced_tags, slot_of
from heliograph.backends.redis.keys import Keys


@pytest.mark.parametrize("shards", [1, 3, 16, 32, 100, 256])
def test_virtual_shards_are_spread_evenly_over_any_number_of_servers(shards: int) -> None:
    """Fails if one server of a cluster that shares its slots evenly has two virtual shards more than another."""
    slots = [slot_of(f"a:{{{tag}}}:{{b}}") for tag in balanced_tags(shards)]
    assert len(set(slots)) == shards
    for servers in range(1, shards + 1):
        counts = [0] * servers
        for slot in slots:
            counts[slot * servers // SLOTS] += 1
        assert max(counts) - min(counts) <= 1, f"{servers} servers"


def test_tags_never_change() -> None:
    """Fails if a new version would look for users and channels in other slots."""
    assert balanced_tags(1) == ("e8a",)
    assert {balanced_tags(count)[0] for count in (2, 3, 100, 256)} == {"e8a"}  # where layouts meet
    assert balanced_tags(16)[:4] == ("e8a", "m59", "4z4", "i94")


@pytest.mark.parametrize(
    ("key", "slot"), [("foo", 12182), ("{foo}bar", 12182), ("a{foo}{b}", 12182), ("foo{}{bar}", 8363), ("a{b", 13340)]
)
def test_a_slot_is_the_one_that_redis_computes(key: str, slot: int) -> None:
    """Fails if a key is taken for one of another slot: the values are those of CLUSTER KEYSLOT."""
    assert slot_of(key) == slot


def test_every_name_of_a_virtual_shard_is_in_its_slot() -> None:
    """Fails if a script of a virtual shard gets a key of another slot, whatever braces a channel has."""
    keys = Keys("heliograph:", "events").in_slot("8yc")
    for name in (keys.meta("a}b{c"), keys.holders("{x}"), keys.leases, keys.commands, keys.shard("emit", 1)):
        assert slot_of(name) == slot_of("8yc"), name
    for bus_channel in (keys.bus_channel, keys.bus_channel_of("{x}"), keys.own_bus_channel("n"), keys.inbox("n")):
        assert slot_of(bus_channel) == slot_of("8yc"), bus_channel
