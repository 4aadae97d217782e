"""What `DirectoryBackend` promises, word for word, of every backend alike."""

import asyncio

import pytest

from heliograph.backends.redis.lifecycle import LifecycleDirectory
from heliograph.ports import DirectoryBackend
from tests.support.replica_info import replica_info
from tests.support.waiting import eventually

LONG_S = 30.0
SHORT_S = 0.05

USERS = [
    "bob",
    "김철수",
    "🐈‍⬛",
    "مستخدم عربي",
    "{bob}",
    "}{",
    "a}:holders",
    "#bob",
    "##",
    "with space",
    "*?[a-z]\\",
    "0",
    "x" * 255,
]


async def lives(backend: DirectoryBackend, *leases: str, ttl_s: float = LONG_S) -> None:
    """Take these leases."""
    for lease in leases:
        await backend.take(lease, replica_info(f"replica-{lease}"), ttl_s)


async def names(backend: DirectoryBackend) -> list[str]:
    return [info.name for info in await backend.replicas()]


async def has_run_out(backend: DirectoryBackend, *leases: str) -> None:
    """Wait until another lease sees that these ran out."""

    async def seen() -> bool:
        renewal = await backend.renew("watcher", replica_info("watcher"), LONG_S)
        return set(renewal.expired) >= set(leases)

    await lives(backend, "watcher")
    await eventually(seen)


class TestTake:
    async def test_a_lease_that_was_taken_is_alive(self, backend: DirectoryBackend) -> None:
        """Fails if a replica that has joined is not seen, or cannot keep or use its lease."""
        await lives(backend, "a")
        assert await names(backend) == ["replica-a"]
        assert (await backend.renew("a", replica_info(), LONG_S)).held
        assert await backend.hold("a", {"bob": 1}) == {"bob": 1}

    async def test_it_may_be_repeated(self, backend: DirectoryBackend) -> None:
        """Fails if a call whose answer was lost does harm when it is made again."""
        await lives(backend, "a", "a")
        await backend.hold("a", {"bob": 2})
        await lives(backend, "a")
        assert await names(backend) == ["replica-a"]
        assert await backend.holders("bob") == {"a": 2}

    async def test_it_ends_by_itself(self, backend: DirectoryBackend) -> None:
        """Fails if a replica that died is alive for ever."""
        await lives(backend, "a", ttl_s=SHORT_S)
        await eventually(lambda: _are(backend, []))


