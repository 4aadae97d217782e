"""What redis-py says in one of several types, in the one that it has here: answers that are not decoded."""

from typing import cast

from redis.asyncio import Redis

Entry = tuple[bytes, dict[bytes, bytes]]


def text(answer: bytes | str | None) -> str:
    assert isinstance(answer, bytes)
    return answer.decode()


async def entries(client: Redis, key: str) -> list[Entry]:
    """All that is in a stream: the entries' ids and fields."""
    return cast("list[Entry]", await client.xrange(key))
