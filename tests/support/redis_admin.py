"""A client of the test's own beside the program under test: to look at Redis, to publish, to cut connections."""

import asyncio
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis

from tests.support.cancelling import end
from tests.support.redis_answers import text


class RedisAdmin:
    """`async with RedisAdmin(url) as admin:` — one connection, which none of the answers below count."""

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url, single_connection_client=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.redis.aclose()

    async def publish(self, channel: str, payload: bytes | str) -> int:
        """As any other program would; how many connections Redis gave it to."""
        return int(await self.redis.publish(channel, payload))

    async def channels(self, namespace: str) -> set[str]:
        """The channels of a test that somebody listens on."""
        return {text(channel) for channel in await self.redis.pubsub_channels(f"{namespace}*")}

    async def subscribers(self, channel: str) -> int:
        [(_, count)] = await self.redis.pubsub_numsub(channel)
        return int(count)

    async def connections(self, kind: str = "") -> list[dict[str, Any]]:
        """All connections to this Redis but this one. `kind`: "pubsub" for listeners alone."""
        own_id = await self.redis.client_id()  # asked each time: a call that was cancelled costs the connection
        listed = await self.redis.client_list(_type=kind) if kind else await self.redis.client_list()
        return [client for client in listed if int(client["id"]) != own_id]

    async def cut_listeners(self) -> int:
        """CLIENT KILL TYPE pubsub."""
        return int(await self.redis.client_kill_filter(_type="pubsub"))


class Eavesdropper:
    """`async with Eavesdropper(url, channel) as heard` collects the envelopes on a bus channel: `heard.payloads`."""

    def __init__(self, url: str, channel: str) -> None:
        self._redis = Redis.from_url(url)
        self._channel = channel
        self.payloads: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._pubsub = self._redis.pubsub()
        await self._pubsub.subscribe(self._channel)
        assert (await self._pubsub.get_message(timeout=5))["type"] == "subscribe"
        self._task = asyncio.create_task(self._listen(), name="eavesdropper")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await end(self._task)
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await self._redis.aclose()

    async def _listen(self) -> None:
        while True:
            message = await self._pubsub.get_message(timeout=None)
            if message is not None and message["type"] == "message":
                self.payloads += message["data"].split(b"\n")