class TestRenew:
    async def test_keeps_the_lease_for_the_time_given(self, backend: DirectoryBackend) -> None:
        """Fails if a renewal does not count from the moment at which it is made."""
        await lives(backend, "a", "b", ttl_s=SHORT_S)
        assert (await backend.renew("a", replica_info("replica-a"), LONG_S)).held
        await eventually(lambda: _are(backend, ["replica-a"]))

    async def test_says_anew_what_the_replica_is(self, backend: DirectoryBackend) -> None:
        """Fails if the console shows the state of a replica as it was at its boot."""
        await lives(backend, "a")
        said = replica_info("복제본-1", draining=True, ready=False, connections=20_000, users=19_999)
        await backend.renew("a", said, LONG_S)
        assert await backend.replicas() == [said]

    async def test_a_lease_that_ran_out_is_kept_unless_somebody_reaps_it(self, backend: DirectoryBackend) -> None:
        """Fails if a replica that was frozen for a moment must enter all its users again."""
        await lives(backend, "a", ttl_s=SHORT_S)
        await backend.hold("a", {"bob": 1})
        await has_run_out(backend, "a")
        assert (await backend.renew("a", replica_info("replica-a"), LONG_S)).held
        assert await names(backend) == ["replica-a", "watcher"]
        assert await backend.holders("bob") == {"a": 1}

    async def test_a_lease_that_nobody_took_is_not_held(self, backend: DirectoryBackend) -> None:
        """Fails if a replica is not told that Redis has lost its data."""
        assert not (await backend.renew("a", replica_info(), LONG_S)).held
        assert await names(backend) == []

    async def test_a_lease_that_was_reaped_is_not_held(self, backend: DirectoryBackend) -> None:
        """Fails if a replica goes on under a lease whose entries are gone."""
        await lives(backend, "a")
        await backend.reap("a")
        assert not (await backend.renew("a", replica_info(), LONG_S)).held
        assert await names(backend) == []

    async def test_names_the_leases_of_others_that_ran_out(self, backend: DirectoryBackend) -> None:
        """Fails if nobody learns of a replica that died, or if one that lives is taken for dead."""
        await lives(backend, "alive")
        await lives(backend, "dead", "죽은-복제본", ttl_s=SHORT_S)
        await has_run_out(backend, "dead", "죽은-복제본")
        renewal = await backend.renew("alive", replica_info(), LONG_S)
        assert sorted(renewal.expired) == ["dead", "죽은-복제본"]

    async def test_does_not_name_the_lease_itself(self, backend: DirectoryBackend) -> None:
        """Fails if a replica that comes back from a pause reaps itself."""
        await lives(backend, "a", ttl_s=SHORT_S)
        await has_run_out(backend, "a")
        assert "a" not in (await backend.renew("a", replica_info(), LONG_S)).expired

    async def test_names_a_lease_until_it_is_renewed_or_reaped(self, backend: DirectoryBackend) -> None:
        """Fails if a dead lease is told of only once, or still after it has come back or been reaped."""
        await lives(backend, "back", "gone", ttl_s=SHORT_S)
        await has_run_out(backend, "back", "gone")
        for _ in range(2):
            assert len((await backend.renew("watcher", replica_info(), LONG_S)).expired) == 2
        await backend.renew("back", replica_info(), LONG_S)
        assert (await backend.renew("watcher", replica_info(), LONG_S)).expired == ("gone",)
        await backend.reap("gone")
        assert (await backend.renew("watcher", replica_info(), LONG_S)).expired == ()


class TestHold:
    async def test_adds_up_over_all_leases(self, backend: DirectoryBackend) -> None:
        """Fails if a user's devices on several replicas are not counted together."""
        await lives(backend, "a", "b", "c")
        assert await backend.hold("a", {"bob": 2, "carol": 1}) == {"bob": 2, "carol": 1}
        assert await backend.hold("b", {"bob": 3}) == {"bob": 5}
        assert await backend.hold("c", {"carol": 1, "bob": 1}) == {"bob": 6, "carol": 2}
        assert await backend.holders("bob") == {"a": 2, "b": 3, "c": 1}

    async def test_counts_are_absolute_and_may_be_repeated(self, backend: DirectoryBackend) -> None:
        """Fails if a write that is made twice counts twice."""
        await lives(backend, "a")
        for count in (1, 1, 5, 5, 2):
            assert await backend.hold("a", {"bob": count}) == {"bob": count}
        assert await backend.holders("bob") == {"a": 2}

    async def test_none_means_gone(self, backend: DirectoryBackend) -> None:
        """Fails if a user who has left stays in the directory, or if others go with them."""
        await lives(backend, "a", "b")
        await backend.hold("a", {"bob": 2, "carol": 1})
        await backend.hold("b", {"bob": 1})
        assert await backend.hold("a", {"bob": 0}) == {"bob": 1}
        assert await backend.hold("b", {"bob": 0}) == {"bob": 0}
        assert await backend.holders("bob") == {}
        assert await backend.holders("carol") == {"a": 1}

    async def test_who_was_never_there_can_be_gone(self, backend: DirectoryBackend) -> None:
        """Fails if a release that overtakes its hold raises, or leaves an entry."""
        await lives(backend, "a")
        assert await backend.hold("a", {"bob": 0}) == {"bob": 0}
        assert await backend.holders("bob") == {}
        assert await backend.reap("a") == 0

    async def test_nothing_is_entered_without_a_lease(self, backend: DirectoryBackend) -> None:
        """Fails if an entry is made that nobody would ever reap."""
        assert await backend.hold("never taken", {"bob": 1}) is None
        await lives(backend, "a")
        await backend.hold("a", {"bob": 1})
        await backend.reap("a")
        assert await backend.hold("a", {"bob": 1, "carol": 1}) is None
        assert await backend.holders("bob") == {}
        assert await backend.holders("carol") == {}

    async def test_a_lease_that_ran_out_still_holds(self, backend: DirectoryBackend) -> None:
        """Fails if a late renewal turns users away: the lease is its owner's until it is reaped."""
        await lives(backend, "a", ttl_s=SHORT_S)
        await has_run_out(backend, "a")
        assert await backend.hold("a", {"bob": 1}) == {"bob": 1}

    async def test_thousands_at_once(self, backend: DirectoryBackend) -> None:
        """Fails if the users of a large replica are mixed up or cut off between one command and the next."""
        await lives(backend, "a", "b")
        mine = {f"사용자-{number}": number % 7 + 1 for number in range(1_203)}
        assert await backend.hold("a", mine) == mine
        assert await backend.hold("b", dict.fromkeys(mine, 1)) == {user: count + 1 for user, count in mine.items()}

    @pytest.mark.parametrize("user", USERS)
    async def test_any_user_id_is_itself(self, backend: DirectoryBackend, user: str) -> None:
        """Fails if an id is changed, or taken for another one, on its way into a key and back."""
        await lives(backend, "a")
        await backend.hold("a", {other: 7 for other in USERS if other != user})
        assert await backend.holders(user) == {}
        assert await backend.hold("a", {user: 3}) == {user: 3}
        assert await backend.holders(user) == {"a": 3}
        assert await backend.reap("a") == len(USERS)
        assert await backend.holders(user) == {}

    async def test_at_the_same_time_from_many_sides(self, backend: DirectoryBackend) -> None:
        """Fails if writes that meet lose one another."""
        leases = [f"lease-{number}" for number in range(8)]
        await lives(backend, *leases)
        await asyncio.gather(*(backend.hold(lease, {"bob": 1, lease: 1}) for lease in leases))
        assert await backend.holders("bob") == dict.fromkeys(leases, 1)


