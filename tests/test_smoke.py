from tests.conftest import StartReplica
from tests.support.client import Client


async def test_two_users_on_two_replicas(start_replica: StartReplica) -> None:
    one, two = await start_replica("replica-1"), await start_replica("replica-2")
    async with Client(one.url, user="alice") as alice, Client(two.url, user="bob") as bob:
        assert (await alice.send("bob", "안녕"))["delivery"] == "remote"
        assert await bob.messages(1) == ["안녕"]
        await bob.nothing_more()
