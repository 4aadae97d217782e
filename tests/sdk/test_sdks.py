"""Unmodified Centrifuge client SDKs against three replicas behind nginx: each scenario over every SDK at once.

`--reference` runs the same against Centrifugo, `--sdk node,go` over some SDKs (see CONTRIBUTING.md).
"""

import signal
from typing import Any

import pytest

from tests.sdk.clusters import Heliograph, subscription_token
from tests.sdk.driver import Client, Fields, SdkError
from tests.sdk.sdks import ANOTHER, Run, Sdks
from tests.support.tokens import token
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

MANY = 10_000


def numbers(client: Client, channel: str) -> list[int]:
    return [data["n"] for data in client.data(channel)]


def expired(user: str) -> str:
    return token(user, expires_in=-60)


async def test_connecting(sdks: Sdks) -> None:
    """Fails if a good token does not let a client in, an expired one is not replaced, or a bad one is tried again."""

    async def scenario(run: Run) -> None:
        bob = await run.client("bob")
        assert (await bob.connect())["id"]

        late = await run.client("late", tokens=[expired(run.user("late")), token(run.user("late"))])
        await late.connect()
        assert len(late.saw("token")) == 2

        mallory = await run.client(
            "mallory", token=token(run.user("mallory"), key="another secret of thirty-two bytes")
        )
        await mallory.call("connect")
        assert (await mallory.until("disconnected"))["code"] == 3500
        assert not mallory.saw("connected")

    await sdks.every(scenario)


async def test_publishing_and_leaving(sdks: Sdks) -> None:
    """Fails if what one client publishes does not reach another with its author, or reaches one that has left."""

    async def scenario(run: Run) -> None:
        channel = run.channel("chat")
        alice, bob = await run.connected("alice"), await run.connected("bob")
        await alice.subscribe(channel)
        await bob.subscribe(channel)
        await alice.call("publish", channel=channel, data={"text": "안녕, مرحبا 🚀", "n": 1.5, "none": None})
        for client in (alice, bob):
            heard = await client.until("publication", channel)
            assert heard["data"] == {"text": "안녕, مرحبا 🚀", "n": 1.5, "none": None}
            assert (heard["info"]["user"], heard["offset"]) == (run.user("alice"), 1)
            assert heard["info"]["client"] == alice.saw("connected")[0]["id"]

        await bob.call("unsubscribe", channel=channel)
        await bob.until("unsubscribed", channel)
        await run.publish(channel, "from a program")
        author = (await alice.until("publication", channel, count=2))["info"]
        assert author is None or author["user"] == ""  # the Java SDK always has one
        await bob.subscribe(channel)
        assert bob.data(channel)[1:] in ([], ["from a program"])  # some SDKs recover, others begin anew

    await sdks.every(scenario)


async def test_what_is_not_allowed(sdks: Sdks) -> None:
    """Fails if a refusal does not come with the code that SDKs know, or ends the connection."""

    async def scenario(run: Run) -> None:
        bob = await run.connected("bob")
        private = run.channel("private")
        await bob.call("subscribe", channel=private)
        assert (await bob.until("unsubscribed", private))["code"] == 103
        for do, command in (
            ("publish", {"channel": run.channel("stream"), "data": 1}),
            ("history", {"channel": private, "limit": 1}),
            ("presence", {"channel": private}),
        ):
            with pytest.raises(SdkError) as refused:
                await bob.call(do, **command)
            assert refused.value.code == 103, do
        await bob.subscribe(run.channel("chat"))
        assert not bob.saw("disconnected")
        assert len(bob.saw("connecting")) == 1

    await sdks.every(scenario)


async def test_ten_thousand_publications_in_order(sdks: Sdks) -> None:
    """Fails if one of ten thousand publications is lost, doubled or swapped on its way to any client."""
    channel = "stream:ten-thousand"

    async def listen(run: Run) -> Client:
        bob = await run.connected("bob")
        await bob.subscribe(channel)
        return bob

    runs = await sdks.every(listen)
    await runs[0][0].publish_all(channel, range(MANY))
    for run, bob in runs:
        await bob.until("publication", channel, count=MANY, within_s=60)
        assert numbers(bob, channel) == [*range(MANY)], run.sdk.name
        offsets = [each["offset"] for each in bob.saw("publication", channel)]
        assert offsets == [*range(offsets[0], offsets[0] + MANY)], run.sdk.name


