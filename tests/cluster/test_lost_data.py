"""A Redis that comes back with data that are older than those of before."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliograph.protocol.events import Delivery
from heliograph.protocol.position import Position
from tests.support.members import Member, Members
from tests.support.redis_server import RedisServer
from tests.support.settling import believe_at_once
from tests.support.waiting import eventually

PRESENT = {"lobby": {"presence": True}}


@pytest.fixture(params=["everysec", "always"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, appendonly=True, options=("--appendfsync", request.param)).start()
    yield server
    server.stop()


async def put_back(redis: RedisServer, backup: dict[Path, bytes], *members: Member) -> None:
    """Kill it, start it with the files of before, and wait until the replicas are back."""
    losses = [each.replica.bus.stats.connection_losses for each in members]
    await asyncio.to_thread(redis.put_back, backup)
    await eventually(
        lambda: all(each.replica.bus.stats.connection_losses > n for each, n in zip(members, losses, strict=True))
    )
    await eventually(lambda: all(each.replica.node.ready for each in members))


class TestEntries:
    async def test_a_device_that_redis_has_forgotten_gets_everything(
        self, redis: RedisServer, namespace: str
    ) -> None:
        """Fails if a device whose entry was lost is passed by for the life of its connection, as its replica's lease
        was not lost with it: ephemeral messages never come, kept ones late, and the sender is told `local`."""
        async with Members(redis.url, namespace) as members:
            one, two = await members.start("replica-1"), await members.start("replica-2")
            laptop = await one.connect("bob")
            await one.replica.reading.listen(laptop.connection, "#bob")
            await believe_at_once(one.redis.client, one.redis.keys)
            backup = redis.files()
            phone = await two.connect("bob")
            await two.replica.reading.listen(phone.connection, "#bob")
            assert len(await one.holders("bob")) == 2
            leases = one.replica.directory.lease, two.replica.directory.lease
            await put_back(redis, backup, one, two)
            result = await one.replica.manager.send_message("bob", "ephemeral")
            assert result.delivery in (Delivery.LOCAL, Delivery.REMOTE)
            await eventually(lambda: phone.got == ["ephemeral"], within_s=2)
            began_at = asyncio.get_running_loop().time()
            await one.replica.manager.publish("#bob", "kept")
            await eventually(lambda: phone.got == ["ephemeral", "kept"], within_s=2)
            assert asyncio.get_running_loop().time() - began_at < 1, "not with a heartbeat that looks one by one"
            await eventually(lambda: one.replica.directory.lease != leases[0])
            await eventually(lambda: two.replica.directory.lease != leases[1])

            async def entered() -> bool:
                held = await one.holders("bob")
                return set(held) == {one.replica.directory.lease, two.replica.directory.lease}

            await eventually(entered, within_s=5)  # and what stood under the old leases has been reaped
            assert (await one.replica.manager.send_message("bob", "again")).delivery is Delivery.REMOTE
            await eventually(lambda: phone.got == laptop.got == ["ephemeral", "kept", "again"])

    async def test_a_user_who_left_is_not_entered_for_ever(self, redis: RedisServer, namespace: str) -> None:
        """Fails if an entry that Redis has brought back stays: `remote` for ever, and a place taken."""
        async with Members(redis.url, namespace) as members:
            one, two = await members.start("replica-1"), await members.start("replica-2")
            phone = await two.connect("bob")
            backup = redis.files()
            two.disconnect(phone)

            async def gone() -> bool:
                return await one.holders("bob") == {}

            await eventually(gone)
            await put_back(redis, backup, one, two)
            await eventually(gone, within_s=5)

    async def test_presence_too(self, redis: RedisServer, namespace: str) -> None:
        """Fails if who is on a channel is told wrongly for good."""
        async with Members(redis.url, namespace) as members:
            one, two = [await members.start(f"replica-{n}", namespaces=PRESENT) for n in (1, 2)]
            here = await one.connect("alice")
            await one.replica.reading.subscribe(here.connection, "lobby:1")

            async def members_are(expected: dict[str, int]) -> bool:
                return (await one.replica.reading.presence("lobby:1")).users == expected

            await eventually(lambda: members_are({"alice": 1}))
            backup = redis.files()
            there = await two.connect("bob")
            await two.replica.reading.subscribe(there.connection, "lobby:1")
            await eventually(lambda: members_are({"alice": 1, "bob": 1}))
            one.replica.reading.unsubscribe(here.connection, "lobby:1")
            await eventually(lambda: members_are({"bob": 1}), within_s=5)
            await put_back(redis, backup, one, two)
            await eventually(lambda: members_are({"bob": 1}), within_s=8)

    async def test_data_that_went_back_while_the_server_runs(self, redis: RedisServer, namespace: str) -> None:
        """Fails if older data that come without a restart (a replica that was promoted back) are not noticed."""
        async with Members(redis.url, namespace) as members:
            one, two = await members.start("replica-1"), await members.start("replica-2")
            await one.connect("bob")
            dumped = {key: await one.redis.client.dump(key) for key in await keys_of(one)}
            phone = await two.connect("bob")
            await asyncio.sleep(0.3)  # its lease has been renewed since
            for key, value in dumped.items():
                assert value is not None
                await one.redis.client.restore(key, 0, value, replace=True)
            await eventually(lambda: two.replica.directory.lease.endswith(".1"))
            await one.replica.manager.send_message("bob", "ephemeral")
            await eventually(lambda: phone.got == ["ephemeral"])


async def keys_of(member: Member) -> list[bytes]:
    prefix = member.redis.keys.prefix
    return [key async for key in member.redis.client.scan_iter(f"{prefix}*") if b":probe" not in key]


class TestLogs:
    async def test_a_log_that_went_back_begins_anew_for_all_who_were_ahead(
        self, redis: RedisServer, namespace: str
    ) -> None:
        """Fails if offsets are given twice in one epoch: who listens drops what is new as if it had come already."""
        async with Members(redis.url, namespace) as members:
            one, two = [await members.start(f"replica-{n}", channels={"heartbeat_s": 0.1}) for n in (1, 2)]
            devices = [await each.connect("bob") for each in (one, two)]
            for each, device in zip((one, two), devices, strict=True):
                await each.replica.reading.subscribe(device.connection, "news")
            receipts = [await one.replica.manager.publish("news", number) for number in range(1, 6)]
            await eventually(lambda: all(device.got == [1, 2, 3, 4, 5] for device in devices))
            # As another server would say that was given older data; what has been there since is lost.
            client, keys = one.redis.client, one.redis.keys
            await client.hset(keys.meta("news"), "top", 2)
            await client.xdel(keys.stream("news"), "3-0", "4-0", "5-0")
            await client.execute_command(  # type: ignore[no-untyped-call]
                "XSETID", keys.stream("news"), "2-0"
            )
            await eventually(lambda: all(len(device.of("subscribed")) == 2 for device in devices), within_s=2)
            for device in devices:
                assert device.of("subscribed")[-1]["recovered"] is False
            after = [await two.replica.manager.publish("news", number) for number in range(6, 9)]
            await eventually(lambda: all(device.got[5:] == [6, 7, 8] for device in devices))
            before, now = receipts[-1].position, after[0].position
            assert before is not None
            assert now is not None
            assert before.epoch != now.epoch
            # Who was ahead and comes back later is told too, however far the log has come by then.
            late = await one.connect("late")
            await one.replica.reading.subscribe(late.connection, "news", before)
            await eventually(lambda: late.got == [6, 7, 8])
            assert [frame["recovered"] for frame in late.of("subscribed")] == [False]

    async def test_what_a_client_says_of_itself_begins_nothing(self, redis: RedisServer, namespace: str) -> None:
        """Fails if a stranger's cursor beyond the end takes everybody's history away."""
        async with Members(redis.url, namespace) as members:
            one = await members.start()
            bob, eve = await one.connect("bob"), await one.connect("eve")
            await one.replica.reading.subscribe(bob.connection, "news")
            result = await one.replica.manager.publish("news", 1)
            assert result.position is not None
            far = Position(result.position.epoch, 1_000)
            await one.replica.reading.subscribe(eve.connection, "news", far)
            again = await one.replica.manager.publish("news", 2)
            assert again.position == result.position.next
            assert len(bob.of("subscribed")) == 1
