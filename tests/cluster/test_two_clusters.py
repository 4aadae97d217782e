"""Two clusters on one Redis: nothing crosses over, unless somebody has asked for that."""

import pytest

from heliograph.settings import BusSettings, RedisSettings, bus_channel
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica, run_replica, settings_for
from tests.support.waiting import eventually


def test_a_cluster_with_default_settings_listens_on_events() -> None:
    """Fails if a program that publishes on `events`, as the documents say, is not heard any more."""
    for url in ("redis://host", "redis://host/0", "redis://host:6379?db=0", "unix:///run/redis.sock"):
        assert bus_channel(BusSettings(), RedisSettings(url=url)) == "events"
    assert bus_channel(BusSettings(channel="mine"), RedisSettings(url="redis://host/3")) == "mine"


def test_no_two_clusters_share_a_name() -> None:
    """Fails if a prefix can be chosen so that a channel of one cluster is named like another one's."""
    names = [
        f"{bus_channel(BusSettings(), RedisSettings(url=f'redis://host/{db}', prefix=prefix))}:{channel}"
        for db in (0, 1, 11)
        for prefix in ("heliograph:", "a", "a:", "a:b", "1.a", "")
        for channel in ("c", "b:c", "a:b", "%3A")
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("database", "prefix"), [(1, "heliograph:"), (0, "other:")])
async def test_nothing_crosses_over(own_redis: RedisServer, database: int, prefix: str) -> None:
    """Fails if ephemeral messages, joins or forced disconnects of one reach the users of another."""
    running: list[RunningReplica] = []

    async def start(url: str, prefix: str) -> RunningReplica:
        settings = settings_for(
            redis_url=url, redis={"url": url, "prefix": prefix}, bus={"channel": None}, namespaces=LOBBY
        )
        running.append(await run_replica(settings, "replica-1"))
        await eventually(lambda: running[-1].replica.node.ready)
        return running[-1]

    try:
        one = await start(own_redis.url, "heliograph:")
        two = await start(own_redis.url.removesuffix("0") + str(database), prefix)
        assert (one.redis.keys.bus_channel, two.redis.keys.bus_channel) != ("events", "events")
        assert one.redis.keys.bus_channel == "events"
        async with Client(one.url, user="bob") as here, Client(two.url, user="bob") as there:
            await there.say({"type": "subscribe", "channel": "lobby:1", "id": 1})
            await there.next("subscribed", id=1)
            await there.next("join")
            async with Client(one.url, user="alice") as alice:
                await alice.say({"type": "subscribe", "channel": "lobby:1"})
                await alice.next("subscribed")
                await alice.say({"type": "publish", "channel": "lobby:1", "data": 1, "ephemeral": True})
                await alice.send("bob", "ephemeral", ephemeral=True)
                await alice.send("bob", "kept")
                assert await here.messages(2) == ["ephemeral", "kept"]
                await one.replica.user_commands.disconnect_user("bob")
                assert await here.close_code() == 3503
                # What is published in the second cluster stands behind all of that on one Redis.
                own_redis.command("PUBLISH", two.redis.keys.bus_channel, '{"target_user_id":"bob","message":"own"}')
                assert await there.messages(1) == ["own"]
                assert await there.only("join", "message") == []
    finally:
        for each in running:
            await each.stop()


LOBBY = {"lobby": {"presence": True, "join_leave": True}}