async def test_what_cannot_be_recovered_is_said(sdks: Sdks) -> None:
    """Fails if a client that was away for longer than the history reaches is told that it has everything."""

    async def scenario(run: Run) -> None:
        channel = run.channel("chat")
        bob = await run.connected("bob")
        await bob.subscribe(channel)
        await run.publish(channel, {"n": 0})
        await bob.until("publication", channel)
        await bob.call("disconnect")
        await bob.until("disconnected")
        await run.publish_all(channel, range(1, 4))
        await run.cluster.api("history_remove", channel=channel)
        await bob.connect()
        again = await bob.until("subscribed", channel, count=2)
        assert (again["was_recovering"], again["recovered"]) == (True, False)
        await run.publish(channel, {"n": 4})
        await eventually(lambda: numbers(bob, channel) == [0, 4])

    await sdks.every(scenario)


async def test_presence(sdks: Sdks) -> None:
    """Fails if a channel's clients, who they are, or their coming and going are not told."""

    async def scenario(run: Run) -> None:
        channel = run.channel("chat")
        alice = await run.connected("alice", token=token(run.user("alice"), info={"name": "Alice"}))
        await alice.subscribe(channel, join_leave=True)
        bob = await run.connected("bob", token=token(run.user("bob"), info={"name": "Bob"}))
        await bob.subscribe(channel)
        of_bob = {
            "client": bob.saw("connected")[0]["id"],
            "user": run.user("bob"),
            "conn_info": {"name": "Bob"},
            "chan_info": None,
        }
        await eventually(lambda: of_bob in [each["info"] for each in alice.saw("join", channel)])
        found = (await bob.call("presence", channel=channel))["clients"]
        assert found[of_bob["client"]] == of_bob
        assert {info["user"] for info in found.values()} == {run.user("alice"), run.user("bob")}
        assert await bob.call("presence_stats", channel=channel) == {"num_clients": 2, "num_users": 2}

        await bob.call("disconnect")
        assert (await alice.until("leave", channel))["info"] == of_bob
        assert [*(await alice.call("presence", channel=channel))["clients"]] == [alice.saw("connected")[0]["id"]]

    await sdks.every(scenario)


async def test_history(sdks: Sdks) -> None:
    """Fails if a page of the history is not the one that was asked for: forward, backward, since a position."""

    async def scenario(run: Run) -> None:
        channel = run.channel("stream")
        await run.publish_all(channel, range(1, 26))
        bob = await run.connected("bob")

        async def page(limit: int, **options: Any) -> tuple[list[int], Fields]:
            found = await bob.call("history", channel=channel, limit=limit, **options)
            assert found["offset"] == 25
            assert [each["offset"] for each in found["publications"]] == [
                each["data"]["n"] for each in found["publications"]
            ]
            return [each["offset"] for each in found["publications"]], found

        offsets, found = await page(10)
        assert offsets == [*range(1, 11)]
        epoch = found["epoch"]
        assert (await page(10, since={"offset": 10, "epoch": epoch}))[0] == [*range(11, 21)]
        assert (await page(10, since={"offset": 20, "epoch": epoch}))[0] == [*range(21, 26)]
        assert (await page(3, reverse=True))[0] == [25, 24, 23]
        assert (await page(3, reverse=True, since={"offset": 23, "epoch": epoch}))[0] == [22, 21, 20]
        assert (await page(0))[0] == []
        assert (await page(-1))[0] == [*range(1, 26)]
        with pytest.raises(SdkError) as gone:
            await page(10, since={"offset": 3, "epoch": "an epoch that never was"})
        assert gone.value.code == 112

    await sdks.every(scenario)


async def test_rpc(sdks: Sdks) -> None:
    """Fails if a call does not reach the backend with the user's name, or its error not the client."""

    async def scenario(run: Run) -> None:
        bob = await run.connected("bob")
        answer = await bob.call("rpc", method="books", data={"title": "우주여행"})
        assert answer["data"] == {"method": "books", "user": run.user("bob"), "data": {"title": "우주여행"}}
        with pytest.raises(SdkError, match="there is no such book") as failed:
            await bob.call("rpc", method="fail", data={})
        assert failed.value.code == 1404

    await sdks.every(scenario)