class TestHolders:
    async def test_nobody_is_nowhere(self, backend: DirectoryBackend) -> None:
        """Fails if asking for a user who is not there raises, or puts them there."""
        assert await backend.holders("nobody") == {}
        assert await backend.holders("nobody") == {}

    async def test_the_answer_is_the_callers_own(self, backend: DirectoryBackend) -> None:
        """Fails if whoever changes an answer changes the directory."""
        await lives(backend, "a")
        await backend.hold("a", {"bob": 1})
        (await backend.holders("bob")).clear()
        assert await backend.holders("bob") == {"a": 1}


class TestReap:
    async def test_forgets_what_the_lease_held_and_nothing_else(self, backend: DirectoryBackend) -> None:
        """Fails if a dead replica's users stay, or if a living one's go with them."""
        await lives(backend, "dead", "alive")
        await backend.hold("dead", {"bob": 1, "carol": 2})
        await backend.hold("alive", {"bob": 1, "dave": 1})
        assert await backend.reap("dead") == 2
        assert await backend.holders("bob") == {"alive": 1}
        assert await backend.holders("carol") == {}
        assert await backend.holders("dave") == {"alive": 1}
        assert await names(backend) == ["replica-alive"]

    async def test_two_thousand_users(self, backend: DirectoryBackend) -> None:
        """Fails if a large replica is forgotten only in part."""
        await lives(backend, "dead", "alive")
        users = {f"user-{number}": 1 for number in range(2_000)}
        await backend.hold("dead", users)
        await backend.hold("alive", {"user-7": 1})
        assert await backend.reap("dead") == 2_000
        assert await backend.hold("alive", dict.fromkeys(users, 0)) == dict.fromkeys(users, 0)

    async def test_counts_users_who_are_there(self, backend: DirectoryBackend) -> None:
        """Fails if users who have left are counted, or connections instead of users."""
        await lives(backend, "a")
        await backend.hold("a", {"bob": 5, "carol": 1})
        await backend.hold("a", {"carol": 0})
        assert await backend.reap("a") == 1

    async def test_it_may_be_repeated(self, backend: DirectoryBackend) -> None:
        """Fails if two replicas that reap the same one get in each other's way."""
        await lives(backend, "a")
        await backend.hold("a", {"bob": 1})
        await asyncio.gather(backend.reap("a"), backend.reap("a"), backend.reap("a"))
        assert await backend.reap("a") == 0
        assert await backend.reap("never there") == 0
        assert await backend.holders("bob") == {}

    async def test_against_a_renewal_and_a_hold_at_the_same_time(self, backend: DirectoryBackend) -> None:
        """Fails if a replica that wakes up while it is reaped keeps its lease, or an entry behind the reaper."""
        await lives(backend, "a")
        users = {f"user-{number}": 1 for number in range(1_500)}
        await backend.hold("a", users)
        reaping = asyncio.create_task(backend.reap("a"))
        while not reaping.done():
            await backend.renew("a", replica_info("replica-a"), LONG_S)
            await backend.hold("a", {"late": 1})
            await asyncio.sleep(0)
        await reaping
        assert not (await backend.renew("a", replica_info(), LONG_S)).held
        assert await backend.holders("late") == {}
        assert await backend.holders("user-0") == await backend.holders("user-1499") == {}
        assert await names(backend) == []

    async def test_a_new_lease_of_the_same_replica_is_another(self, backend: DirectoryBackend) -> None:
        """Fails if a replica that comes back under a new lease suffers from the old one."""
        await lives(backend, "a.0")
        await backend.hold("a.0", {"bob": 1})
        await lives(backend, "a.1")
        assert await backend.hold("a.1", {"bob": 1}) == {"bob": 1}, "the same connection"
        await lives(backend, "b.0")
        assert await backend.hold("b.0", {"bob": 1}) == {"bob": 3}, "the others' as they stand"
        await backend.reap("b.0")
        assert await backend.reap("a.0") == 1
        assert await backend.holders("bob") == {"a.1": 1}
        assert await names(backend) == ["replica-a.1"]


