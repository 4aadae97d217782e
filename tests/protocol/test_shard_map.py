"""Which shard owns a channel."""

from collections import Counter

from heliograph.protocol.shard_map import ShardMap


def test_the_owners_stay_the_same_in_every_version() -> None:
    """Fails if another way to spread channels comes without a new layout: a cluster would look in the wrong Redis."""
    channels = ["news", "#bob", "run:20251105_1430_우주여행고양이", "#مريم 🚀", "", "#"]
    assert [ShardMap(3).of(channel) for channel in channels] == [1, 1, 2, 0, 2, 0]
    assert [ShardMap(1).of(channel) for channel in channels] == [0] * 6


def test_channels_are_spread_evenly() -> None:
    """Fails if one Redis gets more than its share, also where names differ by a number alone."""
    for count in (2, 3, 5):
        shards = ShardMap(count)
        for start in ("#user-", "chat:", "run:2025"):
            owned = Counter(shards.of(f"{start}{number}") for number in range(6000))
            assert all(abs(owned[index] * count / 6000 - 1) < 0.08 for index in range(count)), (count, owned)


def test_one_shard_more_takes_only_what_it_owns() -> None:
    """Fails if a shard that is added moves channels between the others."""
    three, four = ShardMap(3), ShardMap(4)
    channels = [f"chat:{number}" for number in range(4000)]
    moved = [channel for channel in channels if three.of(channel) != four.of(channel)]
    assert {four.of(channel) for channel in moved} == {3}
    assert 800 < len(moved) < 1200


def test_what_is_remembered_is_bounded() -> None:
    """Fails if a client that names a million channels fills the memory."""
    shards = ShardMap(2, remembered=10)
    owners = {f"c{number}": shards.of(f"c{number}") for number in range(100)}
    assert len(shards._owners) <= 10
    assert all(shards.of(channel) == owner for channel, owner in owners.items())


def test_a_name_that_is_no_unicode_has_an_owner() -> None:
    """Fails if a name that is refused later raises before that."""
    assert ShardMap(3).of("\ud800") in range(3)