async def test_tokens_are_refreshed_in_band(sdks: Sdks) -> None:
    """Fails if a connection or a subscription ends with its token, though the SDK has a new one."""

    async def scenario(run: Run) -> None:
        channel, user = run.channel("private"), run.user("bob")
        bob = await run.client("bob", tokens=[token(user, expires_in=lasts) for lasts in (2, 5, 600)])
        await bob.connect()
        await bob.subscribe(
            channel, tokens=[subscription_token(user, channel, expires_in=lasts) for lasts in (2, 5, 600)]
        )

        # The third is asked for only if the server took the second, and said how long it lasts.
        def tokens(of: str | None) -> int:
            return len([each for each in bob.saw("token") if each.get("channel") == of])

        await eventually(lambda: (tokens(None), tokens(channel)) == (3, 3), within_s=15)
        await run.publish(channel, {"n": 1})
        await bob.until("publication", channel)
        assert len(bob.saw("connecting")) == 1
        assert not bob.saw("unsubscribed", channel)
        assert not bob.saw("error")

    await sdks.every(scenario)


async def test_a_token_for_one_channel(sdks: Sdks) -> None:
    """Fails if a token opens a channel to another user, or another channel, or its info is not told to others."""

    async def scenario(run: Run) -> None:
        channel, user = run.channel("private"), run.user("bob")
        bob = await run.connected("bob")
        await bob.subscribe(channel, token=subscription_token(user, channel))
        await run.publish(channel, {"n": 1})
        await bob.until("publication", channel)

        eve = await run.connected("eve")
        await eve.call("subscribe", channel=channel, token=subscription_token(user, channel))
        other = f"{channel}-other"
        await bob.call("subscribe", channel=other, token=subscription_token(user, channel))
        if isinstance(run.cluster, Heliograph):
            assert (await eve.until("unsubscribed", channel))["code"] == 103
            assert (await bob.until("unsubscribed", other))["code"] == 103
            assert not bob.saw("disconnected")
        else:  # it ends the connection
            assert (await eve.until("disconnected"))["code"] == 3500
            assert (await bob.until("disconnected"))["code"] == 3500

    await sdks.every(scenario)


async def test_server_side_subscriptions(sdks: Sdks) -> None:
    """Fails if a channel of the token, or one that the server API adds, is not delivered, or not taken away."""

    async def scenario(run: Run) -> None:
        first, second, user = run.channel("private"), f"{run.channel('private')}-2", run.user("bob")
        bob = await run.connected("bob", token=token(user, channels=[first]))
        await bob.until("subscribed", first)
        await run.publish(first, {"n": 1})
        assert (await bob.until("publication", first))["offset"] == 1

        await run.cluster.api("subscribe", replica=ANOTHER, user=user, channel=second)
        await bob.until("subscribed", second)
        await run.publish(second, {"n": 2})
        await bob.until("publication", second)

        await run.cluster.api("unsubscribe", replica=ANOTHER, user=user, channel=second)
        await bob.until("unsubscribed", second)
        await run.publish(second, {"n": 3})
        await run.publish(first, {"n": 4})
        await bob.until("publication", first, count=2)
        assert numbers(bob, second) == [2]

    await sdks.every(scenario)


async def test_the_server_ends_a_subscription(sdks: Sdks) -> None:
    """Fails if a client that the server API took off a channel goes on to listen, or does not learn why."""

    async def scenario(run: Run) -> None:
        channel = run.channel("chat")
        bob = await run.connected("bob")
        await bob.subscribe(channel)
        await run.cluster.api("unsubscribe", replica=ANOTHER, user=run.user("bob"), channel=channel)
        assert (await bob.until("unsubscribed", channel))["code"] == 2000

    await sdks.every(scenario)


async def test_the_server_ends_a_connection(sdks: Sdks) -> None:
    """Fails if a client comes back after a code that means stay away, or does not after one that means come back."""

    async def scenario(run: Run) -> None:
        user = run.user("bob")
        bob = await run.connected("bob")
        await run.cluster.api("disconnect", replica=ANOTHER, user=user, disconnect={"code": 4001, "reason": "move"})
        connecting = await bob.until("connecting", count=2)
        assert (connecting["code"], connecting["reason"]) == (4001, "move")
        await bob.until("connected", count=2)

        await run.cluster.api("disconnect", replica=ANOTHER, user=user, disconnect={"code": 4501, "reason": "banned"})
        gone = await bob.until("disconnected")
        assert (gone["code"], gone["reason"]) == (4501, "banned")

        await bob.connect()
        await run.cluster.api("disconnect", replica=ANOTHER, user=user)
        assert (await bob.until("disconnected", count=2))["code"] == 3503

    await sdks.every(scenario)