class TestReplicas:
    async def test_those_that_are_alive_by_name(self, backend: DirectoryBackend) -> None:
        """Fails if the dead are listed, or if the list jumps about from one look to the next."""
        await lives(backend, "c", "a", "b")
        await lives(backend, "dead", ttl_s=SHORT_S)
        await has_run_out(backend, "dead")
        assert await names(backend) == ["replica-a", "replica-b", "replica-c", "watcher"]

    async def test_what_they_said_comes_back_whole(self, backend: DirectoryBackend) -> None:
        """Fails if a field is lost, or text that is not ASCII changes."""
        said = replica_info("복제본 ١", node_id="{#}", version="1.0.0-β", renewed_at=1.25, started_at="지금")
        await backend.take("a", said, LONG_S)
        assert await backend.replicas() == [said]

    async def test_none(self, backend: DirectoryBackend) -> None:
        """Fails if an empty cluster cannot be looked at."""
        assert await backend.replicas() == []


async def _are(backend: DirectoryBackend, expected: list[str]) -> bool:
    return await names(backend) == expected


async def end_the_grace(backend: DirectoryBackend) -> None:
    """Until then, users who have left are online where events are told."""
    if isinstance(backend, LifecycleDirectory):
        await backend._events.tell_absences()


class TestUsers:
    async def test_who_is_online(self, backend: DirectoryBackend) -> None:
        """Fails if a user is missing, is listed twice, or stays when the last connection has gone."""
        await lives(backend, "a.0", "b.0")
        assert await backend.users() == set()
        await backend.hold("a.0", dict.fromkeys(USERS, 1))
        await backend.hold("b.0", {"bob": 2, "eve": 1})
        assert await backend.users() == {*USERS, "eve"}
        await backend.hold("a.0", dict.fromkeys(USERS, 0))
        await end_the_grace(backend)
        assert await backend.users() == {"bob", "eve"}
        await backend.reap("b.0")
        await end_the_grace(backend)
        assert await backend.users() == set()