async def test_deltas(sdks: Sdks) -> None:
    """Fails if a document that changes a little is not the same once it is put together from deltas."""
    versions = [
        {"lines": [f"line {line} of {version if line % 40 == 7 else 0}" for line in range(200)]}
        for version in range(6)
    ]

    async def scenario(run: Run) -> None:
        channel = run.channel("document")
        bob = await run.connected("bob")
        await bob.subscribe(channel, delta="fossil")
        plain = await run.connected("plain")
        await plain.subscribe(channel)
        for version in versions:
            await run.publish(channel, version)
        for client in (bob, plain):
            await client.until("publication", channel, count=len(versions))
            assert client.data(channel) == versions
        if run.sdk.driver in ("node", "chromium"):  # the one SDK that counts them
            assert (await bob.call("deltas", channel=channel))["count"] == len(versions) - 1

    await sdks.every(scenario, where=lambda sdk: sdk.can_delta)


async def test_a_message_to_a_user(sdks: Sdks) -> None:
    """Fails if what is sent to bob does not reach his SDK client on his own channel, before and after he is there."""
    if not isinstance(sdks.cluster, Heliograph):
        pytest.skip("Centrifugo has no such channel")

    async def scenario(run: Run) -> None:
        personal = f"#{run.user('bob')}"
        bob = await run.connected("bob")
        await bob.until("subscribed", personal)
        await run.publish(personal, {"n": 1})
        assert (await bob.until("publication", personal))["data"] == {"n": 1}

    await sdks.every(scenario)


async def test_tags_and_large_data(sdks: Sdks) -> None:
    """Fails if tags of a publication, or data larger than one read, do not arrive as they were published."""

    async def scenario(run: Run) -> None:
        channel = run.channel("stream")
        bob = await run.connected("bob")
        await bob.subscribe(channel)
        text = "우주여행고양이 " * 4_000
        await run.cluster.api("publish", replica=ANOTHER, channel=channel, data={"text": text}, tags={"kind": "long"})
        heard = await bob.until("publication", channel)
        assert (heard["data"], heard["tags"]) == ({"text": text}, {"kind": "long"})

    await sdks.every(scenario)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
async def test_recovery_on_another_replica(sdks: Sdks, by: signal.Signals) -> None:
    """Fails if a client whose replica dies or drains misses, doubles or swaps a publication of any channel.

    It comes last, as the replica is gone for a while.
    """
    await eventually(sdks.cluster.is_whole, within_s=20)

    async def listen(run: Run) -> Client:
        server_side = run.channel("stream") + "-server"
        bob = await run.connected("bob", token=token(run.user("bob"), expires_in=600, channels=[server_side]))
        await bob.until("subscribed", server_side)
        await bob.subscribe(run.channel("stream"))
        for channel in (run.channel("stream"), server_side):
            await run.publish_all(channel, range(10), replica=1)
        await bob.until("publication", server_side, count=10)
        await bob.until("publication", run.channel("stream"), count=10)
        return bob

    runs = await sdks.every(listen)
    assert ANOTHER not in await sdks.cluster.end_replicas_with_clients(len(runs), by)
    for run, _ in runs:
        for channel in (run.channel("stream"), run.channel("stream") + "-server"):
            await run.publish_all(channel, range(10, 50))
    for run, bob in runs:
        await bob.until("connected", count=2, within_s=20)
        for channel in (run.channel("stream"), run.channel("stream") + "-server"):
            again = await bob.until("subscribed", channel, count=2)
            assert again["was_recovering"], (run.sdk.name, channel)
            assert again["recovered"], (run.sdk.name, channel)
            await run.publish_all(channel, range(50, 60))
            await bob.until("publication", channel, count=60)
            assert numbers(bob, channel) == [*range(60)], (run.sdk.name, channel)
        assert not bob.saw("disconnected")
